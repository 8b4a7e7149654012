"""Videos and volumes: read, augmented, trained on, predicted."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet_jax import data
from resnet_jax.cli import main
from resnet_jax.data import Preprocessing
from resnet_jax.data.moving_digits import DIRECTIONS
from resnet_jax.errors import InputError
from resnet_jax.training import config as configs
from resnet_jax.training.inputs import open_inputs

SMALL = [
    *('--config=moving_digits', '--config.model.stage_sizes=(1,1)', '--config.model.width=4'),
    *('--config.model.stem_width=4', '--config.train.steps=2', '--config.train.batch_size=4'),
    *('--config.train.eval_every=0', '--config.optim.warmup=0'),
]


def test_volumes_of_equal_sides_need_no_channels(tmp_path):
    """MedMNIST3D's form; other sides have an axis of channels."""
    rng = np.random.default_rng(0)
    for shape in ((6, 6, 6), (4, 6, 8, 2)):
        images = rng.integers(0, 256, (5, *shape), np.uint8)
        np.savez(tmp_path / 'x.npz', train_images=images, train_labels=np.arange(5) % 2)
        source = data.open_source(f'npz:{tmp_path / "x.npz"}', 'train')
        expected = images if len(shape) == 4 else images[..., None]
        assert source.channels == expected.shape[-1]
        np.testing.assert_array_equal(
            [example['image'] for example in source.take(range(5))], expected
        )


def preprocessing(frames, size=4, channels=1):
    return Preprocessing(
        size, channels, None, (0.5,) * channels, (0.25,) * channels, ('a',), frames=frames
    )


def test_frames_are_taken_at_even_distances():
    video = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)
    for frames, expected in (
        (9, range(9)),
        (3, (1, 4, 7)),
        (1, (4,)),
        (18, np.repeat(range(9), 2)),
    ):
        found = preprocessing(frames).prepare(video)
        assert found.shape == (frames, 4, 4, 1)
        np.testing.assert_array_equal(found[:, 0, 0, 0], expected)


def test_each_frame_is_prepared_as_an_image():
    video = np.random.default_rng(0).integers(0, 256, (3, 9, 12, 3), np.uint8)
    found = preprocessing(3, channels=3).prepare(video)
    images = preprocessing(0, channels=3)
    np.testing.assert_array_equal(found, [images.prepare(frame) for frame in video])
    normal = preprocessing(3, channels=3).normalize(jnp.asarray(found[None]))
    np.testing.assert_allclose(normal, (found[None] / 255 - 0.5) / 0.25, atol=1e-6)


def test_mean_and_deviation_are_those_of_all_frames():
    videos = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4, 2)).astype(np.uint8)
    axes = (0, 1, 2, 3)
    np.testing.assert_allclose(data.fit_mean(videos), (videos / 255).mean(axes), rtol=1e-6)
    np.testing.assert_allclose(data.fit_std(videos), (videos / 255).std(axes), rtol=1e-6)


def test_a_stored_preprocessing_of_images_is_read():
    stored = json.loads(preprocessing(0).to_json())
    del stored['frames']
    assert Preprocessing.from_json(json.dumps(stored)) == preprocessing(0)
    assert Preprocessing.from_json(preprocessing(7).to_json()).input_shape == (7, 4, 4, 1)


@pytest.mark.slow
def test_crops_and_flips_in_three_dimensions():
    """Each crop is one of the shifts of the padded volume, each flip the volume or its mirror."""
    volume = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    padded = np.pad(volume, ((1, 1),) * 3 + ((0, 0),))
    shifts = {
        (d, h, w): padded[d : d + 3, h : h + 4, w : w + 5].tobytes()
        for d in range(3)
        for h in range(3)
        for w in range(3)
    }
    keys = jax.random.split(jax.random.key(0), 200)
    crops = jax.vmap(lambda key: data.random_crop(key, jnp.asarray(volume), 1))(keys)
    found = [np.asarray(crop).tobytes() for crop in crops]
    assert set(found) == set(shifts.values())
    for name, axis in (('flip', 2), ('vertical_flip', 1), ('depth_flip', 0)):
        turned, _ = data.augment(
            (name,),
            jax.random.key(0),
            jnp.asarray(np.stack([volume] * 20)),
            None,
            0,
            jnp.arange(20),
        )
        one, other = volume.tobytes(), np.flip(volume, axis).tobytes()
        assert {np.asarray(each).tobytes() for each in turned} == {one, other}


