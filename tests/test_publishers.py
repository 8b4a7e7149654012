"""Files as publishers and training scripts lay them out: what loads, and what is left over."""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import functools
import os
import pathlib
import pickle
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from random_models import random_variables
from running import differing, tiny

import resnet_jax
from resnet_jax import create_model, from_pretrained, load_weights
from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.inference.published import pretrained_preprocessing
from resnet_jax.interop import hub, save_weights
from resnet_jax.interop.weights import tensors_from_variables
from resnet_jax.training import build

torch = pytest.importorskip('torch')
import safetensors.numpy  # noqa: E402

SMALL = {'stage_sizes': (1, 1), 'width': 8, 'stem_width': 8}
CLASSES = 3
FLAGS = ['--model.stage_sizes=(1,1)', '--model.width=8', '--model.stem_width=8']
IMAGES = (1, 32, 32, 3)


def small(name='resnet18', num_classes=CLASSES, **overrides):
    return create_model(name, num_classes, **{**SMALL, **overrides})


@functools.cache
def variables_of(name, seed, channels=3):
    return random_variables(small(name), (*IMAGES[:-1], channels), seed)


def state_dict(name, seed, layout='torchvision'):
    """As a publisher's model gives it, with PyTorch's counters."""
    arrays = tensors_from_variables(variables_of(name, seed), small(name), layout)
    net = collections.OrderedDict((n, torch.tensor(np.asarray(a))) for n, a in arrays.items())
    counters = [n.replace('running_mean', 'num_batches_tracked') for n in net if 'mean' in n]
    return net | dict.fromkeys(counters, torch.tensor(7))


