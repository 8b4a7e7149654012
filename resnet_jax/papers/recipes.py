"""How each paper trained: a config of the package, and the fields in which the paper differs.

The numbers are those that the papers state, as the project's collection of published facts has
them; those of he2015 are in configs/cifar10.py and default.py, the common ImageNet recipe is in
configs/imagenet.py. Numbers that the collection lacks are taken from the authors' code, which is
then named, or are choices of this project; both are listed in `Recipe.unstated`. Where a recipe is
known to deviate from the paper's, because something is not implemented here or the paper's own is
not known, `Recipe.differs` says how; its results say nothing about the paper's figures.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from resnet_jax.papers.table import PublishedRow, PublishedTable
from resnet_jax.training import config as configs

Fields = Mapping[str, Any]
# PublishedTable.data -> the data set; of 'ucr' each row has its own.
DATA = {
    'cifar10': 'tfds:cifar10',
    'cifar100': 'tfds:cifar100',
    'imagenet': 'tfds:imagenet2012',
    'ucr': 'aeon:ArrowHead',
}
# ... and the kind of recipe, where that is not 'cifar'.
_KINDS = {'imagenet': 'imagenet', 'ucr': 'series'}
HELD_OUT = 5_000  # of CIFAR's 50,000: 'train[:45000]'
# Fields that every sweep of a recipe spells out, also those that it shares with the base config.
_STATED = (
    *('data.train_split', 'data.normalize', 'train.batch_size', 'train.steps', 'train.epochs'),
    *('optim.name', 'optim.learning_rate', 'optim.weight_decay', 'optim.warmup'),
    *('optim.schedule', 'optim.schedule_unit', 'optim.boundaries'),
)
_STATED_OF_SGD = ('optim.momentum', 'optim.nesterov')
# Variants of a base: each row's model, its name in lower case, or its name.
_OF_EACH_ROW = (':{model}', ':{row}', ':{name}')


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the rows of a paper's tables on one kind of data were trained.

    Attributes:
      base: a config of the package, perhaps with a variant; with the variant `{model}`, `{row}` or
        `{name}`, each row has its own.
      fields: config fields of all rows that differ from the base.
      by_row: row name -> further fields, in the few tables that compare recipes.
      runs: number of runs that the paper reports for a row.
      runs_of: row name -> number of runs, where it is another.
      unstated: choices that the reference does not state.
      differs: known deviations from the paper's recipe.
    """

    base: str
    fields: Fields = dataclasses.field(default_factory=dict)
    by_row: Mapping[str, Fields] = dataclasses.field(default_factory=dict)
    runs: int = 1
    runs_of: Mapping[str, int] = dataclasses.field(default_factory=dict)
    unstated: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()

    def runs_for(self, row: str) -> int:
        """The number of runs that the paper reports for a row."""
        return self.runs_of.get(row, self.runs)


def recipe_of(table: PublishedTable) -> Recipe:
    """The recipe of a table's paper on its kind of data."""
    return RECIPES[table.paper, _KINDS.get(table.data, 'cifar')]


def base_of(recipe: Recipe) -> str:
    """The config that all rows start from: without the variant, where each row has its own."""
    return recipe.base.partition(':')[0] if recipe.base.endswith(_OF_EACH_ROW) else recipe.base


def shared_fields(table: PublishedTable) -> dict[str, Any]:
    """Config fields that all rows of a table share; they include the length and the schedule."""
    recipe = recipe_of(table)
    own = {'data.name': DATA[table.data], **recipe.fields}
    replaced = {configs.ALTERNATIVES.get(field) for field in own}
    base = {f: v for f, v in _flat(base_of(recipe)).items() if f not in replaced and v is not None}
    name = own.get('optim.name', base['optim.name'])
    stated = _STATED + (_STATED_OF_SGD if name == 'sgd' else ())
    return {field: base[field] for field in stated if field in base} | own


def row_fields(table: PublishedTable, row: PublishedRow) -> dict[str, Any]:
    """Further config fields of one row, besides those that select its model."""
    recipe = recipe_of(table)
    fields = dict(recipe.by_row.get(row.name, {}))
    if recipe.base.endswith(_OF_EACH_ROW):
        own = recipe.base.format(model=row.model, row=row.name.lower(), name=row.name)
        base, variant = _flat(base_of(recipe)), _flat(own)
        fields |= {f: v for f, v in variant.items() if v != base[f] and f != 'model.name'}
    return fields


@functools.cache
def _flat(spec: str) -> dict[str, Any]:
    return configs.flatten(configs.load_config(spec))


