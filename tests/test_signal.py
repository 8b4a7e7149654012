"""Signal propagation, against NumPy on the layers' outputs and gradients of the whole network."""

import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_models import assert_close, fast_jit, random_images, random_variables
from running import STREAMED, differing, load_state, tiny

from resnet_jax import create_model
from resnet_jax.analysis import signal
from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.figures.signal import draw
from resnet_jax.analysis.networks import Network, fresh_network
from resnet_jax.analysis.parts import chain
from resnet_jax.errors import InputError
from resnet_jax.experiments import seeds
from resnet_jax.inference.features import intermediates
from resnet_jax.models.block import ResidualBlock
from resnet_jax.models.stages import stack_blocks
from resnet_jax.records.writers import read_metrics
from resnet_jax.training import build, loop, start
from resnet_jax.training import signal as training_signal
from resnet_jax.training.step import named_key

SIZE, CLASSES, N = 8, 5, 7
SMALL = {'num_classes': CLASSES, 'stage_sizes': (2, 1), 'width': 4, 'stem_width': 4}
BLOCKS = ['stage1/block1', 'stage1/block2', 'stage2/block1']
LABELS = np.arange(N) % CLASSES


def make(name, **overrides):
    model = create_model(name, **{**SMALL, **overrides})
    return model, random_variables(model, (1, SIZE, SIZE, 3))


def in_two_batches(images):
    """Four and three examples, the second batch padded."""
    more = jnp.concatenate([images[4:], jnp.ones((1, *images.shape[1:]))])
    labels = np.concatenate([LABELS[4:], [0]])
    yield Batch(images[:4], LABELS[:4], np.ones(4, bool))
    yield Batch(more, labels, np.arange(4) < 3)


@pytest.fixture(scope='module')
def images():
    return random_images((N, SIZE, SIZE, 3))


@pytest.fixture(scope='module')
def original(images):
    model, variables = make('cifar_resnet20')
    found = signal.study(Network(chain(model, SIZE), variables), in_two_batches(images))
    return model, variables, found


def close(found, expected):
    assert found == pytest.approx(expected, rel=2e-4)


def channel_figures(x):
    x = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    return {
        'std': x.std(),
        'squared_mean': (x.mean(0) ** 2).mean(),
        'variance': x.var(0).mean(),
    }


def test_responses_of_an_original_net_are_those_of_its_norms(original, images):
    model, variables, found = original
    parts = ['stem', *BLOCKS]
    layers = ['stem/norm1', *(f'{block}/norm{i}' for block in BLOCKS for i in (1, 2))]
    expected = intermediates(model, variables, images, layers)
    names = [layer.replace('norm', 'conv') for layer in layers]
    assert list(found['responses']) == names and len(parts) == 4
    for name, layer in zip(names, layers, strict=True):
        close(found['responses'][name], np.asarray(expected[layer], np.float64).std())


def test_outputs_branches_and_shortcuts(original, images):
    model, variables, found = original
    layers = ['stem', *BLOCKS, *(f'{block}/norm2' for block in BLOCKS)]
    x = intermediates(model, variables, images, layers)
    # Option A: every second pixel, two zero channels on both sides.
    pad = ((0, 0), (0, 0), (0, 0), (2, 2))
    shortcuts = [
        np.asarray(x['stem']),
        np.asarray(x['stage1/block1']),
        np.pad(np.asarray(x['stage1/block2'])[:, ::2, ::2], pad),
    ]
    for block, shortcut in zip(BLOCKS, shortcuts, strict=True):
        branch = np.asarray(x[f'{block}/norm2'])
        for kind, value in (('output', x[block]), ('branch', branch), ('shortcut', shortcut)):
            for figure, number in channel_figures(value).items():
                close(found[kind][block][figure], number)
        close(found['ratio'][block], branch.std() / shortcut.std())


def whole_gradients(model, variables, images, train=False):
    """Of the summed loss of each batch: at the blocks' inputs (zeros are added), parameters."""

    def loss(zeros, params, images, labels):
        def add_zero(run, args, kwargs, context):
            if context.method_name == '__call__' and isinstance(context.module, ResidualBlock):
                args = (args[0] + zeros['/'.join(context.module.path)], *args[1:])
            return run(*args, **kwargs)

        with nn.intercept_methods(add_zero):
            logits = model.apply(
                {**variables, 'params': params},
                images,
                train=train,
                mutable=['batch_stats'] if train else False,
            )
        logits = logits[0] if train else logits
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    shapes = {part.name: part.inputs for part in chain(model, SIZE).blocks}
    zeros = {name: jnp.zeros((len(images), *shape)) for name, shape in shapes.items()}
    run = fast_jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return run(zeros, variables['params'], images, LABELS[: len(images)])


