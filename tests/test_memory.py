"""Blocks computed again give the same in less memory; what is said of memory is what is taken."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import fast_jit, loss_and_all, random_images, random_variables, replace
from running import tiny

from resnet_jax.cli import main
from resnet_jax.models import create_model
from resnet_jax.models.cpu.compiler import CPU_OPTIONS
from resnet_jax.models.resnet import ResNet
from resnet_jax.training import loop, memory

SHAPES = functools.partial(jax.tree.map, jnp.shape)


def small(**settings):
    design = replace(shortcut='zero_pad', branch_dropout=0.2)
    fields = {'stem': 'cifar', 'stem_width': 4, 'width': 4, 'dropout': 0.2}
    return ResNet((2, 3), design, 3, **fields, **settings)


@pytest.mark.slow
@pytest.mark.parametrize('rate', [0.0, 0.5], ids=['sure', 'stochastic_depth'])
@pytest.mark.parametrize('scan', [False, True], ids=['looped', 'scanned'])
def test_recomputed_blocks_change_nothing(scan, rate):
    """Losses, statistics, logits and gradients, with the same draws of what drops."""
    kept, recomputed = (
        small(scan_blocks=scan, stochastic_depth=rate, remat=remat) for remat in (False, True)
    )
    images = random_images((4, 8, 8, 3))
    variables = random_variables(kept, images.shape)
    other = jax.eval_shape(lambda: recomputed.init(jax.random.key(0), images, train=False))
    assert SHAPES(other) == SHAPES(variables)

    @fast_jit
    def run(variables, key):
        return [
            (
                loss_and_all(model, variables, images, rngs={'dropout': key}),
                model.apply(variables, images, train=False),
            )
            for model in (kept, recomputed)
        ]

    expected, found = run(variables, jax.random.key(1))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, found, expected)
    # The test would see other draws: another key gives another loss.
    assert abs(run(variables, jax.random.key(2))[1][0][0] - expected[0][0]) > 1e-3


def temporary_bytes(model, images):
    def loss(params, rest):
        logits, _ = model.apply(
            {**rest, 'params': params}, images, train=True, mutable=['batch_stats']
        )
        return logits.sum()

    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    rest = {'batch_stats': variables['batch_stats']}
    fast = {**CPU_OPTIONS, 'xla_backend_optimization_level': 0}
    jitted = jax.jit(jax.grad(loss), compiler_options=fast)
    compiled = jitted.lower(variables['params'], rest).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    'scan', [pytest.param(False, marks=pytest.mark.slow), True], ids=['looped', 'scanned']
)
def test_recomputed_blocks_save_memory(scan):
    """Of a block of two layers its input is kept instead of some seven arrays of that size."""
    images = jnp.zeros((8, 16, 16, 3))
    settings = {'stem': 'cifar', 'stem_width': 8, 'width': 8, 'scan_blocks': scan}
    kept, recomputed = (
        temporary_bytes(ResNet((10,), num_classes=3, remat=remat, **settings), images)
        for remat in (False, True)
    )
    assert recomputed < 0.7 * kept


# What is said of memory


@pytest.mark.parametrize(
    ('donate', 'expected'), [((), 8000), ((0,), 4000)], ids=['kept', 'donated']
)
def test_a_compiled_function_is_counted_by_hand(donate, expected):
    """1000 numbers come in and 1000 go out, into the same place where they may."""
    jitted = jax.jit(lambda x: x + 1, donate_argnums=donate)
    x = jnp.zeros(1000)
    assert memory.jitted_bytes(jitted, x) == expected
    assert x.sum() == 0, 'asking gives nothing away'


def test_what_was_called_is_not_compiled_again(caplog):
    jitted = jax.jit(lambda x: jnp.sin(x) @ x)
    x = jnp.ones((8, 8))
    jitted(x).block_until_ready()
    with jax.log_compiles():
        found = memory.jitted_bytes(jitted, x)
        assert 'compil' not in caplog.text.lower()
        assert found == memory.jitted_bytes(jax.jit(lambda x: jnp.sin(x) @ x), x)
        assert 'XLA compilation' in caplog.text


@pytest.mark.slow
def test_a_larger_batch_takes_more_and_recomputing_less():
    def found(batch, **overrides):
        model = create_model('cifar_resnet20', 10, width=4, stem_width=4, **overrides)
        return memory.train_step_bytes(model, (16, 16, 3), batch)

    small, large = found(16), found(64)
    # All that is not of the batch is parameters and the like, which are few here.
    assert 3.5 < large / small < 4.1
    # At the least what batch norms and ReLUs need to go backward: two arrays a layer.
    layers = 7 * 16 * 16 * 4 + 6 * 8 * 8 * 8 + 6 * 4 * 4 * 16
    assert large > 2 * 64 * 4 * layers
    assert found(64, remat=True) < 0.8 * large


def test_a_run_says_what_its_step_took(tmp_path):
    config = tiny({'train.steps': 2, 'train.batch_size': 8})
    summary = loop.train(config, tmp_path / 'run')
    assert set(summary['memory']) == {'step_bytes', 'device_peak_bytes'}
    # The training set lies on the device: 1437 images of 64 bytes, and their labels.
    state = 4 * 2 * summary['parameters']
    assert summary['memory']['step_bytes'] > 1437 * (64 + 4) + state
    assert summary['memory']['device_peak_bytes'] is None  # of a CPU
    assert 0 < summary['first_step_seconds'] < summary['seconds']


def test_the_peak_of_a_device_that_counts(monkeypatch):
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    devices = [Device({'peak_bytes_in_use': peak, 'bytes_in_use': 1}) for peak in (5, 7)]
    monkeypatch.setattr(jax, 'local_devices', lambda: [*devices, Device(None)])
    assert memory.device_peak_bytes() == 7


@pytest.mark.slow
def test_models_with_their_memory(capsys, standard_promotion):
    arguments = ['models', 'cifar_resnet8', '--memory', '4']
    assert main([*arguments, '--json']) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)['models']
    expected = memory.train_step_bytes(create_model('cifar_resnet8'), (32, 32, 3), 4)
    assert row['train_step_bytes'] == expected
    assert err == 'compiling cifar_resnet8 (1 of 1)\n'
    assert main([*arguments, '--dtype=bfloat16', '--remat']) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[3] == 'step'
    assert line.split()[5] == 'MiB'
    assert 0 < int(line.split()[4]) < expected / 2**20


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--memory', '0'], '--memory must be at least 1'),
        (['--memory', '8', '--dtype', 'bfloat15'], "did you mean 'bfloat16'"),
        (['--memory', '8', '--dtype', 'float16'], 'use bfloat16'),
        (['--dtype', 'bfloat16'], 'go with --memory'),
    ],
)
def test_models_with_bad_memory(capsys, arguments, words):
    assert main(['models', 'cifar_resnet8', *arguments]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert (out, len(err.splitlines())) == ('', 1)
