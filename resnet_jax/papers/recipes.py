"""How each paper trained, as fields of a config: what `reproduce` runs at full scale.

The numbers are those that the papers state, as the project's collection of published facts has
them. What it does not have is either taken from the authors' code, which is then named, or is this
project's choice; both stand in `Recipe.unstated`. What is known to be another thing than the
paper's, because nothing here does it or because the paper's own is not known, stands in
`Recipe.differs`; a run of such a recipe says nothing about the paper's figure itself.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from resnet_jax.papers.table import Table

Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the rows of a paper's tables on one kind of data were trained.

    Attributes:
      base: a file of configs/.
      fields: of the config, for all rows. Length, boundaries and warm-up are always among them.
      by_model: model -> fields of its rows that differ.
      by_row: name of a row -> fields that differ, in the few tables that compare recipes.
      runs: how many the paper reports for a row.
      runs_of: name of a row -> how many, where it differs.
      unstated: choices that the reference does not back.
      differs: what is known not to be the paper's.
    """

    base: str
    fields: Fields
    by_model: Mapping[str, Fields] = dataclasses.field(default_factory=dict)
    by_row: Mapping[str, Fields] = dataclasses.field(default_factory=dict)
    runs: int = 1
    runs_of: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unstated: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    def of_row(self, name: str, model: str) -> dict[str, Any]:
        """What a row's config sets besides `fields`."""
        return {**self.by_model.get(model, {}), **self.by_row.get(name, {})}

    def runs_for(self, name: str) -> int:
        """How many runs the paper reports for a row."""
        return self.runs_of.get(name, self.runs)


# Table.data -> the data set, and how many training images its `train` split has.
DATA = {'cifar10': 'tfds:cifar10', 'cifar100': 'tfds:cifar100', 'imagenet': 'tfds:imagenet2012'}
TRAIN_IMAGES = {'cifar10': 50_000, 'cifar100': 50_000, 'imagenet': 1_281_167}
HELD_OUT = 5_000  # of CIFAR's 50,000: 'train[:45000]'


def recipe_of(table: Table) -> Recipe:
    """The recipe of a table's paper on its kind of data."""
    return RECIPES[table.paper, 'imagenet' if table.data == 'imagenet' else 'cifar']


# he2015, section 4.2: "4 pixels are padded on each side, and a 32x32 crop is randomly sampled from
# the padded image or its horizontal flip"; the papers after it say "the same" or "standard".
_CROP_AND_FLIP = {'augment.pad': 4, 'augment.pad_mode': 'zero', 'augment.flip': True}
_SGD = {'optim.name': 'sgd', 'optim.learning_rate': 0.1, 'optim.momentum': 0.9}
# Equal blocks are compiled once: the same function, in minutes instead of hours at 1001 layers.
_DEEP = {'model.scan_blocks': True}
# he2015, section 4.2: "we use 0.01 to warm up the training until the training error is below 80 %
# (about 400 iterations), and then go back to 0.1"; he2016 warms up every run so.
_WARM_UP = {'optim.warmup': 400.0, 'optim.warmup_shape': 'constant', 'optim.warmup_start': 0.1}

# he2015, section 4.2.
_HE2015 = {
    **_CROP_AND_FLIP,
    **_SGD,
    **_DEEP,
    'data.train_split': 'train[:45000]',  # "a 45k/5k train/val split"
    'data.normalize': 'pixel',  # "with the per-pixel mean subtracted"
    'train.batch_size': 128,
    'train.steps': 64_000,
    'optim.nesterov': False,
    'optim.weight_decay': 1e-4,
    'optim.schedule': 'piecewise',
    'optim.schedule_unit': 'steps',
    'optim.boundaries': (32_000.0, 48_000.0),
    'optim.decay_factor': 0.1,
    'optim.warmup': 0.0,
}

# stochdepth, section 4: Nesterov, divided by 10 after half and three quarters of 500 epochs.
_STOCHDEPTH = {
    **_CROP_AND_FLIP,
    **_SGD,
    **_DEEP,
    'data.train_split': 'train[:45000]',
    'data.normalize': 'pixel',
    'train.batch_size': 128,
    'train.epochs': 500.0,
    'optim.nesterov': True,
    'optim.weight_decay': 1e-4,
    'optim.schedule': 'piecewise',
    'optim.schedule_unit': 'epochs',
    'optim.boundaries': (250.0, 375.0),
    'optim.decay_factor': 0.1,
    'optim.warmup': 0.0,
}

# wrn, section 3.
_WRN = {
    **_CROP_AND_FLIP,
    **_SGD,
    'augment.pad_mode': 'reflect',  # the reference: reflect pad
    'data.train_split': 'train',
    'data.normalize': 'channel',  # mean and deviation
    'train.batch_size': 128,
    'train.epochs': 200.0,
    'optim.nesterov': True,
    'optim.weight_decay': 5e-4,
    'optim.schedule': 'piecewise',
    'optim.schedule_unit': 'epochs',
    'optim.boundaries': (60.0, 120.0, 160.0),
    'optim.decay_factor': 0.2,
    'optim.warmup': 0.0,
}

# resnext, section 5.3.
_RESNEXT = {
    **_CROP_AND_FLIP,
    **_SGD,
    'data.train_split': 'train',
    'data.normalize': 'channel',
    'train.batch_size': 128,
    'train.epochs': 300.0,
    'optim.nesterov': True,
    'optim.weight_decay': 5e-4,
    'optim.schedule': 'piecewise',
    'optim.schedule_unit': 'epochs',
    'optim.boundaries': (150.0, 225.0),
    'optim.decay_factor': 0.1,
    'optim.warmup': 0.0,
}