def norm(tree):
    return np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in jax.tree.leaves(tree)))


def compare_gradients(found, expected, n):
    value, (at_inputs, at_params) = expected
    close(found['loss'], float(value) / n)
    for block in BLOCKS:
        stage, number = block.split('/')
        close(found['gradient'][block], norm(at_inputs[block]) / np.sqrt(n))
        close(found['parameter_gradient'][block], norm(at_params[stage][number]) / n)


def test_gradients_of_a_trained_net(original, images):
    model, variables, found = original
    assert found['statistics'] == 'running'
    compare_gradients(found, whole_gradients(model, variables, images), N)


@pytest.mark.slow
def test_a_fresh_net_takes_the_statistics_of_the_batch(images):
    model = create_model('cifar_resnet20', **SMALL, branch_dropout=0.5, dropout=0.5)
    net = fresh_network(model, SIZE, 3, seed=4)
    found = signal.study(net, [Batch(images, LABELS, np.ones(N, bool))])
    # Without dropout, which draws nothing here.
    plain = create_model('cifar_resnet20', **SMALL)
    variables = plain.init(named_key(4, 'params'), jnp.zeros((1, SIZE, SIZE, 3)), train=False)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-6), net.variables, variables)
    compare_gradients(found, whole_gradients(plain, variables, images, train=True), N)
    assert found['statistics'] == 'batch'
    # Every norm gives its batch deviation 1, up to epsilon.
    assert list(found['responses'].values()) == pytest.approx([1.0] * 7, rel=2e-3)


def test_padding_does_not_reach_the_statistics_of_a_batch(images):
    model = create_model('cifar_resnet20', **SMALL)
    net = fresh_network(model, SIZE, 3, seed=0)
    padded = Batch(images, LABELS, np.arange(N) < 4)
    kept = Batch(images[:4], LABELS[:4], np.ones(4, bool))
    assert signal.study(net, [padded]) == signal.study(net, [kept])


def test_responses_of_a_preactivation_net_are_those_of_its_convolutions(images):
    """Here with its blocks in a scan."""
    model, variables = make('cifar_preact_resnet20')
    layers = ['stem/conv1', *(f'{block}/conv{i}' for block in BLOCKS for i in (1, 2))]
    expected = intermediates(model, variables, images, layers)
    model, variables = model.clone(scan_blocks=True), stack_blocks(variables)
    found = signal.study(Network(chain(model, SIZE), variables), in_two_batches(images))
    assert list(found['responses']) == layers
    for name in layers:
        close(found['responses'][name], np.asarray(expected[name], np.float64).std())
    assert list(found['ratio']) == BLOCKS


@pytest.mark.slow
def test_what_a_bottleneck_has(images):
    model, variables = make('cifar_resnet164')
    batch = Batch(images, LABELS, np.ones(N, bool))
    found = signal.study(Network(chain(model, SIZE), variables), [batch])
    convs = [f'{block}/conv{i}' for block in BLOCKS for i in (1, 2, 3)]
    assert list(found['responses']) == ['stem/conv1', *convs]  # no shortcut_conv


def test_what_a_plain_net_has(images):
    model, variables = make('cifar_plain20')
    batch = Batch(images, LABELS, np.ones(N, bool))
    found = signal.study(Network(chain(model, SIZE), variables), [batch])
    assert found['ratio'] == found['branch'] == {} and list(found['gradient']) == BLOCKS
    assert set(draw(found, [], 'plain')) == {'responses', 'blocks', 'propagation'}


@pytest.mark.slow
def test_a_branch_that_starts_at_zero(images):
    model = create_model('cifar_resnet20', **SMALL, zero_init_last=True)
    net = fresh_network(model, SIZE, 3, seed=0)
    found = signal.study(net, [Batch(images, LABELS, np.ones(N, bool))])
    assert list(found['ratio'].values()) == [0.0] * 3
    draw({**found, 'fresh': found}, [], 'zero')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['cifar_resnet20', 'cifar_preact_resnet20', 'cifar_plain20'])
def test_a_training_step_measures_what_the_analysis_does(name, images):
    model, variables = make(name, stochastic_depth=0.5, dropout=0.5)
    loss = optax.softmax_cross_entropy_with_integer_labels
    measured = fast_jit(training_signal.make_signal(model, loss))(variables, images, LABELS)
    found = training_signal.in_order(model, measured)
    net = Network(chain(model, SIZE), variables, own_statistics=True)
    expected = signal.study(net, [Batch(images, LABELS, np.ones(N, bool))])
    for block in BLOCKS:
        close(found[f'gradient/{block}'], expected['gradient'][block])
        close(found[f'output_std/{block}'], expected['output'][block]['std'])
        if name != 'cifar_plain20':
            close(found[f'ratio/{block}'], expected['ratio'][block])
    assert len(found) == (6 if name == 'cifar_plain20' else 9)


