"""The benchmarks run, and what they compare computes the same."""

import importlib
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from members import members
from random_models import fast_jit

from resnet_jax import create_model
from resnet_jax.models.counting import count_parameters

BENCHMARKS = pathlib.Path(__file__).parents[1] / 'benchmarks'
sys.path.insert(0, str(BENCHMARKS))
harness, peers, programs, train_step = map(
    importlib.import_module, ('harness', 'peers', 'programs', 'train_step')
)

# Our row and stages; the peer's arguments: basic blocks with option A and projections, bottlenecks.
NETS = {
    'cifar': ('cifar_resnet8', (2, 1), (False, True)),
    'basic': ('resnet18', (1, 2), (False, False)),
    'bottleneck': ('resnet50', (2, 1), (True, False)),
}
CLASSES = 5


def peers_path(path, stage_sizes, convolutions):
    """What the plain Flax net calls one of our variables."""
    collection, *parts, name, leaf = path
    if name == 'head':
        return collection, 'Dense_0', leaf
    kind = 'Conv' if 'conv' in name else 'BatchNorm'
    if parts == ['stem']:
        return collection, f'{kind}_0', leaf
    stage, block = (int(part.removeprefix('stage').removeprefix('block')) for part in parts)
    number = convolutions + 1 if 'shortcut' in name else int(name[-1])
    before = sum(stage_sizes[: stage - 1])
    return collection, f'Block_{before + block - 1}', f'{kind}_{number - 1}', leaf


@pytest.mark.slow
@pytest.mark.parametrize('net', NETS)
def test_plain_flax_computes_what_ours_does(net):
    """Same parameters, logits, losses along two steps, and variables after them."""
    name, stage_sizes, (bottleneck, is_cifar) = NETS[net]
    model = create_model(name, CLASSES, stage_sizes=stage_sizes)
    peer = peers.ResNet(stage_sizes, bottleneck, is_cifar, CLASSES)
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    labels = jnp.array([1, 4, 0, 1])
    variables = fast_jit(lambda: model.init(jax.random.key(1), images, train=False))()

    def theirs(variables):
        flat = traverse_util.flatten_dict(variables)
        convolutions = 3 if bottleneck else 2
        renamed = {peers_path(p, stage_sizes, convolutions): x for p, x in flat.items()}
        assert len(renamed) == len(flat)
        return traverse_util.unflatten_dict(renamed)

    shapes = jax.eval_shape(lambda: peer.init(jax.random.key(1), images, train=False))
    assert jax.tree.map(jnp.shape, theirs(variables)) == jax.tree.map(jnp.shape, dict(shapes))
    optimizer = programs.sgd()
    results = []
    for module, start in ((model, variables), (peer, theirs(variables))):
        apply = programs.linen_functions(module)[1]
        logits = fast_jit(lambda p, s, apply=apply: apply(p, s, images, False)[0])(
            start['params'], start['batch_stats']
        )
        step = fast_jit(programs.training_step(apply, optimizer))
        carry, losses = (start['params'], start['batch_stats'], optimizer.init(start['params'])), []
        for _ in range(2):
            *carry, loss = step(*carry, images, labels)
            losses.append(float(loss))
        results.append((logits, losses, {'params': carry[0], 'batch_stats': carry[1]}))
    (logits, losses, after), (their_logits, their_losses, their_after) = results
    np.testing.assert_allclose(logits, their_logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(losses, their_losses, rtol=1e-4)
    assert losses[0] != losses[1]
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-2, atol=1e-3),
        theirs(after),
        dict(their_after),
    )


def shapes_of(init):
    return jax.eval_shape(init, jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))[0]


PEERS = ['resnet18', 'resnet50', 'cifar_resnet20', 'cifar_resnet56']


@pytest.mark.parametrize('name', members(PEERS, PEERS[1:]))
def test_peers_have_as_many_parameters(name):
    ours = count_parameters(shapes_of(programs.linen_functions(create_model(name, 10))[0]))
    peer = peers.flax_net(name, 10)
    assert count_parameters(shapes_of(programs.linen_functions(peer)[0])) == ours


@pytest.mark.parametrize('name', ['resnet18', pytest.param('resnet50', marks=pytest.mark.slow)])
@pytest.mark.usefixtures('standard_promotion')
def test_haiku_has_as_many_parameters(name):
    pytest.importorskip('haiku')
    net = peers.haiku_net(name, 10)
    shapes = shapes_of(lambda images: net.init(jax.random.key(0), images, True))
    ours = count_parameters(shapes_of(programs.linen_functions(create_model(name, 10))[0]))
    assert count_parameters(shapes) == ours


@pytest.mark.parametrize('name', ['resnet18', 'cifar_resnet20'])
def test_torch_has_as_many_parameters(name):
    torch = pytest.importorskip('torch')
    threads = torch.get_num_threads()
    net = peers.torch_net(name, 10)
    torch.set_num_threads(threads)
    ours = count_parameters(shapes_of(programs.linen_functions(create_model(name, 10))[0]))
    assert sum(p.numel() for p in net.parameters()) == ours


def test_repetitions_take_turns():
    seen = []
    programs_ = {name: lambda name=name: seen.append(name) or len(seen) for name in 'ab'}
    assert harness.in_turn(programs_, 2) == {'a': [1, 3], 'b': [2, 4]}
    assert seen == ['a', 'b', 'a', 'b']
    assert harness.spread([3.0, 1.0, 9.0]) == {
        **{'median': 3.0, 'min': 1.0, 'max': 9.0},
        'all': [3.0, 1.0, 9.0],
    }


