"""What bfloat16 and the precision of products change, and what they leave alone."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from members import members
from PIL import Image
from random_models import loss_and_all, random_images, random_variables
from running import load_state, tiny

from resnet_jax.cli import main
from resnet_jax.inference.trained import load_trained
from resnet_jax.models import InputError, create_model
from resnet_jax.training import compilation, loop, metrics
from resnet_jax.training.compilation import jit

LEARNS = {
    'model.width': 8,
    'model.stem_width': 8,
    'train.batch_size': 64,
    'train.steps': 160,
    'train.log_every': 80,
    'train.eval_every': 0,
    'checkpoint.every': 160,
    'optim.schedule': 'cosine',
    'optim.learning_rate': 0.2,
}


def floats(tree):
    """The dtypes of what is not an integer."""
    leaves = (leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact))
    return {str(leaf.dtype) for leaf in leaves}


@pytest.mark.slow
def test_bfloat16_learns_like_float32_and_keeps_float32(tmp_path, standard_promotion):
    found = {}
    for dtype in ('float32', 'bfloat16'):
        fields = {**LEARNS, 'model.dtype': dtype, 'optim.ema': 0.9}
        found[dtype] = loop.train(tiny(fields), tmp_path / dtype)
    state = load_state(tmp_path / 'bfloat16')
    for part in (state.params, state.batch_stats, state.opt_state, state.ema):
        assert floats(part) == {'float32'}
    full, half = (found[dtype]['eval'] for dtype in ('float32', 'bfloat16'))
    assert full['top1'] > 0.6  # chance is 0.1
    assert abs(half['top1'] - full['top1']) < 0.1
    assert half['loss'] != full['loss']


@pytest.mark.slow
def test_loss_and_gradients_of_bfloat16(standard_promotion):
    full, half = (
        create_model('cifar_resnet8', 3, dtype, width=8, stem_width=8)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    images = random_images((4, 16, 16, 3))
    variables = random_variables(full, images.shape)
    run = jit(lambda v: [loss_and_all(model, v, images) for model in (full, half)])
    (loss, (stats, _), gradient), actual = run(variables)
    assert floats(actual) == {'float32'}
    half_loss, (half_stats, _), half_gradient = actual
    np.testing.assert_allclose(half_loss, loss, rtol=0.05)
    assert half_loss != loss

    def direction(tree):
        flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        return flat / np.linalg.norm(flat)

    # bfloat16 has 8 bits; gradients flip at ReLUs.
    assert direction(half_gradient) @ direction(gradient) > 0.98
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=0.05), half_stats, stats)


def test_float16_is_refused_with_a_reason(tmp_path):
    with pytest.raises(InputError, match='use bfloat16'):
        loop.train(tiny({'model.dtype': 'float16'}), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


# Precision of products


def test_an_unknown_precision_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match=r"train.matmul_precision 'hihg'.*'high'"):
        loop.train(tiny({'train.matmul_precision': 'hihg'}), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    'name', members(compilation.MATMUL_PRECISIONS, list(compilation.MATMUL_PRECISIONS)[1::2])
)
def test_every_precision_is_one_of_jax_and_reaches_all_products(name):
    model = create_model('cifar_resnet8', 3, width=4, stem_width=4)
    images = jnp.zeros((2, 8, 8, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def products():
        def loss(variables):
            return model.apply(variables, images, train=False).sum()

        text = str(jax.make_jaxpr(jax.grad(loss))(variables))
        return text.count('Precision.'), text.count('conv_general_dilated[') + text.count(
            'dot_general['
        )

    assert products()[0] == 0
    with compilation.matmul_precision(name):
        given, count = products()
    assert given == 2 * count  # one for each operand
    assert count > 2 * 8, 'going forward and backward'
    with compilation.matmul_precision(None):
        assert products()[0] == 0


@pytest.mark.slow
def test_a_run_computes_with_its_precision_wherever_it_is_used(tmp_path, monkeypatch, capsys):
    seen = []

    def spy(owner, name):
        original = getattr(owner, name)

        def spied(*arguments):
            seen.append((name, jax.config.jax_default_matmul_precision))
            return original(*arguments)

        monkeypatch.setattr(owner, name, spied)

    spy(metrics, 'batch_sums')
    spy(jax.nn, 'softmax')
    folder = str(tmp_path / 'run')
    config = tiny({'train.matmul_precision': 'highest', 'train.steps': 2})
    loop.train(config, tmp_path / 'run')
    assert len(seen) >= 2, 'a training step and an evaluation were traced'
    assert main(['eval', '--workdir', folder, '--json']) == 0
    Image.new('L', (8, 8)).save(tmp_path / 'image.png')
    assert main(['predict', '--workdir', folder, str(tmp_path / 'image.png'), '--json']) == 0
    assert {name for name, _ in seen} == {'batch_sums', 'softmax'}
    assert {precision for _, precision in seen} == {'highest'}
    assert jax.config.jax_default_matmul_precision is None


def test_a_run_from_before_there_was_the_field(tmp_path):
    folder = tmp_path / 'run'
    loop.train(tiny({'train.steps': 2}), folder)
    fields = json.loads((folder / 'config.json').read_text())
    del fields['train']['matmul_precision']
    (folder / 'config.json').write_text(json.dumps(fields))
    assert load_trained(folder).matmul_precision is None
