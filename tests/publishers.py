"""Files as publishers and training scripts lay them out, with small nets."""

import argparse
import collections
import contextlib
import dataclasses
import datetime
import functools
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from random_models import random_variables

from resnet_jax import create_model
from resnet_jax.interop.weights import tensors_from_variables

torch = pytest.importorskip('torch')

SMALL = {'stage_sizes': (1, 1), 'width': 8, 'stem_width': 8}
CLASSES = 3
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


def _mmpretrain_averaged(net, other):
    """mmengine/hooks/ema_hook.py: the averaged weights are saved as state_dict."""
    last = under('module.backbone.', body(other))
    head = {f'module.head.{name}': other[name] for name in ('fc.weight', 'fc.bias')}
    return _mmpretrain(net, other) | {'ema_state_dict': last | head | {'steps': torch.tensor(9)}}


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
    'mmpretrain, averaged': Publisher(
        'epoch_100.pth',
        _mmpretrain_averaged,
        frozenset({'state_dict.data_preprocessor', 'ema_state_dict'}),
        other='ema_state_dict',
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