def test_ratios_are_those_within_a_repetition():
    ratios = train_step.ratios({'ours': [1.0, 2.0, 4.0], 'flax': [2.0, 2.0, 2.0]})
    assert list(ratios) == ['ours / flax']  # images a second: seconds the other way round
    assert ratios['ours / flax']['all'] == [2.0, 1.0, 0.5]


def test_tables_are_aligned():
    assert harness.table(['name', 'n'], [['a', 1], ['long name', 1000]]).splitlines() == [
        'name            n',
        'a               1',
        'long name    1000',
    ]


def test_a_worker_answers_fails_and_ends(tmp_path):
    script = tmp_path / 'worker.py'
    script.write_text(
        f'import sys, time\nsys.path.insert(0, {str(BENCHMARKS)!r})\nimport harness\n'
        'def answer(question):\n'
        '    print("chatter")\n'
        '    if question == "sleep": time.sleep(60)\n'
        '    return question + 1 if question != 3 else sys.exit(7)\n'
        'harness.serve(answer)\n'
    )
    worker = harness.start_worker([str(script)])
    assert [harness.ask(worker, 1), harness.ask(worker, 2)] == [2, 3]
    with pytest.raises(RuntimeError, match='ended with code 7 when asked 3'):
        harness.ask(worker, 3)
    harness.stop_worker(worker)
    slow = harness.start_worker([str(script)])
    with pytest.raises(RuntimeError, match='ended with code -9'):
        harness.ask(slow, 'sleep', timeout=0.1)
    harness.stop_worker(slow)


def run(script, *arguments, json_file):
    """(what a benchmark printed, what it wrote)."""
    command = [sys.executable, str(BENCHMARKS / script), *arguments, '--json', str(json_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = json.loads(json_file.read_text())
    assert written['command'].startswith(f'python benchmarks/{script}')
    assert {'commit', 'cpus', 'date', 'device', 'environment', 'versions'} <= written.keys()
    assert {'python', 'jax'} <= written['versions'].keys()
    return done.stdout, written


@pytest.mark.slow
def test_train_step(tmp_path):
    pair = ['--cases', 'cifar_resnet8:2:8', '--peers', 'ours', 'flax']
    out, written = run(
        'train_step.py', *pair, '--steps=1', '--repetitions=2', json_file=tmp_path / 'f.json'
    )
    assert 'plain Flax' in out and 'ours / flax = ' in out
    found = written['cases']['cifar_resnet8:2:8']['programs']
    assert found['ours']['parameters'] == found['flax']['parameters'] == 75_290
    assert found['ours']['images_per_second'] > 0 and found['flax']['loss'] > 0


@pytest.mark.slow
def test_memory(tmp_path):
    cases = ['--cases', 'cifar_resnet8:2:8', 'cifar_resnet8:64:8']
    out, written = run('memory.py', *cases, json_file=tmp_path / 'f.json')
    assert 'with rematerialisation over without' in out
    small, large = (written['figures'][case]['compiled_bytes'] for case in cases[1:])
    remat = written['figures']['cifar_resnet8:64:8 remat']['compiled_bytes']
    assert small < large and remat < large
    assert small > 8 * 75_290  # parameters and momentum
    assert all(figures['step_seconds'] > 0 for figures in written['figures'].values())


@pytest.mark.slow
def test_compile_time(tmp_path):
    small = ['--model=cifar_resnet14', '--batch-size=2', '--repetitions=1']
    out, written = run('compile_time.py', *small, json_file=tmp_path / 'f.json')
    assert 'compile_seconds: scanned / looped' in out
    assert written['looped']['loss'] == pytest.approx(written['scanned']['loss'], rel=1e-4)


@pytest.mark.slow
def test_growth(tmp_path):
    figure = tmp_path / 'growth.png'
    small = ['--tiny', '--repetitions=1', '--steps=1', f'--figure={figure}']
    out, written = run('growth.py', *small, json_file=tmp_path / 'f.json')
    assert 'training, images/s' in out
    assert figure.read_bytes().startswith(b'\x89PNG')
    assert written['figures']['width 16']['train']['median'] > 0


@pytest.mark.slow
def test_gpu_tiny_on_whatever_is_here(tmp_path):
    file = tmp_path / 'f.json'
    out, written = run('gpu.py', '--quick', json_file=file)
    sections = ('copying', 'training step', 'inference', 'epoch', 'in one call', 'in one program')
    for section in (*sections, 'flags of XLA'):
        assert section in out
    assert written['figures']['resnet']['train 4 flax']['parameters'] == 75_290
    lost = written['figures']['variants'].pop('as it is')  # as if the run had been cut off
    file.write_text(json.dumps(written))
    again, resumed = run('gpu.py', '--quick', '--resume', json_file=file)
    lines = again.partition('\n\n')[0].splitlines()
    assert len(lines) == 1 and lines[0].startswith('variants: as it is')  # nothing else again
    found = resumed['figures']['variants'].pop('as it is')
    assert found['parameters'] == lost['parameters'] and found['images_per_second'] > 0
    assert resumed['figures'] == written['figures'] and len(resumed['earlier']) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ('script', 'arguments', 'text'),
    [
        ('known_facts.py', ['shortcuts', '--steps=2', '--seeds=1'], 'scaling 0.5'),
        ('load_weights.py', ['--repetitions=1'], 'ours, .pth'),
        ('weight_parity.py', ['--models', 'cifar_resnet20', '--images=1'], '100 %'),
    ],
)
def test_others(tmp_path, script, arguments, text):
    if script != 'known_facts.py':
        pytest.importorskip('torch')
    assert text in run(script, *arguments, json_file=tmp_path / 'f.json')[0]
