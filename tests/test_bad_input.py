"""What bad input gets on the command line: one line, code 2 (1 inside a run), nothing good lost."""

import io
import json
import pathlib
import re
import shutil
import time
import types

import numpy as np
import pytest
from PIL import Image
from running import CONFIGS, DIGITS, checkpoint_steps, command, complains, flags, start

from resnet_jax.cli import main

# Orbax closes its event loop while reads of other files are under way.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


FOLDER = {'data.image_size': 8, 'data.channels': 3, 'train.batch_size': 4, 'train.steps': 40,
          'train.eval_every': 0, 'train.eval_batch_size': 4, 'train.log_every': 2,
          'checkpoint.every': 2}  # fmt: skip
COLOURS = {'data.mean': '(0.5, 0.5, 0.5)', 'data.std': '(0.25, 0.25, 0.25)'}


@pytest.fixture
def run(capfd):
    """Runs a command in this process: what it printed and its exit code."""

    def run_command(*arguments):
        capfd.readouterr()
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            code = stop.code
        out, err = capfd.readouterr()
        return types.SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run_command


def picture(seed: int, mode: str = 'RGB', kind: str = 'PNG', size=(12, 10)) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(256, size=(*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


@pytest.fixture
def images(tmp_path):
    """A folder of two classes, ten training images and four for evaluation."""
    root = tmp_path / 'images'
    for split, count in (('train', 10), ('test', 4)):
        for i in range(count):
            path = root / split / ('cat', 'dog')[i % 2] / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(i))
    return root


def folder_flags(images, **fields):
    values = {name.replace('__', '.'): value for name, value in fields.items()}
    return flags({**FOLDER, 'data.name': f'folder:{images}', **values})


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """The workdir of a short run on the digits."""
    folder = tmp_path_factory.mktemp('runs') / 'trained'
    assert main(['train', *flags({'train.steps': 8}), '--workdir', str(folder)]) == 0
    return folder


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ([f'--config={CONFIGS}/digit.py'], ("'digit.py'", "did you mean 'digits.py'")),
        (['--config=/nowhere/x.py'], ('no config file /nowhere/x.py',)),
        ([f'--config={DIGITS}:variant'], ('takes 0 positional arguments',)),
        (flags({'model.name': 'cifar_resnet21'}), ("unknown model", "_resnet20'")),
        (flags({'model.shortcut': 'zeropad'}), ("did you mean 'zero_pad'",)),
        (flags({'data.name': 'digit'}), ("unknown data set 'digit'", "'digits'")),
        (flags({'data.name': 'folder:/nowhere'}), ('folder:/nowhere: no such folder',)),
        (flags({'data.name': 'tfds:x', 'data.dir': '/nowhere'}), ('no folder /nowhere',)),
        (flags({'data.train_split': 'trian'}), ("unknown split of digits 'trian'", "'train'")),
        (flags({'data.eval_split': 'test[:'}), ("cannot read the split 'test[:'",)),
        (flags({'optim.name': 'sdg'}), ("unknown optim.name 'sdg'", "'sgd'")),
        (flags({'optim.schedule': 'cosin'}), ("'cosine'",)),
        (flags({'checkpoint.best': 'top2'}), ("'top1'",)),
        (flags({'train.batch_size': 2000}), ('2000', '1437', 'train.batch_size')),
        (flags({'train.batch_size': 0}), ('train.batch_size must be at least 1',)),
        ([*flags(), '--config.optim.learnin_rate=1'], ("'optim.learning_rate'",)),
        ([*flags(), '--config.optim.lr=1'], ("did you mean 'optim.learning_rate'?",)),
        ([*flags(), '--config.optim.wd=1'], ("did you mean 'optim.weight_decay'?",)),
        ([*flags(), '--config.optim.learning_rate'], ('--config.optim.learning_rate=VALUE',)),
        ([*flags(), '--config.train.epochs=2'], ('exactly one of train.steps and train.epochs',)),
    ],
    ids=lambda value: value[0][-40:] if isinstance(value, tuple) else '',
)  # fmt: skip
def test_bad_config_or_data(run, tmp_path, arguments, words):
    folder = tmp_path / 'run'
    result = run('train', *arguments, '--workdir', folder)
    complains(result, 2, *words)
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ''
    assert not folder.exists() or not (folder / 'checkpoints').exists()


@pytest.mark.parametrize(
    'arguments',
    [
        [],
        ['trian'],
        ['train'],
        ['train', '--config', 'x.py'],
        ['train', '--confg', 'x.py', '--workdir', 'x'],
        ['eval', '--workdir', 'x', '--config.seed=1'],
        ['predict', '--workdir', 'x'],
        ['predict', '--workdir', 'x', 'a.png', '--topk', 'many'],
    ],
)
def test_bad_usage(run, arguments):
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ''
    assert re.match(r'usage: .*\n(.*\n)*resnet-jax.*: error: ', result.stderr)


