"""Texts as bytes: the network, the files, and what a run makes of them."""

import gzip
import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import ROOT, tiny
from small_sets import WORDS, texts

from resnet_jax import data
from resnet_jax.cli import main
from resnet_jax.compress.fold import fold
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.texts import read_text
from resnet_jax.errors import InputError
from resnet_jax.models import create_model
from resnet_jax.training import config as configs
from resnet_jax.training import loop
from resnet_jax.training.inputs import open_inputs

# The network


def twin(torch, stages, width, classes):
    """arXiv 1606.01781, figure 1, with shortcuts, strides for pools, and an average at the end."""
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, before, channels, stride):
            super().__init__()
            self.conv1 = nn.Conv1d(before, channels, 3, stride, 1, bias=False)
            self.norm1, self.norm2 = nn.BatchNorm1d(channels), nn.BatchNorm1d(channels)
            self.conv2 = nn.Conv1d(channels, channels, 3, 1, 1, bias=False)
            self.projects = before != channels
            if self.projects:
                self.shortcut_conv = nn.Conv1d(before, channels, 1, stride, bias=False)
                self.shortcut_norm = nn.BatchNorm1d(channels)

        def forward(self, x):
            y = torch.relu(self.norm1(self.conv1(x)))
            y = self.norm2(self.conv2(y))
            short = self.shortcut_norm(self.shortcut_conv(x)) if self.projects else x
            return torch.relu(y + short)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(256, 16)
            self.conv1 = nn.Conv1d(16, width, 3, 1, 1, bias=False)
            self.norm1 = nn.BatchNorm1d(width)
            self.blocks, before = nn.ModuleDict(), width
            for stage, count in enumerate(stages):
                channels = width * 2**stage
                for j in range(count):
                    block = Block(before, channels, 2 if j == 0 and stage else 1)
                    self.blocks[f'stage{stage + 1}/block{j + 1}'] = block
                    before = channels
            self.head = nn.Linear(before, classes)

        def forward(self, x):
            x = self.embedding(x).transpose(1, 2)
            x = torch.relu(self.norm1(self.conv1(x)))
            for block in self.blocks.values():
                x = block(x)
            return self.head(x.mean(2))

    return Net().double()


def carried_over(torch, net):
    """The twin's weights, made random, as our variables."""
    params, stats = {}, {}
    generator = torch.Generator().manual_seed(0)

    def put(where, module):
        for leaf, value in (*module.named_parameters(), *module.named_buffers()):
            if leaf == 'num_batches_tracked':
                continue
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            value.data.copy_((noise - 0.5) / 4 if value.ndim > 1 else 0.5 + noise)
            array = value.detach().numpy()
            ours = {'weight': 'kernel', 'running_mean': 'mean', 'running_var': 'var'}
            name = ours.get(leaf, leaf)
            if isinstance(module, torch.nn.BatchNorm1d) and leaf == 'weight':
                name = 'scale'
            if isinstance(module, torch.nn.Embedding):
                name = 'embedding'
            elif value.ndim > 1:
                array = np.moveaxis(array, (0, 1), (-1, -2))
            tree = stats if leaf.startswith('running') else params
            for key in where:
                tree = tree.setdefault(key, {})
            tree[name] = array

    for name in ('embedding', 'conv1', 'norm1'):
        put(('stem', name), getattr(net, name))
    for path, block in net.blocks.items():
        for name, module in block.named_children():
            put((*path.split('/'), name), module)
    put(('head',), net.head)
    return {'params': params, 'batch_stats': stats}


@pytest.mark.slow
@pytest.mark.parametrize('length', [37, 8])
def test_it_is_the_network_of_the_paper(length):
    torch = pytest.importorskip('torch')
    net = twin(torch, (2, 1, 1, 1), 8, 3)
    variables = carried_over(torch, net)
    x = np.random.default_rng(0).integers(0, 256, (4, length))
    fields = {'stage_sizes': (2, 1, 1, 1), 'width': 8, 'stem_width': 8}
    single = create_model('vdcnn9', 3, **fields)
    shapes = jax.eval_shape(
        lambda: single.init(jax.random.key(0), jnp.zeros((1, 16), jnp.int32), train=False)
    )
    shape = {path: x.shape for path, x in jax.tree_util.tree_leaves_with_path(dict(shapes))}
    held = {path: x.shape for path, x in jax.tree_util.tree_leaves_with_path(variables)}
    assert shape == held
    with jax.enable_x64(True):
        model = single.clone(dtype=jnp.float64)
        ours = jax.tree.map(jnp.asarray, variables)
        for train in (False, True):
            net.train(train)
            with torch.no_grad():
                expected = net(torch.tensor(x)).numpy()
            found, _ = model.apply(ours, jnp.asarray(x), train=train, mutable=['batch_stats'])
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    'images', [jnp.zeros((2, 8)), jnp.zeros((2, 8, 1), jnp.int32), jnp.zeros((2, 8, 8, 3))]
)
def test_it_takes_whole_numbers_only(images):
    model = create_model('vdcnn9', 3)
    with pytest.raises(InputError, match=r'takes whole numbers of shape \[N, L\]'):
        jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def test_an_embedding_is_of_one_dimension():
    with pytest.raises(InputError, match="stem 'embedding' is made for dimensions=1, got 2"):
        create_model('resnet18', stem='embedding')


