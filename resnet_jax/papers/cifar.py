"""Published tables on CIFAR: what was compared, the model of each row, and the figure.

A row is a registered model with overrides of its design. Values are top-1 test errors in %, unless
the table's `metric` is another. None of them was measured here.
"""

from typing import TYPE_CHECKING, Any

from resnet_jax.errors import choose
from resnet_jax.papers.imagenet import IMAGENET
from resnet_jax.papers.series import SERIES
from resnet_jax.papers.table import PublishedRow, PublishedTable

if TYPE_CHECKING:
    from resnet_jax.models import ResNet


def find_table(name: str) -> PublishedTable:
    """The table with this key.

    Raises:
      InputError: if there is none; the message suggests the nearest names.
    """
    return choose('table', name, TABLES)


def build(table: PublishedTable, row: PublishedRow, **overrides: Any) -> 'ResNet':
    """The model of a row, for the table's number of classes.

    Args:
      table: the table.
      row: one of its rows.
      **overrides: further fields of `create_model`; they take precedence over the row's.
    """
    from resnet_jax.models import create_model  # imports JAX, which the tables do not need

    return create_model(row.model, table.facts(row).classes, **(row.overrides | overrides))


_PREACT = {'placement': 'full_preact'}
_ONE_LAYER = {'kernels': (3,), 'stage_sizes': (36, 36, 36)}  # he2016, section 4.1: 108 units

# he2016, table 1: what differs on every shortcut of ResNet-110 -> error; None: failed.
_SHORTCUTS: dict[str, tuple[dict[str, Any], float | None]] = {
    'original': ({}, 6.61),
    'constant scaling (0, 1)': ({'shortcut_scale': 0.0}, None),
    'constant scaling (0.5, 1)': ({'shortcut_scale': 0.5}, None),
    'constant scaling (0.5, 0.5)': ({'shortcut_scale': 0.5, 'branch_scale': 0.5}, 12.35),
    **{
        f'{gate} gating, bias {bias}': ({'gate': gate, 'gate_bias': float(bias)}, error)
        for gate, bias, error in (
            ('exclusive', 0, None),
            ('exclusive', -5, None),
            ('exclusive', -6, 8.70),
            ('exclusive', -7, 9.81),
            ('shortcut_only', 0, 12.86),
            ('shortcut_only', -6, 6.91),
        )
    },
    '1x1 convolution': ({'shortcut': 'conv1x1'}, 12.22),
    'dropout 0.5': ({'shortcut_dropout': 0.5}, None),
}

# he2016, table 2: placement -> (ResNet-110, ResNet-164).
_PLACEMENTS = {
    'original': (6.61, 5.93),
    'bn_after_add': (8.17, 6.50),
    'relu_before_add': (7.84, 6.14),
    'relu_only_preact': (6.71, 5.91),
    'full_preact': (6.37, 5.46),
}

# wrn, table 2: kernels -> (depth, error), width 2. The depth is 6n + 4 for n blocks in a stage, for
# any number of convolutions in a block.
_WRN_BLOCKS = {
    (1, 3, 1): (40, 6.06),
    (3, 1): (40, 5.78),
    (1, 3): (40, 6.42),
    (3, 1, 1): (40, 5.86),
    (3, 3): (28, 5.73),
    (3, 1, 3): (22, 5.78),
}


_WRN: dict[str, tuple[str, dict[str, Any], float, float]] = {
    'WRN-40-4': ('wrn40_4', {}, 4.53, 21.18),
    'WRN-16-8': ('wrn16_8', {}, 4.27, 20.43),
    'WRN-28-10': ('wrn28_10', {}, 4.00, 19.25),
    'WRN-28-10, dropout': ('wrn28_10', {'branch_dropout': 0.3}, 3.89, 18.85),
}