def test_folders_that_are_no_run(run, tmp_path):
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'thesis.tex').write_text('years of work')
    (tmp_path / 'file').write_text('')
    for name, words in (('nowhere', 'does not exist'), ('other', 'is not a run'), ('file', '')):
        for arguments in (['eval'], ['predict', 'x.png']):
            complains(run(*arguments, '--workdir', tmp_path / name), 2, words, str(tmp_path / name))
    for name, words in (('other', 'it holds thesis.tex'), ('file', 'is a file')):
        complains(run('train', *flags(), '--workdir', tmp_path / name), 2, words)
    complains(run('train', *flags(), '--workdir', tmp_path / 'file' / 'below'), 2, 'workdir')
    assert [p.name for p in (tmp_path / 'other').iterdir()] == ['thesis.tex']


def test_damaged_run(run, trained, tmp_path):
    for name, content in (
        ('config.json', '{'),
        ('config.json', '[]'),
        ('preprocessing.json', '{'),
        ('preprocessing.json', '{"a": 1}'),
        ('preprocessing.json', None),
    ):
        copy = tmp_path / 'copy'
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(trained, copy)
        (copy / name).unlink() if content is None else (copy / name).write_text(content)
        complains(run('eval', '--workdir', copy), 2)
        complains(run('train', *flags({'train.steps': 8}), '--workdir', copy), 2)


def test_unknown_checkpoint_and_split(run, trained):
    complains(run('eval', '--workdir', trained, '--checkpoint', '5'), 2, "unknown checkpoint '5'")
    complains(run('eval', '--workdir', trained, '--split', 'tset'), 2, "did you mean 'test'")
    complains(run('predict', '--workdir', trained, 'x.png', '--checkpoint', 'bset'), 2, "'best'")


@pytest.mark.slow
def test_checkpoint_with_a_missing_file(run, trained, tmp_path):
    """The message says how to fall back to the one before, and that works."""
    copy = tmp_path / 'copy'
    shutil.copytree(trained, copy)
    (copy / 'summary.json').unlink()  # so that the run has not ended
    broken = copy / 'checkpoints' / '8'
    (broken / 'state' / 'manifest.ocdbt').unlink()
    train = ['train', *flags({'train.steps': 8}), '--workdir', copy]
    # As processes, whose background threads may have something to say, too.
    for arguments in (['eval', '--workdir', copy], train):
        result = command(*arguments)
        complains(result, 2, str(broken), 'move that folder away to continue from step 4')
        assert len(result.stderr.splitlines()) == 1
    assert checkpoint_steps(copy) == [4, 8]
    broken.rename(tmp_path / 'away')
    result = run(*train)
    assert result.returncode == 0, result.stderr
    assert 'continues after step 4' in result.stderr
    kept, again = (json.loads((f / 'summary.json').read_text()) for f in (trained, copy))
    assert again['eval'] == kept['eval']


def test_no_complete_checkpoint(run, trained, tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(trained, copy)
    shutil.rmtree(copy / 'checkpoints')
    complains(run('eval', '--workdir', copy), 2, 'train the run first')
    (copy / 'checkpoints').mkdir()
    complains(run('eval', '--workdir', copy), 2, 'holds no complete checkpoint')


def test_empty_class_folder(run, images, tmp_path):
    (images / 'train' / 'emu').mkdir()
    result = run('train', *folder_flags(images), '--workdir', tmp_path / 'run')
    complains(result, 2, f'class folder {images}/train/emu holds no', 'image')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (picture(0, kind='JPEG', size=(64, 64))[:300], 'cannot read this image'),
        (b'Dear diary, this is no image at all.', 'not an image that can be read'),
        (b'', 'not an image that can be read'),
    ],
    ids=['truncated', 'text', 'empty'],
)
def test_damaged_image(run, images, trained, tmp_path, content, words):
    """In a training set on the device and for predict; the file is named."""
    bad = images / 'train' / 'cat' / 'bad.jpg'
    bad.write_bytes(content)
    result = run('train', *folder_flags(images), '--workdir', tmp_path / 'run')
    complains(result, 2, str(bad), words)
    assert not (tmp_path / 'run').exists()
    good = images / 'test' / 'cat' / '0.png'
    result = run('predict', '--workdir', trained, good, bad)
    complains(result, 2, str(bad), words)
    assert result.stdout == ''


def test_missing_image_and_folder_for_predict(run, trained, tmp_path):
    complains(run('predict', '--workdir', trained, tmp_path / 'no.png'), 2, 'no.png: no such image')
    complains(run('predict', '--workdir', trained, tmp_path), 2, str(tmp_path))


def test_cmyk_16_bit_palette_and_transparent_images_work(run, trained, tmp_path):
    files = []
    for mode in ('CMYK', 'P', 'RGBA', 'LA', '1'):
        kind = 'JPEG' if mode == 'CMYK' else 'PNG'
        files.append(tmp_path / f'{mode}.{kind.lower()}')
        files[-1].write_bytes(picture(1, mode, kind))
    deep = np.random.default_rng(0).integers(65536, size=(9, 9), dtype=np.uint16)
    files.append(tmp_path / 'deep.png')
    Image.fromarray(deep).save(files[-1])
    result = run('predict', '--workdir', trained, '--json', *files)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)['predictions']
    assert [item['image'] for item in found] == [str(f) for f in files]
    for item in found:
        assert sum(top['probability'] for top in item['top']) <= 1 + 1e-6


