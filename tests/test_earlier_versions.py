"""What an earlier version wrote is resumed, reported and loaded: tests/earlier/README.md."""

import json
import pathlib
import tarfile

import pytest
from running import CONFIGS, DIGITS

from resnet_jax.cli import main

EARLIER = pathlib.Path(__file__).parent / 'earlier'
TINY = {'model.stage_sizes': '(1,)', 'model.width': 4, 'model.stem_width': 4}
RUN = {**TINY, 'train.batch_size': 32, 'train.steps': 12, 'train.log_every': 3,
       'train.eval_every': 6, 'checkpoint.every': 6, 'checkpoint.keep': 2,
       'augment.transforms': 'pad_crop(pad=1),flip'}  # fmt: skip
SWEEP = {**TINY, 'train.epochs': 0.2, 'checkpoint.keep': 1}


@pytest.fixture
def unpacked(tmp_path):
    """The folder that an archive holds, by its name."""

    def unpack(name):
        with tarfile.open(EARLIER / f'{name}.tar.xz') as archive:
            archive.extractall(tmp_path, filter='data')
        return tmp_path / name

    return unpack


def flags(fields):
    return [f'--config.{name}={value}' for name, value in fields.items()]


def figures(path):
    """(step, split, loss, top1) of each line of a metrics.jsonl."""
    lines = map(json.loads, path.read_text().splitlines())
    return [(line['step'], line['split'], line['loss'], line['top1']) for line in lines]


def test_a_run_is_resumed_to_the_end_it_would_have_had(unpacked, capfd):
    folder = unpacked('run')
    config = f'--config={DIGITS}'
    assert main(['train', config, '--workdir', str(folder), *flags(RUN)]) == 0
    assert 'continues after step 6' in capfd.readouterr().err
    found, expected = figures(folder / 'metrics.jsonl'), figures(EARLIER / 'metrics.jsonl')
    assert [line[:2] for line in found] == [line[:2] for line in expected]
    for ours, theirs in zip(found, expected, strict=True):
        # Another processor may round otherwise; crops, flips and the order of the data may not
        # differ, and would change the loss in its first digits.
        assert ours[2:] == pytest.approx(theirs[2:], rel=1e-4)


def test_another_config_is_still_refused(unpacked, capfd):
    folder = unpacked('run')
    other = {**RUN, 'augment.transforms': 'pad_crop(pad=1)'}
    assert main(['train', f'--config={DIGITS}', '--workdir', str(folder), *flags(other)]) == 2
    assert 'augment.transforms' in capfd.readouterr().err


def test_a_run_is_evaluated(unpacked, ask):
    assert ask('eval', '--workdir', unpacked('run'))['step'] == 6


def test_weights_are_loaded(ask):
    expected = json.loads((EARLIER / 'eval.json').read_text())
    model = [f'--model.{field.removeprefix("model.")}={value}' for field, value in TINY.items()]
    weights = ['--weights', EARLIER / 'weights.safetensors', '--data', 'digits', '--split', 'test']
    found = ask('eval', '--model', 'cifar_resnet8', *model, *weights)
    assert found['n'] == expected['n'] == 360
    for figure in ('loss', 'top1', 'top5', 'ece'):
        assert found[figure] == pytest.approx(expected[figure], rel=1e-5)


def test_a_sweep_is_resumed_and_reported(unpacked, ask):
    folder = unpacked('sweep')
    sweep = ['sweep', '--config', str(CONFIGS / 'sweeps' / 'preact_vs_original.py')]
    before = {p: p.read_bytes() for p in folder.glob('runs/*/*/summary.json')}
    assert len(before) == 3
    assert main([*sweep, '--workdir', str(folder), '--seeds', '2', *flags(SWEEP)]) == 0
    assert {p: p.read_bytes() for p in before} == before  # what has ended is left as it is
    report = ask('report', '--workdir', folder)
    assert [run['state'] for run in report['runs']] == ['ended'] * 4
    assert report['complete'] is True
    # The same sweep by the name of its config; more seeds may be added.
    assert main(['sweep', '--config', 'sweeps/preact_vs_original', '--workdir', str(folder),
                 '--seeds', '3', *flags(SWEEP)]) == 0  # fmt: skip
    assert len(list(folder.glob('runs/*/*/summary.json'))) == 6
