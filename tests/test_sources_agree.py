"""The same images give the same examples, whichever kind of data set they come from."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from running import flags, tiny

from resnet_jax import data
from resnet_jax.cli import main
from resnet_jax.data import Preprocessing, hold_out, load_arrays, open_source, train_batches
from resnet_jax.training.config import changed, differences

datasets = pytest.importorskip('datasets')
RNG = np.random.default_rng(0)
NAMES = ('cat', 'dog', 'eel')
SIZES = {'train': 24, 'val': 9}
PREPROCESSING = Preprocessing(8, 3, None, (0.5,) * 3, (0.2,) * 3, NAMES)


@pytest.fixture(scope='module')
def specs(tmp_path_factory):
    """Kind -> (name, what the name leaves open); the images are in the order of their classes."""
    root, arrays = tmp_path_factory.mktemp('kinds'), {}
    (root / 'names.txt').write_text('\n'.join(NAMES))
    for split, n in SIZES.items():
        images = RNG.integers(0, 256, (n, 10, 12, 3), np.uint8)
        labels = np.arange(n) * len(NAMES) // n
        arrays |= {f'{split}_images': images, f'{split}_labels': labels}
        files = []
        for image in images:
            out = io.BytesIO()
            Image.fromarray(image).save(out, 'PNG')
            files.append(out.getvalue())
        with tarfile.open(root / f'set-{split}-000.tar', 'w') as shard:
            for i, (image, label) in enumerate(zip(files, labels, strict=True)):
                path = root / 'folder' / split / NAMES[label] / f'{i:02}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image)
                for suffix, content in (('png', image), ('cls', NAMES[label].encode())):
                    info = tarfile.TarInfo(f'{i:02}.{suffix}')
                    info.size = len(content)
                    shard.addfile(info, io.BytesIO(content))
        features = {'image': datasets.Image(), 'label': datasets.ClassLabel(names=list(NAMES))}
        cells = {'image': [{'bytes': f, 'path': None} for f in files], 'label': labels.tolist()}
        part = datasets.Dataset.from_dict(cells, features=datasets.Features(features))
        datasets.disable_progress_bars()
        part.save_to_disk(root / 'hf' / split)
    (root / 'hf' / 'dataset_dict.json').write_text('{"splits": ["train", "val"]}')
    np.savez(root / 'set.npz', **arrays)
    return {
        'folder': (f'folder:{root}/folder', {}),
        'tar': (f'tar:{root}/set-{{split}}-{{000..000}}.tar', {}),
        'npz': (f'npz:{root}/set.npz', {'label_names': str(root / 'names.txt')}),
        'hf': (f'hf:{root}/hf', {}),
    }


@pytest.mark.parametrize('kind', ['tar', 'npz', 'hf'])
def test_examples_slices_and_batches_are_those_of_the_folder(specs, kind):
    (name, about), (folder, _) = specs[kind], specs['folder']
    assert data.split_sizes(name, **about) == SIZES
    for split in ('train', 'val', 'train[:30%]', 'val+train[-5:]'):
        mine, other = open_source(name, split, **about), open_source(folder, split)
        assert mine.class_names == NAMES and mine.channels == 3
        assert mine.labels().tolist() == other.labels().tolist()
        arrays = [load_arrays(source, PREPROCESSING) for source in (mine, other)]
        for key in ('image', 'label'):
            np.testing.assert_array_equal(arrays[0][key], arrays[1][key])
    sources = [open_source(name, 'train', **about), open_source(folder, 'train')]
    held = [hold_out(source, 0.25)[1] for source in sources]
    np.testing.assert_array_equal(held[0].labels(), held[1].labels())
    streams = [
        train_batches(s, PREPROCESSING, seed=3, batch_size=7, first_step=2, last_step=6)
        for s in sources
    ]
    for one, two in zip(*streams, strict=True):
        np.testing.assert_array_equal(one['image'], two['image'])


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['tar', 'npz', 'hf'])
def test_processes_read_the_same(specs, kind):
    name, about = specs[kind]
    source = open_source(name, 'train', **about)
    streams = [
        train_batches(
            source, PREPROCESSING, seed=3, batch_size=7, first_step=0, last_step=4, workers=workers
        )
        for workers in (0, 2)
    ]
    for one, two in zip(*streams, strict=True):
        np.testing.assert_array_equal(one['image'], two['image'])


@pytest.mark.slow
def test_runs_and_evaluations_are_the_same(specs, tmp_path, ask):
    """To the last digit; and each run can be evaluated on the others' data."""
    figures = []
    for kind, (name, about) in specs.items():
        fields = {'data.name': name, 'data.image_size': 8, 'data.channels': 3, 'train.steps': 4}
        fields |= {'data.eval_split': 'val', 'train.batch_size': 8}
        fields |= {f'data.{field}': value for field, value in about.items()}
        run = tmp_path / kind
        assert main(['train', *flags(fields), f'--workdir={run}']) == 0
        names = [f'--label-names={about["label_names"]}'] if about else []
        found = ask('eval', '--workdir', tmp_path / 'folder', '--data', name, '--split=val', *names)
        figures.append([ask('eval', '--workdir', run)[k] for k in ('n', 'loss', 'top1', 'ece')])
        figures.append([found[k] for k in ('n', 'loss', 'top1', 'ece')])
    assert all(each == figures[0] for each in figures) and figures[0][0] == 9


@pytest.mark.parametrize('kind', ['folder', 'tar', 'npz', 'hf'])
def test_a_moved_set_is_the_same_and_another_kind_is_not(kind):
    config = tiny({'data.name': f'{kind}:a'})
    moved = changed(config, {'data.name': f'{kind}:b'})
    assert bool(differences(config, moved)) == (kind == 'hf')  # which may be another of the hub
    other = changed(config, {'data.name': 'synthetic'})
    assert differences(config, other)


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (
            ['--data=npz:x', '--label-key=y'],
            '--label-key has no effect on npz:x; it goes with tfds',
        ),
        (['--data=digits', '--label-names=y'], '--label-names has no effect on digits; it goes'),
        (['--data=tar:x', '--labels=y'], 'has no effect on tar:x; it goes with folder:PATH'),
        (['--data=tar:nowhere'], 'no such shard, nowhere'),
        (['--data=hf:./nowhere'], 'hf:./nowhere: no such file or folder'),
        (['--data=npz:nowhere'], 'npz:nowhere: no such file'),
        (['--data=tar:'], 'unknown data set'),
    ],
)
def test_what_the_commands_refuse(tmp_path, capsys, arguments, said):
    out = tmp_path / 'out'
    assert main(['data', 'check', *arguments, f'--out={out}']) == 2
    error = capsys.readouterr().err
    assert said in error and error.count('\n') == 1 and not out.exists()
