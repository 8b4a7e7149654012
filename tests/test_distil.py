"""Distillation: the loss against NumPy, the teacher's inputs, and runs that resume."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compressed_folders import random_folder
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict
from random_models import assert_close, fast_jit, random_images, random_variables
from running import differing, load_state, tiny

from resnet_jax import create_model
from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError, Stopped
from resnet_jax.interop.weights import save_weights
from resnet_jax.training import build, distillation, loop, metrics, pruning

pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def settings(**fields):
    base = {'teacher': 'x', 'model': None, 'temperature': 3.0, 'weight': 0.7, 'features': 0.0}
    return ConfigDict({**base, 'outputs': 'online', **fields})


def softmax(x):
    shifted = np.exp(x - x.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def task_loss(logits, targets):
    return metrics.cross_entropy(logits, targets)


@pytest.mark.parametrize('kept', [False, True])
def test_the_loss_is_that_of_the_paper(kept):
    """arXiv 1503.02531, section 2: soft targets at temperature T, their part times T^2."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 4, 5))
    labels = np.asarray([0, 3, 1, 4])
    p, q = softmax(theirs / 3), softmax(ours / 3)
    divergence = (p * (np.log(p) - np.log(q))).sum(axis=1)
    hard = -np.log(softmax(ours))[np.arange(4), labels]
    expected = 0.3 * hard + 0.7 * 9 * divergence
    teacher = {'probabilities': jnp.asarray(p, jnp.float32)} if kept else {'logits': theirs}
    targets = {
        'task': labels,
        'teacher': jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), teacher),
    }
    logits = jnp.asarray(ours, jnp.float32)
    found = distillation.loss_of(logits, targets, task_loss, settings())
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_maps_of_attention():
    """arXiv 1612.03928, equation 2 with p = 2: half the squares of differences of unit vectors."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 3, 3, 4)), rng.normal(size=(2, 3, 3, 7))

    def unit(x):
        flat = (x**2).mean(axis=-1).reshape(2, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    expected = 2.0 * 0.5 * ((unit(ours) - unit(theirs)) ** 2).sum(axis=1)
    logits = jnp.zeros((2, 5))

    def outputs(x):
        return {'logits': logits, 'stem': logits, 'stage1': jnp.asarray(x, jnp.float32)}

    teacher = distillation._compared(outputs(theirs), True)
    targets = {'task': np.asarray([0, 1]), 'teacher': teacher}
    found = distillation.loss_of(
        outputs(ours), targets, task_loss, settings(weight=1.0, features=2.0)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_teacher_sees_the_same_pixels_in_its_own_normalisation():
    names = ('a', 'b')
    pixel_mean = np.random.default_rng(0).uniform(size=(4, 4, 3)).astype(np.float32)
    ours = Preprocessing(4, 3, None, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), names)
    theirs = Preprocessing(4, 3, None, pixel_mean, (1.0, 1.0, 1.0), names)
    images = jnp.asarray(np.random.default_rng(1).integers(0, 256, (2, 4, 4, 3)), jnp.uint8)
    found = distillation.renormalized(ours.normalize(images), ours, theirs)
    assert_close(found, theirs.normalize(images))
    assert distillation.renormalized(images, ours, ours) is images


def test_a_stage_of_every_name_comes_with_the_logits():
    model = create_model('cifar_resnet20', 5, stage_sizes=(1, 1), width=4, stem_width=4)
    variables, images = random_variables(model, (1, 8, 8, 3)), random_images((2, 8, 8, 3))
    run = fast_jit(lambda v, x: model.apply(v, x, train=False, method='outputs'))
    found = run(variables, images)
    assert set(found) == {'stem', 'stage1', 'stage2', 'pooled', 'logits'}
    assert_close(
        found['logits'], fast_jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    )


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """A wider network of random weights."""
    return random_folder(tmp_path_factory.mktemp('teachers') / 'wide', {'model.width': 8})


# What each part of this wing keeps between steps, all in one run.
TOGETHER = {
    'model.weight_bits': 8,
    'model.activation_bits': 8,
    'prune.schedule': 'gradual',
    'prune.sparsity': 0.6,
    'prune.every': 1,
    'augment.transforms': 'pad_crop(pad=1), mixup',
}


@pytest.mark.slow
@pytest.mark.parametrize(
    'fields',
    [
        pytest.param({'distill.features': 1.0}, id='online'),
        pytest.param({'distill.outputs': 'cached'}, id='cached'),
    ],
)
def test_a_run_resumes_bit_for_bit(tmp_path, teacher, fields):
    """With mixed images, quantised weights and inputs, and zeros that become more."""
    config = tiny({'distill.teacher': teacher, **TOGETHER, **fields})
    loop.train(config, tmp_path / 'whole')
    with pytest.raises(Stopped):
        loop.train(config, tmp_path / 'parts', on_evaluation=lambda step, figures: False)
    loop.train(config, tmp_path / 'parts')
    whole, parts = load_state(tmp_path / 'whole'), load_state(tmp_path / 'parts')
    assert differing(whole, parts) == []
    kernels = [np.asarray(x).ravel() for x in pruning.kernels(whole.params).values()]
    everything = np.concatenate(kernels)
    assert (everything == 0).sum() == round(0.6 * everything.size)
    ranges = [x for path, x in flatten_dict(whole.batch_stats).items() if path[-1] == 'range']
    assert len(ranges) == 4 and all(float(x[1]) > 0 for x in ranges)


@pytest.mark.slow
def test_a_teacher_from_a_file_of_weights(tmp_path):
    """With a weight of 1 the labels do not count, with less they do."""
    model = create_model('cifar_resnet8', 10)
    preprocessing = Preprocessing(8, 1, None, (0.3,), (0.4,), tuple('0123456789'))
    path = tmp_path / 'teacher.safetensors'
    metadata = {'preprocessing': preprocessing.to_json()}
    save_weights(path, random_variables(model, (1, 8, 8, 1)), model, metadata=metadata)
    fields = {'distill.teacher': path, 'distill.model': 'cifar_resnet8'}

    def stepped(weight, moved):
        """The parameters after a step with every label moved on by `moved` classes."""
        run = build.build_run(tiny({**fields, 'distill.weight': weight}))
        examples = run.arrays['examples']
        moved_on = {**examples, 'label': (examples['label'] + np.int32(moved)) % 10}
        batch = {'index': run.inputs.indices(0)[None]}
        arrays = {**run.arrays, 'examples': moved_on}
        state, _ = run.train_step(run.seed, run.init_state(), run.no_totals(), arrays, batch)
        return state.params

    assert differing(stepped(1.0, 0), stepped(1.0, 3)) == []
    assert differing(stepped(0.5, 0), stepped(0.5, 3)) != []
    with pytest.raises(InputError, match=r'name its model with distill\.model'):
        build.build_run(tiny({'distill.teacher': path}))
    with pytest.raises(InputError, match='does not fit the model'):  # a net of other sizes
        build.build_run(tiny({**fields, 'distill.model': 'cifar_resnet20'}))


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'distill.outputs': 'cached', 'distill.features': 1.0}, 'keeps logits alone'),
        ({'distill.temperature': 0}, 'distill.temperature must be above 0'),
        ({'distill.weight': 1.5}, 'distill.weight must be at most 1'),
    ],
)
def test_settings_that_make_no_sense(fields, words):
    with pytest.raises(InputError, match=words):
        tiny({'distill.teacher': 'x', **fields})


@pytest.mark.parametrize(
    ('fields', 'words'),
    [
        ({'distill.teacher': 'nowhere'}, 'no folder of a run'),
        ({'distill.features': 1.0, 'model.stage_sizes': '(1, 1)'}, 'stages of equal sizes'),
        ({'distill.outputs': 'cached', 'data.memory_mib': 0, 'data.mean': '(0.3,)',
          'data.std': '(0.4,)'}, 'these are streamed'),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit(teacher, fields, words):
    with pytest.raises(InputError, match=words):
        build.build_run(tiny({'distill.teacher': teacher, **fields}))


def test_without_a_teacher_its_fields_are_refused():
    from resnet_jax.training.config import load_config

    with pytest.raises(InputError, match=r'no effect without distill\.teacher'):
        load_config('digits', [('distill.temperature', 2.0)])
    with pytest.raises(InputError, match=r'no effect without prune\.schedule'):
        load_config('digits', [('prune.sparsity', 0.5)])
    fields = json.loads(tiny().to_json())
    assert set(fields['distill']) == set(settings())