def test_bad_topk(run, trained):
    complains(run('predict', '--workdir', trained, 'x.png', '--topk', 0), 2, '--topk must be')


def test_batch_larger_than_the_data_set(run, images, tmp_path):
    arguments = folder_flags(images, train__batch_size=11)
    result = run('train', *arguments, '--workdir', tmp_path / 'run')
    complains(result, 2, 'batch of 11', '10 examples', 'train.batch_size')


def write_tfds(folder: pathlib.Path) -> None:
    """A TFDS data set whose last training label lies outside the classes."""
    import tensorflow_datasets as tfds

    class BadLabel(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version('1.0.0')

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(
                    {
                        'image': tfds.features.Image(shape=(8, 8, 3), encoding_format='png'),
                        'label': tfds.features.ClassLabel(num_classes=2),
                    }
                ),
            )

        def _split_generators(self, dl_manager):
            return {'train': self._generate_examples(10, -1), 'test': self._generate_examples(4, 1)}

        def _generate_examples(self, count, last):
            for i in range(count):
                image = io.BytesIO(picture(i, size=(8, 8)))
                yield i, {'image': image, 'label': last if i == count - 1 else i % 2}

    BadLabel(data_dir=str(folder), file_format='array_record').download_and_prepare()


def test_label_outside_the_classes(run, tmp_path):
    write_tfds(tmp_path / 'tfds')
    fields = {**FOLDER, 'data.name': 'tfds:bad_label', 'data.dir': tmp_path / 'tfds'}
    result = run('train', *flags(fields), '--workdir', tmp_path / 'run')
    complains(result, 2, 'label -1', '2 classes', 'tfds:bad_label')
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_bad_image_in_the_middle_of_a_streamed_run(run, images, tmp_path):
    """The run stops with code 2, names the file, keeps what it has, and goes on once mended."""
    folder = tmp_path / 'run'
    arguments = folder_flags(images, data__memory_mib=0, data__workers=0, train__steps=60)
    arguments += [f'--config.{name}={value}' for name, value in COLOURS.items()]
    # Damaged while the run goes on; else the first steps would meet it.
    process = start('train', *arguments, '--workdir', folder)
    deadline = time.monotonic() + 60
    while not ((folder / 'checkpoints').is_dir() and checkpoint_steps(folder)):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    bad = images / 'train' / 'dog' / '3.png'
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])
    out, err = process.communicate(timeout=60)
    result = types.SimpleNamespace(returncode=process.returncode, stdout=out, stderr=err)
    message = complains(result, 2, str(bad), 'run the same command again to continue')
    kept = int(re.search(r'the last good checkpoint is of step (\d+)', message).group(1))
    assert max(checkpoint_steps(folder)) == kept >= 2
    bad.write_bytes(good)
    result = run('train', *arguments, '--workdir', folder)
    assert result.returncode == 0, result.stderr
    assert f'continues after step {kept},' in result.stderr


def test_bad_image_in_the_evaluation_split(run, images, tmp_path):
    """Refused before training and before the workdir is taken."""
    bad = images / 'test' / 'cat' / 'bad.jpg'
    bad.write_bytes(b'no image')
    result = run('train', *folder_flags(images, train__steps=5), '--workdir', tmp_path / 'run')
    complains(result, 2, str(bad), 'not an image')
    assert not (tmp_path / 'run').exists()


def test_image_that_goes_bad_during_training(run, images, tmp_path, monkeypatch):
    """Met by the evaluation at the end: no step is lost, and the evaluation is made up for."""
    monkeypatch.setattr('resnet_jax.data.check_files', lambda source, channels: None)
    folder = tmp_path / 'run'
    bad = images / 'test' / 'cat' / 'bad.jpg'
    bad.write_bytes(b'no image')
    arguments = folder_flags(images, train__steps=5)
    result = run('train', *arguments, '--workdir', folder)
    complains(result, 2, str(bad), 'the last good checkpoint is of step 5')
    assert max(checkpoint_steps(folder)) == 5
    assert not (folder / 'summary.json').exists()
    bad.unlink()
    result = run('train', *arguments, '--config.data.accept_changes=true', '--workdir', folder)
    assert result.returncode == 0, result.stderr
    assert 'step 5  eval' in result.stderr
    assert (folder / 'summary.json').exists()


def test_divergence_has_code_1(run, tmp_path):
    fields = {'optim.schedule': 'constant', 'optim.learning_rate': '1e30', 'train.steps': 40}
    result = run('train', *flags(fields), '--workdir', tmp_path / 'run')
    complains(result, 1, 'training diverged', 'optim.learning_rate')