def test_the_direction_of_a_moving_digit():
    source = data.open_source('moving_digits', 'test')
    assert (len(source), source.channels) == (400, 1)
    assert np.bincount(source.labels()).tolist() == [100] * 4
    for i in range(8):
        example = source[i]
        step = DIRECTIONS[source.class_names[example['label']]]
        video = example['image']
        assert video.shape == (8, 16, 16, 1) and video.any()
        for before, after in itertools.pairwise(video):
            np.testing.assert_array_equal(np.roll(before, step, (0, 1)), after)
    np.testing.assert_array_equal(
        source[3]['image'], data.open_source('moving_digits', 'test')[3]['image']
    )


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'data.frames': None}, 'set config field data.frames to their number'),
        ({'model.name': 'cifar_resnet8'}, 'model.dimensions must be 3 for data.frames, got 2'),
        ({'augment.transforms': '("mixup",)'}, 'and the model videos or volumes'),
        (
            {'augment.transforms': '("pad_crop(pad=9,mode=reflect)",)'},
            'reflect a video of 8',
        ),
        ({'data.normalize': 'pixel'}, 'data.normalize=pixel goes with images only'),
        ({'model.stem': 'imagenet', 'model.dimensions': 2}, 'must be 3 for data.frames'),
    ],
)
def test_settings_that_do_not_go_with_videos(fields, message):
    with pytest.raises(InputError) as error:
        configs.load_config('moving_digits', [(k, str(v)) for k, v in fields.items()])
    assert message in str(error.value) and '\n' not in str(error.value)


def test_a_transform_of_volumes_does_not_take_images():
    with pytest.raises(InputError, match="'depth_flip' takes videos or volumes"):
        data.check_transforms(('depth_flip',), (8, 8, 3))


def test_videos_are_read_for_a_model_of_videos():
    config = configs.load_config('moving_digits')
    inputs = open_inputs(config)
    assert inputs.arrays['image'].shape == (1200, 8, 16, 16, 1)
    assert inputs.preprocessing.input_shape == (8, 16, 16, 1)
    for name, fields, words in (
        ('moving_digits', {'data.name': 'digits'}, 'leave data.frames out'),
        ('digits', {'data.name': 'moving_digits'}, 'set data.frames=8'),
        ('moving_digits', {'data.frames': None, 'model.name': 'tsc_resnet'}, 'moving_digits holds'),
    ):
        given = [(k, str(v)) for k, v in fields.items()]
        if 'model.name' in fields:
            given += [(f'model.{k}', 'None') for k in ('stage_sizes', 'width', 'stem_width')]
        with pytest.raises(InputError, match=words):
            open_inputs(configs.load_config(name, given))


@pytest.mark.slow
def test_a_run_on_videos(tmp_path, capsys):
    """Trained, evaluated, and asked about an .npy and a folder of frames of the same video."""
    from PIL import Image

    run = tmp_path / 'run'
    assert main(['train', *SMALL, f'--workdir={run}']) == 0
    capsys.readouterr()
    assert main(['eval', f'--workdir={run}', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['n'] == 400
    video = data.open_source('moving_digits', 'test')[0]['image']
    np.save(tmp_path / 'clip.npy', video)
    (tmp_path / 'frames').mkdir()
    for i, frame in enumerate(video):
        Image.fromarray(frame[..., 0]).save(tmp_path / 'frames' / f'{i}.png')
    clips = [str(tmp_path / 'clip.npy'), str(tmp_path / 'frames')]
    assert main(['predict', f'--workdir={run}', *clips, '--json']) == 0
    one, other = json.loads(capsys.readouterr().out)['predictions']
    assert one['top'] == other['top'] and {each['class'] for each in one['top']} == set(DIRECTIONS)
    np.save(tmp_path / 'floats.npy', video / 255)
    assert main(['predict', f'--workdir={run}', str(tmp_path / 'floats.npy')]) == 2
    assert 'a video is uint8 [T, H, W, C]' in capsys.readouterr().err