# Equal blocks are compiled once: the same function, in minutes instead of hours at 1001 layers.
_DEEP = {'model.scan_blocks': True}

# stochdepth, section 4: Nesterov, divided by 10 after half and three quarters of 500 epochs.
_STOCHDEPTH = {
    **_DEEP,
    'train.epochs': 500.0,
    'optim.nesterov': True,
    'optim.schedule_unit': 'epochs',
    'optim.boundaries': (250.0, 375.0),
}

# resnext, section 5.3.
_RESNEXT = {
    'data.train_split': 'train',
    'data.normalize': 'channel',
    'train.epochs': 300.0,
    'optim.nesterov': True,
    'optim.weight_decay': 5e-4,
    'optim.schedule_unit': 'epochs',
    'optim.boundaries': (150.0, 225.0),
}

_STAND_IN = 'the reference has no ImageNet recipe of this paper: that of arXiv 1706.02677 stands in'

RECIPES: dict[tuple[str, str], Recipe] = {
    ('he2015', 'cifar'): Recipe(
        'cifar10:{model}',  # warms up the nets of 110 layers and more
        _DEEP,
        runs_of={'ResNet-110': 5},  # table 6: "best (mean +- std)" of 5
        unstated=(
            'the reference has the warm-up of ResNet-110; ResNet-1202 and plain-110 get it too',
            'runs for rows other than ResNet-110: taken to be one',
        ),
    ),
    ('he2016', 'cifar'): Recipe(
        'cifar10:cifar_resnet110',  # section 3: every run warms up as he2015's net of 110 layers
        _DEEP,
        runs=5,
        unstated=(
            'the published figures are medians of 5 runs (table 4: mean and deviation); ours is '
            'the mean',
            'on CIFAR-100: the recipe of CIFAR-10',
        ),
    ),
    ('stochdepth', 'cifar'): Recipe(
        'cifar10',
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
        'cifar10_wrn',
        runs_of={'WRN-28-10': 5, 'WRN-28-10, dropout': 5},
        unstated=(
            "runs: WRN-28-10 has medians of 5 by the authors' README "
            '(github.com/szagoruyko/wide-residual-networks); other rows are taken to be one run',
            'training images: taken to be all 50,000',
            'tables 2 and 3: the recipe of table 5',
        ),
    ),
    ('resnext', 'cifar'): Recipe(
        'cifar10',
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
        'imagenet',
        {  # section 3.4: weight decay on all parameters, no warm-up; branches do not start at zero
            'optim.warmup': 0.0,
            'optim.decay_norm_and_bias': True,
            'model.zero_init_last': False,
            'augment.transforms': ('random_scale_crop', 'flip', 'lighting'),
        },
        differs=(
            '90 epochs, divided by 10 at 30, 60 and 80, instead of whenever the error is flat',
            'one central crop is evaluated, also where the paper averages ten',
        ),
    ),
    ('resnext', 'imagenet'): Recipe('imagenet', differs=(_STAND_IN,)),
    ('senet', 'imagenet'): Recipe('imagenet', differs=(_STAND_IN,)),
    ('torchvision', 'imagenet'): Recipe('imagenet', differs=(_STAND_IN,)),
    ('rsb', 'imagenet'): Recipe(
        'imagenet_rsb:{row}',
        unstated=(
            'threshold of the targets, spread of RandAugment, repeats and interpolation: as timm '
            'and mmpretrain have them (github.com/open-mmlab/mmpretrain, configs/resnet)',
        ),
    ),
    ('torchvision_v2', 'imagenet'): Recipe(
        'imagenet_tv2:{model}',
        unstated=('number of runs: taken to be one',),
    ),
    ('fawaz2019', 'series'): Recipe(
        'series:{name}',
        {'train.epochs': 1500.0, 'optim.plateau_patience': 50},
        runs=10,
        unstated=(
            "the recipe is that of the authors' code (hfawaz/dl-4-tsc, classifiers/resnet.py)",
            'Keras ends an epoch with a smaller batch; here that batch also takes series of the '
            'next epoch: of ItalyPowerDemand, 67 series in batches of 6',
            "Adam's epsilon, 1e-7, is added after the correction of the bias, in Keras before",
            'the series are those of the package aeon',
        ),
    ),
    ('timm', 'imagenet'): Recipe(
        'imagenet_rsb:a2',
        {'data.image_size': 288, 'data.resize': 288},
        differs=('the reference names the recipe, ra4, without its numbers: A2 of rsb stands in',),
    ),
}