def test_figures_are_in_the_order_of_the_blocks():
    model = create_model('cifar_resnet110')
    names = training_signal.blocks(model)
    assert names == list(chain(model, 32).names)
    found = training_signal.in_order(model, {f'gradient/{k}': jnp.zeros(()) for k in sorted(names)})
    assert list(found) == [f'gradient/{name}' for name in names]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A run that does not measure, and one that does."""
    folder = tmp_path_factory.mktemp('runs')
    fields = {'augment.transforms': 'pad_crop', 'model.stage_sizes': '(2,)', 'train.eval_every': 0}
    loop.train(tiny(fields), folder / 'off')
    fields['log.signal_every'] = 5
    loop.train(tiny(fields), folder / 'on')
    return folder


@pytest.mark.slow
def test_measuring_changes_no_bit_of_the_training(runs):
    assert not differing(load_state(runs / 'off'), load_state(runs / 'on'))


def test_metrics_hold_the_signal(runs):
    lines = signal.over_training(read_metrics(runs / 'on'))
    assert [step for step, _ in lines] == [5, 10]
    kinds = ('ratio', 'output_std', 'gradient')
    expected = [f'{kind}/stage1/block{i}' for kind in kinds for i in (1, 2)]
    for _, figures in lines:
        assert list(figures) == expected and all(x > 0 for x in figures.values())
    assert not signal.over_training(read_metrics(runs / 'off'))


@pytest.mark.slow
def test_a_run_is_measured_on_the_batch_of_its_step():
    """The figures after the first step, from the examples that this step took."""
    config = tiny({'log.signal_every': 1, 'augment.transforms': 'pad_crop', **STREAMED})
    run = build.build_run(config)
    state = run.init_state()
    _, _, batches = next(run.dispatches(0))
    batch = {name: x[0] for name, x in batches.items()}
    after = state.replace(step=jnp.ones((), jnp.int32))
    found = run.signal(run.seed, after, None, batch)
    model = start.build_model(config.model, 10)
    # Augmented as in that step.
    prepare = build.make_prepare(config, run.inputs.preprocessing, config.seed)
    labels, positions = jnp.asarray(batch['label']), jnp.arange(len(batch['label']))
    images, _ = prepare(jnp.asarray(batch['image']), labels, jnp.zeros((), jnp.int32), positions)
    net = Network(
        chain(model, images.shape[1], 1),
        {'params': state.params, 'batch_stats': state.batch_stats},
        own_statistics=True,
    )
    expected = signal.study(net, [Batch(images, batch['label'], np.ones(len(images), bool))])
    close(found['gradient/stage1/block1'], expected['gradient']['stage1/block1'])
    close(found['ratio/stage1/block1'], expected['ratio']['stage1/block1'])


@pytest.mark.slow
def test_several_steps_at_a_time_are_measured_after_the_last(tmp_path):
    fields = {'train.steps_per_dispatch': 4, 'log.signal_every': 3, 'optim.accumulate': 2}
    fields |= {'train.eval_every': 12}
    loop.train(tiny(fields), tmp_path)
    assert [step for step, _ in signal.over_training(read_metrics(tmp_path))] == [4, 8, 12]


def test_several_processes_and_seeds(monkeypatch, tmp_path):
    config = tiny({'log.signal_every': 5})
    run = build.build_run(config)
    assert not seeds._can_share_a_program(run, [tmp_path / 'a', tmp_path / 'b'])
    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    with pytest.raises(InputError, match=r'log\.signal_every measures in one process'):
        build.build_run(config, run.inputs)


@pytest.mark.slow
def test_the_command(runs, ask):
    folder = runs / 'on'
    found = ask('analyze', 'signal', '--workdir', folder, '--limit', 40, '--init', '--seed', 3)
    names = ['stem/conv1', *(f'stage1/block{i}/conv{j}' for i in (1, 2) for j in (1, 2))]
    for net in (found, found['fresh']):
        assert list(net['responses']) == names
        for kind in ('ratio', 'gradient', 'parameter_gradient', 'output', 'branch'):
            assert list(net[kind]) == ['stage1/block1', 'stage1/block2']
    assert [each['step'] for each in found['training']] == [5, 10]
    out = folder / 'analysis' / 'signal'
    for name in ('responses.png', 'blocks.png', 'propagation.svg', 'training.png'):
        assert (out / name).stat().st_size > 1000
    assert json.loads((out / 'signal.json').read_text()) == found