def under(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def body(net):
    return {name: t for name, t in net.items() if not name.startswith(('fc.', 'linear.'))}


def layers(*names):
    """Layers of other shapes than the net's: projections and the like."""
    return {f'{name}.weight': torch.ones(4, 4) for name in names}


def foreign(name, base=object):
    """A class of a package that is not installed."""
    module, _, kind = name.rpartition('.')
    return type(kind, (base,), {'__module__': module})


@contextlib.contextmanager
def importable(*kinds):
    """Makes foreign classes importable while a file with them is written."""
    made = {}
    for kind in kinds:
        parts = kind.__module__.split('.')
        for end in range(1, len(parts) + 1):
            name = '.'.join(parts[:end])
            made.setdefault(name, types.ModuleType(name))
        setattr(made[kind.__module__], kind.__name__, kind)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in made.items():
            patch.setitem(sys.modules, name, module)
        yield


HISTORY = foreign('mmengine.logging.history_buffer.HistoryBuffer')
OPTIONS = foreign('pytorch_lightning.utilities.parsing.AttributeDict', dict)


@dataclasses.dataclass(frozen=True)
class Publisher:
    """What a publisher's files look like.

    Attributes:
      file: a usual name.
      content: (the net that is to be loaded, another net) -> what torch.save gets.
      left: the groups that are noted as left over.
      head: whether the file has a classifier.
      other: the key of the other net.
      model: a registered name.
      layout: of the net's names.
      legacy: whether the file is of the format before PyTorch 1.6.
    """

    file: str
    content: Callable[[Any, Any], Any]
    left: frozenset[str] = frozenset()
    head: bool = True
    other: str | None = None
    model: str = 'resnet18'
    layout: str = 'torchvision'
    legacy: bool = False

    def save(self, folder):
        path = folder / self.file
        nets = [state_dict(self.model, seed, self.layout) for seed in (0, 1)]
        content = self.content(*nets)
        with importable(HISTORY, OPTIONS):
            torch.save(content, path, _use_new_zipfile_serialization=not self.legacy)
        return path

    def expected(self, seed):
        found = variables_of(self.model, seed)
        if self.head:
            return found
        return found | {'params': {k: v for k, v in found['params'].items() if k != 'head'}}


OPTIMIZER = {'state': {0: {'momentum_buffer': torch.ones(3)}}, 'param_groups': [{'lr': 0.1}]}


def _timm(net, other):
    options = argparse.Namespace(model='resnet18', lr=0.1, mean=None, output=pathlib.Path('out'))
    return {
        'epoch': 3,
        'arch': 'resnet18',
        'state_dict': other,
        'optimizer': OPTIMIZER,
        'version': 2,
        'args': options,
        'amp_scaler': {'scale': 65536.0},
        'state_dict_ema': net,
        'metric': np.float64(71.5),
    }


def _script(net, other):
    """The loose ends that scripts keep: NumPy's numbers and random state, counts, times, paths."""
    history = collections.defaultdict(list, loss=[np.float32(0.5)], top1=[np.int64(3)])
    return {
        'net': net,
        'history': history,
        'mean': np.array([0.5, 0.25]),
        'rng': np.random.RandomState(0).get_state(),
        'time': datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        'took': datetime.timedelta(seconds=3),
        'folder': pathlib.Path('runs/1'),
        'version': torch.__version__,
        'best': np.bool_(True),
    }


def _mmpretrain(net, other):
    history = HISTORY()
    history.__dict__.update(_log_history=np.ones(3), _count_history=np.ones(3), max_length=9)
    head = {f'head.{name}': net[name] for name in ('fc.weight', 'fc.bias')}
    return {
        'meta': {'epoch': 3, 'experiment_name': 'r18', 'dataset_meta': {'classes': ('a', 'b')}},
        'state_dict': {
            **under('backbone.', body(net)),
            **head,
            'data_preprocessor.mean': torch.ones(3),
        },
        'message_hub': {'log_scalars': collections.OrderedDict({'train/lr': history})},
        'optimizer': OPTIMIZER,
    }


def _lightning(net, other):
    return {
        'epoch': 3,
        'pytorch-lightning_version': '2.4.0',
        'state_dict': under('model.', net) | {'criterion.weight': torch.ones(3)},
        'loops': {'fit_loop': {'state_dict': {}, 'epoch_progress': {'total': {'ready': 3}}}},
        'callbacks': {"ModelCheckpoint{'monitor': 'val'}": {'best_model_score': torch.tensor(0.5)}},
        'optimizer_states': [OPTIMIZER],
        'lr_schedulers': [],
        'hparams_name': 'kwargs',
        'hyper_parameters': OPTIONS(lr=0.1, arch='resnet18'),
    }


def _moco_v2(net, other):
    projections = layers('encoder_q.fc.0', 'encoder_q.fc.2', 'encoder_k.fc.0', 'encoder_k.fc.2')
    queue = {'queue': torch.ones(4, 8), 'queue_ptr': torch.zeros(1, dtype=torch.int64)}
    nets = under('encoder_q.', body(net)) | under('encoder_k.', body(other))
    saved = under('module.', nets | projections | queue)
    return {'epoch': 200, 'arch': 'resnet50', 'state_dict': saved, 'optimizer': OPTIMIZER}


def _moco_v1(net, other):
    """Its projection is one layer, called as a classifier is."""
    queue = {'queue': torch.ones(4, 8), 'queue_ptr': torch.zeros(1, dtype=torch.int64)}
    nets = under('encoder_k.', other) | under('encoder_q.', net)
    return {'epoch': 200, 'state_dict': under('module.', nets | queue)}


def _moco_v3(net, other):
    nets = under('momentum_encoder.', body(other)) | under('base_encoder.', body(net))
    extra = layers('base_encoder.fc.0', 'base_encoder.fc.3', 'momentum_encoder.fc.0', 'predictor.0')
    return {'epoch': 300, 'state_dict': under('module.', nets | extra)}


def _simsiam(net, other):
    extra = layers('encoder.fc.0', 'encoder.fc.3', 'predictor.0', 'predictor.3')
    return {'state_dict': under('module.', under('encoder.', body(net)) | extra)}


def _byol(net, other):
    nets = under('target_encoder.net.', body(other)) | under('online_encoder.net.', body(net))
    return nets | layers('online_encoder.projector.0', 'target_encoder.projector.0', 'predictor.0')


def _dino(net, other):
    heads = layers('head.mlp.0', 'head.mlp.2', 'head.last_layer')
    return {
        'student': under('module.', under('backbone.', body(other)) | heads),
        'teacher': under('backbone.', body(net)) | heads,
        'optimizer': OPTIMIZER,
        'epoch': 100,
        'args': argparse.Namespace(arch='resnet50', lr=0.03),
        'dino_loss': {'center': torch.zeros(1, 4)},
    }


def _vissl(net, other):
    model = {'trunk': under('_feature_blocks.', body(net)), 'heads': layers('0.clf.0')}
    return {'classy_state_dict': {'base_model': {'model': model}}, 'phase_idx': 99}


PUBLISHERS = {
    'torchvision': Publisher('resnet18-f37072fd.pth', lambda net, _: net),
    'PyTorch before 1.6': Publisher('resnet18-5c106cde.pth', lambda net, _: net, legacy=True),
    'PyTorch, imagenet example': Publisher(
        'model_best.pth.tar',
        lambda net, _: {
            'epoch': 90,
            'arch': 'resnet18',
            'state_dict': under('module.', net),
            'best_acc1': torch.tensor(69.7),
            'optimizer': OPTIMIZER,
        },
        frozenset({'best_acc1'}),
    ),
    'timm, published': Publisher(
        'pytorch_model.bin', lambda net, _: net, model='resnetv2_18', layout='timm_v2'
    ),
    'timm, training': Publisher(
        'checkpoint-3.pth.tar', _timm, frozenset({'state_dict'}), other='state_dict'
    ),
    'Hugging Face': Publisher('pytorch_model.bin', lambda net, _: net, layout='huggingface'),
    'CIFAR, akamaster': Publisher(
        'resnet20-12fca82f.th',
        lambda net, _: {'state_dict': under('module.', net), 'best_prec1': 91.73},
        model='cifar_resnet20',
        layout='cifar',
    ),
    'CIFAR, kuangliu': Publisher(
        'ckpt.pth',
        lambda net, _: {'net': under('module.', net), 'acc': 95.5, 'epoch': 199},
        model='cifar_resnet20',
        layout='cifar',
    ),
    'scripts': Publisher('checkpoint', _script),
    'mmpretrain': Publisher(
        'epoch_100.PTH', _mmpretrain, frozenset({'state_dict.data_preprocessor'})
    ),
    'Lightning': Publisher(
        'epoch=3-step=99.ckpt', _lightning, frozenset({'state_dict.criterion', 'callbacks'})
    ),
    'MoCo v1': Publisher(
        'moco_v1_200ep_pretrain.pth.tar',
        _moco_v1,
        frozenset(
            f'state_dict.module.{x}' for x in ('encoder_q.fc', 'encoder_k', 'queue', 'queue_ptr')
        ),
        head=False,
        other='encoder_k',
    ),
    'MoCo v2': Publisher(
        'moco_v2_800ep_pretrain.pth.tar',
        _moco_v2,
        frozenset(
            f'state_dict.module.{x}' for x in ('encoder_q.fc', 'encoder_k', 'queue', 'queue_ptr')
        ),
        head=False,
        other='encoder_k',
    ),
    'MoCo v3': Publisher(
        'r-50-300ep.pth.tar',
        _moco_v3,
        frozenset(
            f'state_dict.module.{x}' for x in ('base_encoder.fc', 'momentum_encoder', 'predictor')
        ),
        head=False,
        other='momentum_encoder',
    ),
    'SimSiam': Publisher(
        'checkpoint_0099.pth.tar',
        _simsiam,
        frozenset({'state_dict.module.encoder.fc', 'state_dict.module.predictor'}),
        head=False,
    ),
    'BYOL': Publisher(
        'byol.pt',
        _byol,
        frozenset({'online_encoder.projector', 'target_encoder', 'predictor'}),
        head=False,
        other='target_encoder.net',
    ),
    'DINO': Publisher(
        'dino_resnet50_pretrain_full_checkpoint.pth',
        _dino,
        frozenset({'teacher.head', 'student', 'dino_loss'}),
        head=False,
        other='student',
    ),
    'Barlow Twins': Publisher('resnet50.pth', lambda net, _: body(net), head=False),
    'SwAV': Publisher(
        'swav_800ep_pretrain.pth.tar',
        lambda net, _: under('module.', body(net) | layers('projection_head.0', 'prototypes')),
        frozenset({'module.projection_head', 'module.prototypes'}),
        head=False,
    ),
    'VISSL': Publisher(
        'model_final_checkpoint_phase99.torch',
        _vissl,
        frozenset({'classy_state_dict.base_model.model.heads'}),
        head=False,
    ),
}
ALL = pytest.mark.parametrize('publisher', PUBLISHERS.values(), ids=PUBLISHERS)


def without_new_head(loaded, publisher):
    if not publisher.head:
        loaded['params'].pop('head')
    return loaded


@ALL
def test_the_right_net_loads_and_the_rest_is_noted(publisher, tmp_path, capsys):
    path, model = publisher.save(tmp_path), small(publisher.model)
    loaded = load_weights(path, model, reset_head=not publisher.head)
    assert not differing(without_new_head(loaded, publisher), publisher.expected(0))
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == bool(publisher.left)
    if notes:
        found = re.fullmatch(
            rf'note: {re.escape(path.name)}: took .*; left over: (.*) \(.*\)', notes[0]
        )
        assert found, notes
        assert {group.partition(' x ')[0] for group in found[1].split(', ')} == publisher.left


@pytest.mark.parametrize(
    'publisher', [p for p in PUBLISHERS.values() if not p.head], ids=lambda p: p.file
)
def test_a_net_without_a_head_asks_for_a_new_one(publisher, tmp_path):
    with pytest.raises(InputError, match=r'the body of the model and no head.*set reset_head'):
        load_weights(publisher.save(tmp_path), small(publisher.model))


@pytest.mark.parametrize(
    'publisher', [p for p in PUBLISHERS.values() if p.other], ids=lambda p: p.file
)
def test_a_key_chooses_another_net(publisher, tmp_path):
    path, model = publisher.save(tmp_path), small(publisher.model)
    settings = {'reset_head': not publisher.head}
    loaded = load_weights(path, model, weights_key=publisher.other, **settings)
    assert not differing(without_new_head(loaded, publisher), publisher.expected(1))
    with pytest.raises(InputError, match=rf"'nets' .*there are .*\b{publisher.other}\b"):
        load_weights(path, model, weights_key='nets', **settings)


def test_a_key_for_a_file_of_one_net(tmp_path):
    path = PUBLISHERS['torchvision'].save(tmp_path)
    with pytest.raises(InputError, match='the file has one net, leave the key out'):
        load_weights(path, small(), weights_key='ema')


def test_the_table_of_the_documentation():
    text = (pathlib.Path(resnet_jax.__file__).parents[1] / 'docs' / 'weights.md').read_text()
    table = text.partition('## Publishers and layouts tried')[2].partition('\n## ')[0]
    rows = [line.split('|')[1].strip() for line in table.splitlines() if line.startswith('|')]
    assert rows[2:] == list(PUBLISHERS)


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'weights', 'weights.pth', 'x.npz'])
def test_the_content_says_the_format(name, tmp_path):
    """Whatever the name: safetensors, .npz and PyTorch's file under each of these."""
    arrays = tensors_from_variables(variables_of('resnet18', 0), small(), 'torchvision')
    path = tmp_path / name

    def write_npz():
        with path.open('wb') as file:
            np.savez(file, **arrays)

    for write in (
        lambda: safetensors.numpy.save_file(arrays, path),
        write_npz,
        lambda: torch.save(state_dict('resnet18', 0), path),
    ):
        write()
        assert not differing(load_weights(path, small()), variables_of('resnet18', 0))


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


