"""Test-time augmentation: means of probabilities over views, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import tiny

from resnet_jax import create_model
from resnet_jax.cli import main
from resnet_jax.data import Preprocessing, open_source
from resnet_jax.errors import InputError
from resnet_jax.inference.trained import evaluate_trained, load_trained
from resnet_jax.training import loop
from resnet_jax.training.evaluate import make_eval_step
from resnet_jax.training.views import VIEWS

SIDE = 8
PREPROCESSING = Preprocessing(SIDE, 3, 12, (0.5,) * 3, (0.25,) * 3, tuple('abcd'))


def views_by_hand(images, tta):
    """torchvision's TenCrop of a square, and the plain flip, written with slices of NumPy."""
    if tta == 'flip':
        return [images, images[:, :, ::-1]]
    last = images.shape[1] - SIDE
    places = [(0, 0), (0, last), (last, 0), (last, last), (last // 2, last // 2)]
    crops = [images[:, t : t + SIDE, x : x + SIDE] for t, x in places]
    return crops + [crop[:, :, ::-1] for crop in crops]


@pytest.mark.parametrize(('tta', 'size', 'count'), [('flip', SIDE, 2), ('ten_crop', 13, 10)])
def test_outputs_are_mean_probabilities(tta, size, count):
    model = create_model('cifar_resnet8', 4, stage_sizes=(1,), width=4, stem_width=4)
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    variables = model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)), train=False)
    apply = jax.jit(lambda x: model.apply(variables, PREPROCESSING.normalize(x), train=False))
    views = views_by_hand(images, tta)
    assert len(views) == len(VIEWS[tta](jnp.asarray(images), SIDE)) == count
    expected = np.mean([jax.nn.softmax(apply(view)) for view in views], axis=0)
    step = make_eval_step(model, PREPROCESSING, with_outputs=True, tta=tta)
    batch = {'image': images, 'label': np.asarray([0, 1, 2], np.int32), 'mask': np.ones(3, bool)}
    sums, outputs = step(variables, batch)
    np.testing.assert_allclose(np.exp(outputs), expected, rtol=1e-5)
    loss = -np.log(expected[np.arange(3), batch['label']]).sum()
    assert float(sums['loss']) == pytest.approx(loss, rel=1e-5)


def test_a_run_is_evaluated_with_views(tmp_path, ask, capsys):
    folder = tmp_path / 'run'
    loop.train(tiny({'train.steps': 8, 'train.eval_every': 0}), folder)
    plain, flipped = (ask('eval', '--workdir', folder, *extra) for extra in ((), ('--tta', 'flip')))
    assert (plain['tta'], flipped['tta'], flipped['n']) == (None, 'flip', 360)
    assert flipped['loss'] != plain['loss']
    assert main(['eval', '--workdir', str(folder), '--tta', 'ten_crop']) == 2
    assert 'give --tta flip' in capsys.readouterr().err
    trained, source = load_trained(folder), open_source('digits', 'test[:20]')
    larger = dataclasses.replace(trained.preprocessing, resize=10)
    found, _ = evaluate_trained(
        dataclasses.replace(trained, preprocessing=larger), source, 20, tta='ten_crop'
    )
    assert found['n'] == 20


@pytest.mark.slow
def test_whole_images_are_those_of_a_larger_model_input(tmp_path, capsys):
    """The same figures as a preprocessing whose input has that size."""
    fields = {'data.resize': 10, 'data.normalize': 'channel', 'train.steps': 8}
    loop.train(tiny({**fields, 'train.eval_every': 0}), tmp_path / 'run')
    trained, source = load_trained(tmp_path / 'run'), open_source('digits', 'test[:40]')
    found, _ = evaluate_trained(trained, source, 20, tta='whole')
    larger = dataclasses.replace(trained.preprocessing, image_size=10, resize=10)
    same, _ = evaluate_trained(dataclasses.replace(trained, preprocessing=larger), source, 20)
    assert found == pytest.approx(same, rel=1e-5)
    per_pixel = dataclasses.replace(
        trained.preprocessing, mean=np.zeros((SIDE, SIDE, 1), np.float32)
    )
    with pytest.raises(InputError, match='mean per channel'):
        evaluate_trained(
            dataclasses.replace(trained, preprocessing=per_pixel), source, 20, tta='whole'
        )
