"""Training, evaluation and prediction on real images, if they are available."""

import json
import pathlib

import pytest

from resnet_jax import cli

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