HIDDEN = {  # where a file may hold it
    'bare': lambda net, bad: bad,
    'a tensor': lambda net, bad: net | {'x': bad},
    'options': lambda net, bad: {'args': argparse.Namespace(x=bad), 'state_dict': net},
    'an array of objects': lambda net, bad: {'x': np.array([bad], object), 'state_dict': net},
    'the default of a dict': lambda net, bad: {
        'x': collections.defaultdict(os.mkdir), 'state_dict': net
    },
}  # fmt: skip


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')  # PyTorch's, before it refuses
@pytest.mark.parametrize('where', HIDDEN)
def test_code_is_refused_by_name_and_never_run(where, tmp_path):
    before = set(torch.serialization.get_safe_globals())
    trace = tmp_path / 'trace'
    content = HIDDEN[where](state_dict('resnet18', 0), Harmful(trace))
    torch.save(content, tmp_path / 'new.pth')
    torch.save(content, tmp_path / 'old.ckpt', _use_new_zipfile_serialization=False)
    with (tmp_path / 'plain.pkl').open('wb') as file:
        pickle.dump(content if where == 'bare' else Harmful(trace), file, protocol=2)
    for file in ('new.pth', 'old.ckpt', 'plain.pkl'):
        with pytest.raises(
            InputError, match=r'more than tensors: (\w+\.mkdir|numpy\.\S+);'
        ) as error:
            load_weights(tmp_path / file, small())
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(
        InputError, match=rf'more than tensors: {os.mkdir.__module__}\.mkdir; .*not'
    ):
        load_weights(tmp_path / 'new.pth', small())
    assert not trace.exists()
    assert set(torch.serialization.get_safe_globals()) == before


