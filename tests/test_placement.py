"""Where a step runs does not change what it computes: 8 simulated devices against one."""

import functools
import json
import pathlib
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from placement_runs import DEVICES, FIELDS, IN_PROCESSES, NO_BATCH_NORM, QUICK, RUNS, take_steps
from placements import assert_same, made
from running import ROOT, differing, flags, free_port, load_state, start, tiny

from resnet_jax.models import InputError
from resnet_jax.training import loop, placement


@pytest.fixture(scope='module')
def eight(tmp_path_factory):
    """The runs on 8 devices: name -> (state after step 1, after step 5, sums of figures)."""
    folder = made(tmp_path_factory, 'eight', [[]])
    return held_runs(folder, QUICK), folder


@pytest.fixture(scope='module')
def all_eight(eight, tmp_path_factory):
    """The same of all runs."""
    folder = made(tmp_path_factory, 'eight_rest', [['rest']])
    return {**eight[0], **held_runs(folder, [name for name in RUNS if name not in QUICK])}


def held_runs(folder, names):
    return {name: pickle.loads((folder / f'{name}.pkl').read_bytes()) for name in names}


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory):
    """The same of 2 processes with 2 devices each."""
    place = f'127.0.0.1:{free_port()}'
    folder = made(tmp_path_factory, 'two_processes', [[place, '2', '0'], [place, '2', '1']])
    return held_runs(folder, IN_PROCESSES)


@functools.cache
def on_one_device(*fields):
    """The same in this process, on one device."""
    _, first, states, _, totals = take_steps(dict(fields))
    return first, states[0], states[-1], totals


def assert_as_on_one_device(run):
    _, last, sums = run
    _, _, expected, expected_sums = on_one_device()
    assert_same(last, expected)
    assert sums['n'] == 5 * 32
    np.testing.assert_allclose(sums['loss'], expected_sums['loss'], rtol=1e-5)


@pytest.mark.parametrize('mode', IN_PROCESSES)
def test_synced_batch_norm_is_that_of_one_device(mode, eight):
    assert_as_on_one_device(eight[0][mode])


@pytest.mark.slow
def test_several_steps_in_a_call_are_those_of_one_device(all_eight):
    assert_as_on_one_device(all_eight['shard_map steps at once'])


@pytest.mark.slow
@pytest.mark.parametrize('name', IN_PROCESSES)
def test_two_processes_are_one_device(name, two_processes):
    assert_as_on_one_device(two_processes[name])


@pytest.mark.slow
def test_dropout_under_jit_does_not_depend_on_the_devices(all_eight):
    fields = tuple(RUNS['jit dropout'].items())
    assert_same(all_eight['jit dropout'][1], on_one_device(*fields)[2])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['jit accumulate', 'pmap accumulate'])
def test_accumulated_gradients_are_those_of_the_whole_batch(name, all_eight):
    """On 8 devices in two pieces, against one device at once; without batch norm."""
    assert_same(all_eight[name][1], on_one_device(*NO_BATCH_NORM.items())[2])


def test_each_device_keeps_its_part_of_the_optimizers_state(eight):
    held = json.loads((eight[1] / 'held.json').read_text())
    # Widths of 4 do not divide by 8; the larger arrays do.
    assert held['jit sharded optimizer'] < 0.5 * held['jit'] == 0.5 * held['pmap']


@pytest.mark.slow
def test_per_replica_batch_norm_means_the_same_in_every_mode(all_eight):
    assert_same(all_eight['shard_map per replica'][1], all_eight['pmap per replica'][1])


@pytest.mark.slow
@pytest.mark.parametrize('name', ['shard_map per replica', 'shard_map groups'])
def test_batch_norms_mean_the_same_in_every_mode(name, all_eight):
    kind = name.partition(' ')[2]
    assert_same(all_eight[name][1], all_eight[f'jit {kind}'][1])