TABLES: dict[str, PublishedTable] = {
    'he2015_table6': PublishedTable(
        'he2015',
        'residual nets of growing depth, table 6',
        'cifar10',
        (
            PublishedRow('ResNet-20', 'cifar_resnet20', {}, 8.75, parameters=269_722),
            PublishedRow('ResNet-32', 'cifar_resnet32', {}, 7.51, parameters=464_154),
            PublishedRow('ResNet-44', 'cifar_resnet44', {}, 7.17, parameters=658_586),
            PublishedRow('ResNet-56', 'cifar_resnet56', {}, 6.97, parameters=853_018),
            # Mean and deviation of five runs; the best has 6.43.
            PublishedRow(
                'ResNet-110', 'cifar_resnet110', {}, 6.61, spread=0.16, parameters=1_727_962
            ),
            PublishedRow('ResNet-1202', 'cifar_resnet1202', {}, 7.93, parameters=19_421_274),
        ),
    ),
    'he2015_plain': PublishedTable(
        'he2015',
        'plain nets get worse with depth, figure 6',
        'cifar10',
        (
            *(PublishedRow(f'plain-{d}', f'cifar_plain{d}') for d in (20, 32, 44, 56)),
            PublishedRow('plain-110', 'cifar_plain110', failed=True),
        ),
    ),
    'he2016_table1': PublishedTable(
        'he2016',
        'shortcuts of ResNet-110, table 1',
        'cifar10',
        tuple(
            PublishedRow(name, 'cifar_resnet110', overrides, error, failed=error is None)
            for name, (overrides, error) in _SHORTCUTS.items()
        ),
    ),
    'he2016_table2': PublishedTable(
        'he2016',
        'where the activation stands, table 2',
        'cifar10',
        tuple(
            PublishedRow(
                f'{placement}, ResNet-{depth}', f'cifar_resnet{depth}', {'placement': placement}, v
            )
            for i, depth in enumerate((110, 164))
            for placement, values in _PLACEMENTS.items()
            for v in (values[i],)
        ),
    ),
    'he2016_table3': PublishedTable(
        'he2016',
        'original and pre-activation, table 3',
        'cifar10',
        (
            PublishedRow('ResNet-110, 1-layer units', 'cifar_resnet110', _ONE_LAYER, 9.90),
            PublishedRow('pre-act 110, 1-layer', 'cifar_resnet110', _ONE_LAYER | _PREACT, 8.91),
            PublishedRow('ResNet-110', 'cifar_resnet110', {}, 6.61),
            PublishedRow('pre-act ResNet-110', 'cifar_preact_resnet110', {}, 6.37),
            PublishedRow('ResNet-164', 'cifar_resnet164', {}, 5.93),
            PublishedRow(
                'pre-act ResNet-164', 'cifar_preact_resnet164', {}, 5.46, parameters=1_703_258
            ),
            PublishedRow('ResNet-1001', 'cifar_resnet1001', {}, 7.61),
            PublishedRow(
                'pre-act ResNet-1001', 'cifar_preact_resnet1001', {}, 4.92, parameters=10_327_706
            ),
        ),
    ),
    'he2016_table3_cifar100': PublishedTable(
        'he2016',
        'original and pre-activation, table 3',
        'cifar100',
        (
            PublishedRow('ResNet-164', 'cifar_resnet164', {}, 25.16),
            PublishedRow('pre-act ResNet-164', 'cifar_preact_resnet164', {}, 24.33),
            PublishedRow('ResNet-1001', 'cifar_resnet1001', {}, 27.82),
            PublishedRow('pre-act ResNet-1001', 'cifar_preact_resnet1001', {}, 22.71),
        ),
    ),
    'he2016_table4': PublishedTable(
        'he2016',
        'pre-activation at 1001 layers, table 4 (batch 128; batch 64, median of 5, has 4.62)',
        'cifar10',
        (PublishedRow('pre-act ResNet-1001', 'cifar_preact_resnet1001', {}, 4.89, 0.14),),
    ),
    'he2016_table4_cifar100': PublishedTable(
        'he2016',
        'pre-activation at 1001 layers, table 4',
        'cifar100',
        (PublishedRow('pre-act ResNet-1001', 'cifar_preact_resnet1001', {}, 22.68, 0.22),),
    ),
    'wrn_blocks': PublishedTable(
        'wrn',
        'kernels in a block of width 2, table 2',
        'cifar10',
        tuple(
            PublishedRow(
                f'B({",".join(map(str, kernels))})',
                'wrn40_2',
                {'kernels': kernels, 'stage_sizes': ((depth - 4) // 6,) * 3},
                error,
            )
            for kernels, (depth, error) in _WRN_BLOCKS.items()
        ),
    ),
    'wrn_convolutions': PublishedTable(
        'wrn',
        'convolutions in a block of WRN-40-2, table 3',
        'cifar10',
        tuple(
            # As many convolutions in all: 12 / n blocks in a stage.
            PublishedRow(
                f'{n} in a block',
                'wrn40_2',
                {'kernels': (3,) * n, 'stage_sizes': (12 // n,) * 3},
                e,
            )
            for n, e in enumerate((6.69, 5.43, 5.65, 5.93), 1)
        ),
    ),
    **{
        f'wrn_{data}': PublishedTable(
            'wrn',
            'width and depth, table 5, and dropout, table 6 (mean/std normalisation)',
            data,
            tuple(
                PublishedRow(name, model, overrides, errors[i])
                for name, (model, overrides, *errors) in _WRN.items()
            ),
        )
        for i, data in enumerate(('cifar10', 'cifar100'))
    },
    **{
        f'resnext_{data}': PublishedTable(
            'resnext',
            'cardinality, table 7',
            data,
            (
                PublishedRow('ResNeXt-29, 8x64d', 'cifar_resnext29_8x64d', {}, errors[0]),
                PublishedRow('ResNeXt-29, 16x64d', 'cifar_resnext29_16x64d', {}, errors[1]),
            ),
        )
        for data, errors in (('cifar10', (3.65, 3.58)), ('cifar100', (17.77, 17.31)))
    },
    'stochastic_depth': PublishedTable(
        'stochdepth',
        'survival decaying linearly to 0.5, table 1 and section 4',
        'cifar10',
        (
            PublishedRow('ResNet-110, constant depth', 'cifar_resnet110', {}, 6.41),
            PublishedRow('ResNet-110', 'cifar_resnet110', {'stochastic_depth': 0.5}, 5.25),
            PublishedRow('ResNet-1202', 'cifar_resnet1202', {'stochastic_depth': 0.5}, 4.91),
        ),
    ),
    **IMAGENET,
    **SERIES,
}