def test_a_pickled_model_is_named(tmp_path):
    net = foreign('mynets.Net', torch.nn.Linear)
    with importable(net):
        torch.save(net(2, 2), tmp_path / 'net.pth')
    with pytest.raises(
        InputError, match=r'more than tensors: .*mynets\.Net.*model\.state_dict\(\)'
    ):
        load_weights(tmp_path / 'net.pth', small())


# The stem


def stem_of(variables):
    return np.asarray(variables['params']['stem']['conv1']['kernel'])


def saved(tmp_path, channels, name='resnet18'):
    path = tmp_path / 'x.npz'
    save_weights(path, variables_of(name, 0, channels), small(name), layout='torchvision')
    return path, stem_of(variables_of(name, 0, channels))


@pytest.mark.parametrize(('theirs', 'ours'), [(3, 1), (3, 6), (3, 3), (1, 3), (6, 3), (4, 1)])
def test_a_stem_for_other_channels_answers_as_before(theirs, ours, tmp_path, capsys):
    """To images of equal channels."""
    path, kernel = saved(tmp_path, theirs)
    adapted = load_weights(path, small(), channels=ours, adapt_stem=True)
    patch = np.random.default_rng(0).normal(size=(7, 7, 1))
    before = np.tensordot(np.repeat(patch, theirs, -1), kernel, 3)
    if (theirs, ours) == (6, 3):  # of three of the six channels, twice
        before = np.tensordot(np.repeat(patch, 3, -1), 2 * kernel[:, :, :3], 3)
    after = np.tensordot(np.repeat(patch, ours, -1), stem_of(adapted), 3)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == (theirs != ours)
    assert all(f'for {theirs} channels' in note for note in notes)
    adapted['params']['stem']['conv1']['kernel'] = kernel
    assert not differing(adapted, variables_of('resnet18', 0, theirs))