@pytest.mark.slow
def test_groups_are_those_of_one_device(all_eight):
    expected = on_one_device(('parallel.batch_norm', 'groups:2'))[2]
    assert_same(all_eight['jit groups'][1], expected)


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['shard_map', 'pmap'])
def test_per_replica_statistics_by_hand(mode, request):
    """The stem's norm after one step: means and variances of each device's 4 images, averaged."""
    run, first, *_ = take_steps({})
    batch = next(iter(run.inputs.train_batches(0, 1)))
    from resnet_jax.training.build import make_prepare

    prepare = make_prepare(run.inputs.config, run.inputs.preprocessing, run.inputs.config.seed)
    positions = jnp.arange(32)
    pixels = jnp.asarray(run.inputs.arrays['image'][batch['index']])
    labels = jnp.asarray(run.inputs.arrays['label'][batch['index']])
    images, _ = prepare(pixels, labels, jnp.asarray(0), positions)
    kernel = first.params['stem']['conv1']['kernel']
    out = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), [(1, 1)] * 2, dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    shares = np.asarray(out, np.float64).reshape(DEVICES, -1, out.shape[-1])
    runs, _ = request.getfixturevalue('eight')
    runs = request.getfixturevalue('all_eight') if mode == 'pmap' else runs
    found = runs[f'{mode} per replica'][0].batch_stats['stem']['norm1']
    np.testing.assert_allclose(found['mean'], 0.1 * shares.mean((0, 1)), atol=1e-6)
    expected = 0.9 + 0.1 * shares.var(1).mean(0)
    np.testing.assert_allclose(found['var'], expected, rtol=1e-5)
    # The variance of the whole batch is larger: the means differ between the devices.
    whole = 0.9 + 0.1 * shares.reshape(-1, shares.shape[-1]).var(0)
    assert (whole - found['var'] > 2e-6).all()


# Checkpoints


CONTINUED = {**FIELDS, 'train.steps': '8', 'checkpoint.every': '4', 'train.eval_every': '0'}


@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_continues_on_one_and_the_reverse(tmp_path, capsys):
    """Saved under pmap, continued under jit, and the reverse; all end alike."""
    eight, one = tmp_path / 'eight', tmp_path / 'one'

    def train_on_eight(folder):
        flag = (
            f'--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0'
        )
        process = start(
            'train',
            *flags({**CONTINUED, 'parallel.mode': 'pmap'}),
            *('--workdir', folder),
            env={'XLA_FLAGS': flag},
        )
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return err

    loop.train(tiny(CONTINUED), one)
    assert '8 x cpu' in train_on_eight(eight)
    expected = load_state(one)
    assert int(expected.step) == 8
    assert_same(load_state(eight), expected)
    for folder in (eight, one):
        shutil.rmtree(folder / 'checkpoints' / '8')
        (folder / 'summary.json').unlink()
        assert differing(load_state(folder).params, expected.params)
    capsys.readouterr()
    loop.train(tiny(CONTINUED), eight)
    for said in (capsys.readouterr().err, train_on_eight(one)):
        assert 'continues after step 4' in said
    for folder in (eight, one):
        assert_same(load_state(folder), expected)


# Bad input


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'parallel.mode': 'pjit'}, r"unknown parallel.mode 'pjit'; did you mean 'jit'"),
        ({'parallel.batch_norm': 'sync'}, r"unknown parallel.batch_norm 'sync'; did you mean"),
        ({'parallel.devices': 3}, r'parallel.devices is 3; there are 1 devices here'),
        ({'parallel.batch_norm': 'groups:5'}, r'groups:5 does not divide the 32 examples'),
        ({'optim.accumulate': 5}, r'optim.accumulate=5 does not divide'),
        (
            {'optim.accumulate': 4, 'parallel.batch_norm': 'groups:32'},
            r'groups:32 does not divide the 8 examples',
        ),
        (
            {'parallel.mode': 'pmap', 'parallel.shard_optimizer': True},
            r'shard_optimizer goes with parallel.mode=jit',
        ),
    ],
)
def test_impossible_placements_are_refused(fields, message, tmp_path):
    with pytest.raises(InputError, match=message):
        loop.train(tiny(fields), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_modes_are_those_of_the_documentation():
    text = pathlib.Path(ROOT / 'docs' / 'devices.md').read_text()
    assert all(f'`{name}`' in text for name in (*placement.MODES, *placement.BATCH_NORMS))