@pytest.mark.slow
def test_folding_keeps_the_embedding():
    model = create_model('vdcnn9', 3, width=8, stem_width=8, stage_sizes=(1, 1))
    x = jax.random.randint(jax.random.key(1), (3, 20), 0, 256)
    variables = model.init(jax.random.key(0), x, train=False)
    folded, new = fold(model, variables)
    np.testing.assert_array_equal(
        new['params']['stem']['embedding']['embedding'],
        variables['params']['stem']['embedding']['embedding'],
    )
    np.testing.assert_allclose(
        folded.apply(new, x, train=False), model.apply(variables, x, train=False), atol=1e-5
    )


# The files


def test_a_text_is_its_first_bytes(tmp_path):
    file = tmp_path / 'a.txt'
    file.write_bytes('höh!'.encode())
    np.testing.assert_array_equal(read_text(file, 8), [104, 195, 182, 104, 33, 0, 0, 0])
    np.testing.assert_array_equal(read_text(file, 3), [104, 195, 182])
    assert read_text(file, 3).dtype == np.uint8
    file.write_bytes(b'')
    with pytest.raises(InputError, match=r'a\.txt: the file is empty'):
        read_text(file, 8)
    with pytest.raises(InputError, match=r'b\.txt: cannot be read \(No such file'):
        read_text(tmp_path / 'b.txt', 8)


def test_a_folder_of_texts(tmp_path):
    name = texts(tmp_path)
    (tmp_path / 'texts' / 'train' / 'cow' / 'cow.png').write_bytes(b'')
    (tmp_path / 'empty').mkdir()
    source = data.open_source(name, 'train', length=40)
    assert (len(source), source.space, source.noun, source.vocabulary) == (24, (40,), 'texts', 256)
    assert source.class_names == tuple(sorted(WORDS))
    assert source.notes == ('left out 1 files that are no texts (1 .png)',)
    example = source[0]
    assert bytes(example['image']).rstrip(b'\0').decode() == (
        (tmp_path / 'texts' / 'train' / 'bird' / '0.txt').read_text()
    )
    assert data.fingerprint(source)['classes']['cow']['images'] == 8
    with pytest.raises(InputError, match=r'needs data\.length.* such as 1024: how many'):
        data.open_source(name, 'train')
    with pytest.raises(InputError, match=r'no text in it\); texts belong in .* train/cat/1\.txt'):
        data.open_source(f'text:{tmp_path / "empty"}', 'train', length=8)


def test_texts_are_not_normalised():
    found = Preprocessing(8, 1, None, (0.0,), (1.0,), ('a', 'b'), dimensions=1, vocabulary=256)
    assert found.input_shape == found.model_shape == found.model_space == (8,)
    assert Preprocessing.from_json(found.to_json()) == found
    text = np.arange(8, dtype=np.uint8)
    normalised = found.normalize(jnp.asarray(found.prepare(text))[None])
    assert normalised.dtype == jnp.int32 and normalised[0].tolist() == list(range(8))
    with pytest.raises(InputError, match=r'hold series \[L, C\], and the model takes texts \[L\]'):
        found.prepare(text[:, None])


# Runs

FIELDS = {
    'model.name': 'vdcnn9', 'model.width': 8, 'model.stem_width': 8, 'model.stage_sizes': '(1, 1)',
    'data.length': 40, 'augment.transforms': '()', 'train.batch_size': 8, 'train.steps': 60,
    'train.eval_every': 30, 'checkpoint.every': 30, 'optim.learning_rate': 0.05,
}  # fmt: skip


def settings(name, **changes):
    return tiny({'data.name': name, **FIELDS, **changes})


def test_a_run_learns_texts_and_predicts_files(tmp_path, ask):
    loop.train(settings(texts(tmp_path)), tmp_path / 'run')
    assert ask('eval', '--workdir', tmp_path / 'run')['top1'] == 1.0
    new = tmp_path / 'new'
    new.mkdir()
    (new / 'a.txt').write_text('moo ruminate moo')
    (new / 'b.md').write_text('chirp tweet')
    found = ask('predict', '--workdir', tmp_path / 'run', new)['predictions']
    assert [item['top'][0]['class'] for item in found] == ['cow', 'bird']