def test_what_a_stem_for_other_channels_holds(tmp_path):
    path, kernel = saved(tmp_path, 3)

    def adapted(channels):
        return stem_of(load_weights(path, small(), channels=channels, adapt_stem=True))

    np.testing.assert_allclose(adapted(1)[..., 0, :], kernel.sum(-2), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(adapted(6), np.concatenate([kernel, kernel], -2) / 2)
    np.testing.assert_allclose(adapted(4), kernel[:, :, [0, 1, 2, 0]] * (3 / 4), rtol=1e-6)


def test_other_channels_are_refused_unless_asked_for(tmp_path):
    path, _ = saved(tmp_path, 3)
    with pytest.raises(InputError, match=r'images of 3 channels.* to take 1; set adapt_stem=True'):
        load_weights(path, small(), channels=1)


def test_convert_takes_a_key_and_channels(tmp_path, capsys):
    path, out = PUBLISHERS['timm, training'].save(tmp_path), tmp_path / 'y.safetensors'
    options = ['--weights-key=state_dict', '--adapt-stem=1', *FLAGS]
    assert main(['convert', str(path), str(out), '--model=resnet18', *options]) == 0
    notes = capsys.readouterr().err
    assert 'took state_dict, ' in notes
    assert 'stem for 3 channels are summed to 1' in notes
    loaded, expected = load_weights(out, small()), variables_of('resnet18', 1)
    kernel = stem_of(expected).sum(-2, keepdims=True)
    np.testing.assert_allclose(stem_of(loaded), kernel, rtol=1e-5, atol=1e-6)
    assert differing(loaded, expected) == ["['params']['stem']['conv1']['kernel']"]


def test_a_run_starts_from_a_key_and_adapts_the_stem(tmp_path, capsys):
    """The config's images have one channel, the file's three."""
    path = PUBLISHERS['timm, training'].save(tmp_path)
    fields = {'model.name': 'resnet18', 'model.stage_sizes': '(1, 1)', 'init.weights': path}
    fields |= {'model.width': 8, 'model.stem_width': 8, 'init.reset_head': True}
    fields |= {'init.weights_key': 'state_dict', 'data.image_size': 8}
    with pytest.raises(InputError, match='of 3 channels, the model is to take 1'):
        build.build_run(tiny(fields)).init_state()
    params = build.build_run(tiny(fields | {'init.adapt_stem': True})).init_state().params
    expected = variables_of('resnet18', 1)['params']
    kernel = stem_of({'params': params})
    np.testing.assert_allclose(
        kernel, stem_of({'params': expected}).sum(-2, keepdims=True), rtol=1e-5, atol=1e-6
    )
    assert not differing(params['stage2'], expected['stage2'])
    assert params['head']['kernel'].shape == (16, 10)
    assert 'summed to 1' in capsys.readouterr().err


# The model and its weights in one call


@pytest.mark.parametrize('name', ['torchvision', 'timm, published', 'DINO', 'CIFAR, akamaster'])
def test_from_pretrained(name, tmp_path):
    publisher = PUBLISHERS[name]
    path = publisher.save(tmp_path)
    classes = None if publisher.head else 5
    model, variables = from_pretrained(publisher.model, path, num_classes=classes, **SMALL)
    assert model.num_classes == (classes or CLASSES)
    assert model.apply(variables, np.zeros(IMAGES), train=False).shape == (1, model.num_classes)
    assert not differing(without_new_head(variables, publisher), publisher.expected(0))


def test_from_pretrained_sets_the_fields_that_a_layout_needs(tmp_path):
    """timm's pre-activation activates the first block's branch alone; he2016's net its shortcut."""
    path = PUBLISHERS['timm, published'].save(tmp_path)
    model, variables = from_pretrained('preact_resnet18', path, **SMALL)
    assert model.block.raw_first_shortcut
    assert not differing(variables, variables_of('resnetv2_18', 0))
    with pytest.raises(InputError, match='set raw_first_shortcut=True'):
        from_pretrained('preact_resnet18', path, raw_first_shortcut=False, **SMALL)


def test_from_pretrained_with_other_classes(tmp_path):
    path = PUBLISHERS['torchvision'].save(tmp_path)
    load = functools.partial(from_pretrained, 'resnet18', path, **SMALL)
    _, same = load(num_classes=CLASSES)
    assert not differing(same, variables_of('resnet18', 0))
    model, new = load(num_classes=7, key=jax.random.key(3))
    assert model.num_classes == 7
    heads = [new['params'].pop('head')]
    for seed in (3, 4):
        heads.append(load(num_classes=7, key=jax.random.key(seed))[1]['params']['head'])
    assert heads[0]['kernel'].shape == (16, 7)
    assert not differing(heads[0], heads[1])
    assert differing(heads[0], heads[2])
    same['params'].pop('head')
    assert not differing(new, same)


def test_from_pretrained_for_other_channels(tmp_path):
    path = PUBLISHERS['torchvision'].save(tmp_path)
    with pytest.raises(InputError, match='set adapt_stem=True'):
        from_pretrained('resnet18', path, channels=1, **SMALL)
    _, variables = from_pretrained('resnet18', path, channels=1, adapt_stem=True, **SMALL)
    assert stem_of(variables).shape == (7, 7, 1, 8)


def test_from_pretrained_without_a_head_wants_the_classes(tmp_path):
    path = PUBLISHERS['Barlow Twins'].save(tmp_path)
    with pytest.raises(InputError, match=r'has no head.*give num_classes'):
        from_pretrained('resnet18', path, **SMALL)


def test_create_model_with_weights_names_from_pretrained():
    with pytest.raises(InputError, match='from_pretrained'):
        create_model('resnet18', weights='torchvision:v1')


def test_the_preprocessing_of_pretrained_weights(tmp_path):
    path = PUBLISHERS['torchvision'].save(tmp_path)
    found, assumed = pretrained_preprocessing('resnet18', path, overrides=SMALL)
    assert (assumed, found.image_size, found.resize) == (True, 224, 256)
    found, assumed = pretrained_preprocessing(
        'resnet18', path, overrides=SMALL, known='torchvision_v2'
    )
    assert (assumed, found.resize) == (False, 232)


def test_a_variant_is_completed_with_the_models_name():
    assert hub.completed('torchvision:v2', 'resnet50') == 'torchvision:resnet50:v2'
    for spec in ('torchvision:resnet50', 'v2', pathlib.Path('torchvision:v2')):
        assert hub.completed(spec, 'resnet50') == spec
    with pytest.raises(InputError, match=r"variant of torchvision:resnet18 'v2'.*v1"):
        from_pretrained('resnet18', 'torchvision:v2')
