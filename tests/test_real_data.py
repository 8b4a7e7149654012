"""Training, evaluation and prediction on real images, if they are available."""

import json
import pathlib

import numpy as np
import pytest

from resnet_jax import cli
from resnet_jax.data import Preprocessing, load_arrays, open_source

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'

pytestmark = pytest.mark.slow


def lines(workdir, split):
    text = (workdir / 'metrics.jsonl').read_text()
    return [m for m in map(json.loads, text.splitlines()) if m['split'] == split]


def test_cifar10_on_the_device(shared_data, tmp_path, capsys):
    """he2015's recipe on JPEG CIFAR-10: better than chance after 60 steps of a small net."""
    workdir = tmp_path / 'run'
    arguments = [
        'train',
        f'--config={CONFIGS}/cifar10_jpeg.py:cifar_resnet8',
        f'--workdir={workdir}',
        f'--config.data.dir={shared_data}/tfds',
        '--config.train.steps=60',
        '--config.train.log_every=20',
    ]
    assert cli.main(arguments) == 0
    losses = [line['loss'] for line in lines(workdir, 'train')]
    assert losses == sorted(losses, reverse=True)
    (evaluation,) = lines(workdir, 'eval')
    assert evaluation['n'] == 10_000
    assert evaluation['top1'] > 0.2  # chance is 0.1
    capsys.readouterr()
    assert cli.main(['eval', '--workdir', str(workdir), '--split', 'test[:777]', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['n'] == 777


def test_imagenette_streamed_and_predicted(shared_data, tmp_path, capsys):
    """Streams JPEGs through the random crop, then predicts files from the validation split."""
    import tensorflow_datasets as tfds

    workdir = tmp_path / 'run'
    arguments = [
        'train',
        f'--config={CONFIGS}/imagenette.py',
        f'--workdir={workdir}',
        f'--config.data.dir={shared_data}/tfds',
        '--config.data.eval_split=validation[:500]',
        '--config.data.image_size=32',
        '--config.train.steps=30',
        '--config.train.log_every=10',
        '--config.train.eval_every=0',
        '--config.optim.warmup=0',
    ]
    assert cli.main(arguments) == 0
    losses = [line['loss'] for line in lines(workdir, 'train')]
    assert losses[-1] < losses[0]
    builder = tfds.builder('imagenette224', data_dir=shared_data / 'tfds')
    skip = {'image': tfds.decode.SkipDecoding()}
    source = builder.as_data_source('validation', decoders=skip)
    files = []
    for i in range(0, 3900, 390):
        files.append(tmp_path / f'{i}.jpg')
        files[-1].write_bytes(bytes(source[i]['image']))
    capsys.readouterr()
    command = ['predict', '--workdir', str(workdir), '--topk', '3', '--json', *map(str, files)]
    assert cli.main(command) == 0
    predictions = json.loads(capsys.readouterr().out)['predictions']
    assert [p['image'] for p in predictions] == list(map(str, files))
    names = builder.info.features['label'].names
    for prediction in predictions:
        probabilities = [top['probability'] for top in prediction['top']]
        assert probabilities == sorted(probabilities, reverse=True)
        assert {top['class'] for top in prediction['top']} <= set(names)


def test_imagenette_as_a_folder_is_the_same_data(shared_data, tmp_path, capsys):
    """The same pixels and labels as through TFDS; a renamed class is noticed."""
    import tensorflow_datasets as tfds

    builder = tfds.builder('imagenette224', data_dir=shared_data / 'tfds')
    names = builder.info.features['label'].names
    skip = {'image': tfds.decode.SkipDecoding()}
    for split, count in (('train', 300), ('validation', 100)):
        source = builder.as_data_source(split, decoders=skip)
        for i in range(count):
            file = tmp_path / 'images' / split / names[source[i]['label']] / f'{i:05}.JPEG'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(bytes(source[i]['image']))
    folder = f'folder:{tmp_path / "images"}'
    preprocessing = Preprocessing(32, 3, 36, (0.5,) * 3, (0.25,) * 3, tuple(names))
    ours = load_arrays(open_source(folder, 'validation'), preprocessing)
    theirs = load_arrays(
        open_source('tfds:imagenette224', 'validation[:100]', str(shared_data / 'tfds')),
        preprocessing,
    )
    order = np.argsort(theirs['label'], kind='stable')  # that of a folder: class by class
    for key in ('image', 'label'):
        np.testing.assert_array_equal(ours[key], theirs[key][order])
    command = [
        'train',
        f'--config={CONFIGS}/imagenette.py',
        f'--workdir={tmp_path / "run"}',
        f'--config.data.name={folder}',
        '--config.data.image_size=32',
        '--config.train.batch_size=32',
        '--config.train.steps=6',
        '--config.optim.warmup=0',
    ]
    assert cli.main(command) == 0
    (evaluation,) = lines(tmp_path / 'run', 'eval')
    assert evaluation['n'] == 100
    capsys.readouterr()
    (tmp_path / 'images' / 'train' / names[0]).rename(tmp_path / 'images' / 'train' / 'renamed')
    assert cli.main(['eval', '--workdir', str(tmp_path / 'run')]) == 2
    said = capsys.readouterr().err
    assert names[0] in said and 'renamed' in said