@pytest.mark.slow
def test_a_resumed_run_is_the_same(tmp_path):
    name = texts(tmp_path)
    same = {'checkpoint.every': 4, 'train.eval_every': 4, 'optim.schedule': 'constant'}
    whole = settings(name, **same, **{'train.steps': 8})
    loop.train(whole, tmp_path / 'whole')
    loop.train(settings(name, **same, **{'train.steps': 4}), tmp_path / 'parts')
    loop.train(whole, tmp_path / 'parts', extend=True)
    lines = [
        [json.loads(line) for line in (tmp_path / run / 'metrics.jsonl').open()][-1]
        for run in ('whole', 'parts')
    ]
    assert lines[0]['loss'] == lines[1]['loss'] and lines[0]['step'] == lines[1]['step'] == 8


@pytest.mark.slow
@pytest.mark.parametrize('file', ['net.onnx', 'net.stablehlo'])
def test_an_exported_file_gives_the_same_logits(file, tmp_path, ask):
    pytest.importorskip('onnxruntime')
    loop.train(settings(texts(tmp_path), **{'train.steps': 2}), tmp_path / 'run')
    made = ask('export', tmp_path / file, '--workdir', tmp_path / 'run')
    assert made['input']['dtype'] == 'int32' and made['input']['shape'] == ['N', 40]
    about = ask('eval', '--exported', tmp_path / file, '--workdir', tmp_path / 'run')
    assert about['loss'] == pytest.approx(ask('eval', '--workdir', tmp_path / 'run')['loss'])


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'model.name': 'cifar_resnet8', 'model.stem_width': None}, 'such as vdcnn9, or set model'),
        ({'data.name': 'digits', 'data.length': None}, 'vdcnn9 here takes whole numbers; choose'),
        ({'augment.transforms': '("jitter",)'}, "'jitter' takes series, and the model texts"),
        ({'data.length': 0}, 'data.length must be'),
        ({'model.vocabulary': 100}, 'vocabulary must be at least 256'),
    ],
)
def test_settings_that_do_not_go_with_texts(tmp_path, fields, message):
    name = texts(tmp_path, per_class=4)
    with pytest.raises(InputError) as error:
        open_inputs(settings(name, **fields))
    assert message in str(error.value) and '\n' not in str(error.value)


def test_the_length_of_texts_is_needed_and_goes_with_them_only(tmp_path, capsys):
    folder = texts(tmp_path)
    arguments = ['train', '--config', f'text_bytes:{folder.partition(":")[2]}']
    assert main([*arguments, '--config.data.length=None', '--workdir', str(tmp_path / 'r')]) == 2
    assert 'needs data.length' in capsys.readouterr().err
    with pytest.raises(InputError, match=r'data\.length has no effect without data\.name=text'):
        configs.load_config('digits', [('data.length', '40')])


# The example's data


@pytest.fixture(scope='module')
def maker():
    """docs/beyond_images_data.py as a module."""
    path = ROOT / 'docs' / 'beyond_images_data.py'
    spec = importlib.util.spec_from_file_location('beyond_images_data', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pieces_of_manual_pages(maker, tmp_path):
    text = 'Die \\fBKatze\\fP frisst \\-\\-alles\n.br\nund schläft.\n'
    page = '.TH CAT 1\n.\\" a comment\n' + 60 * text
    for language in ('de', 'pt_BR'):
        for name in ('cat.1', 'dog.1', 'ls.1', 'cow.8', 'fox.5'):
            folder = tmp_path / 'man' / language / f'man{name[-1]}'
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f'{name}.gz').write_bytes(gzip.compress(page.encode()))
    count = maker.write_texts(tmp_path, tmp_path / 'out')
    files = sorted(path for path in (tmp_path / 'out').rglob('*.txt'))
    assert count == len(files) == 2 * 5 * maker.PIECES_PER_PAGE
    splits = {}
    for file in files:
        splits.setdefault(file.name.rpartition('-')[0], set()).add(file.parts[-3])
    assert all(len(found) == 1 for found in splits.values())  # the same in both languages
    for file in files:
        text = file.read_bytes()
        assert 0 < len(text) <= maker.PIECE
        assert text.decode().split()[:1] and set(text.decode().split()) <= {
            *('Die', 'Katze', 'frisst', '--alles', 'und', 'schläft.')
        }


def test_sounds_are_copied_once(maker, tmp_path):
    for language in ('de', 'en_GB'):
        for kind, name in (('alpha', 'a'), ('alpha', 'b'), ('syllab', 'a')):
            folder = tmp_path / 'klettres' / language / kind
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f'{name}.ogg').write_bytes(f'{language}{kind}{name}'.encode())
    assert maker.write_sounds(tmp_path, tmp_path / 'out') == 6
    found = sorted(path.read_text() for path in (tmp_path / 'out').rglob('*.ogg'))
    names = ('alphaa', 'alphab', 'syllaba')
    assert found == sorted(f'{x}{y}' for x in ('de', 'en_GB') for y in names)