# The common ImageNet recipe, arXiv 1706.02677, section 5.1; the rest stands in configs/imagenet.py.
_IMAGENET = {
    **_SGD,
    'train.batch_size': 256,
    'train.epochs': 90.0,
    'optim.scale_by_batch': 256,
    'optim.nesterov': False,
    'optim.weight_decay': 1e-4,
    'optim.schedule': 'piecewise',
    'optim.schedule_unit': 'epochs',
    'optim.boundaries': (30.0, 60.0, 80.0),
    'optim.decay_factor': 0.1,
    'optim.warmup': 5.0,
}
_STANDS_IN = (
    'the reference has no ImageNet recipe of this paper: that of arXiv 1706.02677 stands in'
)

# he2015, section 3.4: weight decay on all parameters, no warm-up; branches do not start at zero.
_HE2015_IMAGENET = {
    **_IMAGENET,
    'optim.warmup': 0.0,
    'optim.decay_norm_and_bias': True,
    'model.zero_init_last': False,
}

# rsb, table 2: what A1, A2 and A3 share. "BCE", LAMB, cosine after 5 epochs of warm-up; test crop
# ratio 0.95.
_RSB = {
    **_IMAGENET,
    'data.resize': 236,
    'train.batch_size': 2048,
    'train.epochs': 300.0,
    'optim.name': 'lamb',
    'optim.learning_rate': 5e-3,
    'optim.scale_by_batch': 2048,
    'optim.weight_decay': 0.02,
    'optim.decay_norm_and_bias': False,
    'optim.schedule': 'cosine',
    'optim.boundaries': (),
    'loss.name': 'binary_cross_entropy',
}

RECIPES: dict[tuple[str, str], Recipe] = {
    ('he2015', 'cifar'): Recipe(
        'cifar10.py',
        _HE2015,
        by_model={
            name: _WARM_UP for name in ('cifar_resnet110', 'cifar_resnet1202', 'cifar_plain110')
        },
        runs_of={'ResNet-110': 5},  # table 6: "best (mean +- std)" of 5
        unstated=(
            'the reference has the warm-up of ResNet-110; ResNet-1202 and plain-110 get it too',
            'runs for rows other than ResNet-110: taken to be one',
        ),
    ),
    ('he2016', 'cifar'): Recipe(
        'cifar10.py',
        {**_HE2015, **_WARM_UP},  # section 3, every run
        runs=5,
        unstated=(
            'the published figures are medians of 5 runs (table 4: mean and deviation); ours is '
            'the mean',
            'on CIFAR-100: the recipe of CIFAR-10',
        ),
    ),
    ('stochdepth', 'cifar'): Recipe(
        'cifar10.py',
        _STOCHDEPTH,
        unstated=(
            "initial rate 0.1, 45,000 training images: the authors' code "
            '(github.com/yueatsprograms/Stochastic_Depth)',
            'the per-pixel mean is subtracted as in he2015; the code also divides by one deviation',
            'the published figures are those of the epoch best in validation; ours of the last',
            'ResNet-1202 is trained as ResNet-110',
            'number of runs: taken to be one',
        ),
    ),
    ('wrn', 'cifar'): Recipe(
        'cifar10.py',
        _WRN,
        runs_of={'WRN-28-10': 5, 'WRN-28-10, dropout': 5},
        unstated=(
            "runs: WRN-28-10 has medians of 5 by the authors' README "
            '(github.com/szagoruyko/wide-residual-networks); other rows are taken to be one run',
            'training images: taken to be all 50,000',
            'tables 2 and 3: the recipe of table 5',
        ),
    ),
    ('resnext', 'cifar'): Recipe(
        'cifar10.py',
        _RESNEXT,
        unstated=(
            'Nesterov momentum, mean and deviation per channel, all 50,000 training images',
            'number of runs: taken to be one',
            "the authors' README (github.com/facebookresearch/ResNeXt) says that the arXiv "
            "paper's CIFAR figures are of pre-activated blocks at batch 256, and recommends these "
            'blocks at batch 128',
        ),
    ),
    ('he2015', 'imagenet'): Recipe(
        'imagenet.py',
        _HE2015_IMAGENET,
        differs=(
            'random resized crops instead of scales from 256 to 480 with colour augmentation',
            '90 epochs, divided by 10 at 30, 60 and 80, instead of whenever the error is flat',
            'one central crop is evaluated, also where the paper averages ten',
        ),
    ),
    ('resnext', 'imagenet'): Recipe('imagenet.py', _IMAGENET, differs=(_STANDS_IN,)),
    ('senet', 'imagenet'): Recipe('imagenet.py', _IMAGENET, differs=(_STANDS_IN,)),
    ('torchvision', 'imagenet'): Recipe('imagenet.py', _IMAGENET, differs=(_STANDS_IN,)),
    ('rsb', 'imagenet'): Recipe(
        'imagenet.py',
        _RSB,
        by_row={
            'A1': {
                'train.epochs': 600.0,
                'optim.weight_decay': 0.01,
                'loss.label_smoothing': 0.1,
                'model.stochastic_depth': 0.05,
            },
            'A2': {'model.stochastic_depth': 0.05},
            'A3': {
                'train.epochs': 100.0,
                'optim.learning_rate': 8e-3,
            },
        },
        unstated=(
            'all but the number of epochs: as other code has it '
            '(github.com/open-mmlab/mmpretrain, configs/resnet)',
        ),
        differs=(
            'no mixup, cutmix, RandAugment nor repeated augmentation',
            'A3 trains at 224 pixels instead of 160',
        ),
    ),
}
