"""Every row of the papers' tables is a model that builds, has its parameters and learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from members import members
from random_models import fast_jit, random_images, random_variables

from resnet_jax.models import InputError
from resnet_jax.models.counting import count_parameters
from resnet_jax.models.registry import model_row
from resnet_jax.papers.cifar import TABLES, build, find_table
from resnet_jax.papers.row_counts import COUNTS
from resnet_jax.papers.table import PAPERS

ROWS = [(key, table, row) for key, table in TABLES.items() for row in table.rows]


def test_tables_are_complete():
    """Values are percentages, failures have none, names differ within a table."""
    for key, table in TABLES.items():
        assert table.paper in PAPERS, key
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names), key
        for row in table.rows:
            most = 100 if 'accuracy' in table.metric else 90
            assert row.value is None or 1 < row.value < most, (key, row.name)
            assert not (row.failed and row.value), (key, row.name)
            plain = key == 'he2015_plain'  # the paper shows curves only
            assert row.failed or row.value is not None or plain, (key, row.name)


@functools.cache
def parameters_of(model):
    """Their shapes; rows of several tables share a model."""
    size = 224 if model.stem.startswith('imagenet') else 32
    shape = (size, 1) if model.dimensions == 1 else (size, size, 3)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    return jax.eval_shape(lambda x: model.init(jax.random.key(0), x, False), images)['params']


_LARGE = [key for key in TABLES if key.endswith('_imagenet')]  # the slow tests build these
# The nets of another table, but for the size of the head.
_ALIKE = ('he2016_table3_cifar100', 'wrn_cifar100', 'resnext_cifar100', 'he2015_imagenet_one_crop')


@pytest.mark.parametrize('key', members(TABLES, (*_LARGE, *_ALIKE)))
def test_rows_build_and_have_the_published_parameters(key):
    table = TABLES[key]
    for row in table.rows:
        # Scanned blocks hold the same parameters and are traced once.
        parameters = parameters_of(build(table, row, scan_blocks=True))
        assert parameters['head']['bias'].shape == (table.facts(row).classes,)
        if row.parameters is not None:
            assert count_parameters(parameters) == row.parameters, row.name
        if key in COUNTS:
            assert count_parameters(parameters) == COUNTS[key][row.name][0], row.name


def test_wrn_blocks_have_the_sizes_of_the_papers_table():
    """wrn, table 2, prints the parameters in millions."""
    printed = {
        'B(1,3,1)': 1.4,
        'B(3,1)': 1.2,
        'B(1,3)': 1.3,
        'B(3,1,1)': 1.3,
        'B(3,3)': 1.5,
        'B(3,1,3)': 1.1,
    }
    table = find_table('wrn_blocks')
    for row in table.rows:
        parameters = parameters_of(build(table, row, scan_blocks=True))
        assert round(count_parameters(parameters) / 1e6, 1) == printed[row.name]


def reduced(table, row):
    """A row's model narrow and of three blocks: the first, one that keeps the shape, a strided."""
    groups = model_row(row.model).settings['block'].groups
    small = {'groups': 2, 'base_width': 32} if groups > 1 else {}
    model = build(table, row, stage_sizes=(2, 1), width=8, stem_width=8, **small)
    return model.clone(num_classes=10)


def designs():
    """The reduced models that differ, by the name of the first row that has each."""
    found = {}
    for key, table, row in ROWS:
        if table.data == 'ucr':  # of other dimensions: test_series_models.py
            continue
        model = reduced(table, row)
        # The bias that a gate begins with is a number of the same program, see test_designs.
        design = dataclasses.replace(model.block, gate_bias=0.0)
        found.setdefault(model.clone(block=design), (f'{key}: {row.name}', model))
    return dict(found.values())


DESIGNS = designs()
_QUICK = ('he2015_table6: ResNet-20',)


@pytest.mark.parametrize(
    'name',
    [name if name in _QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DESIGNS],
)
def test_a_step_gives_every_parameter_a_gradient(name):
    """At reduced depth and width, in training mode."""
    model = DESIGNS[name]
    images = random_images((8, 16, 16, 3))
    labels = jnp.arange(8)

    @fast_jit
    def gradients(variables):
        def loss(params):
            logits, _ = model.apply(
                {**variables, 'params': params},
                images,
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': jax.random.key(2)},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.value_and_grad(loss)(variables['params'])

    loss, grads = gradients(random_variables(model, images.shape))
    assert np.isfinite(loss)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(grad)), name
        assert np.any(grad != 0), name


def test_unknown_table_shows_the_nearest():
    with pytest.raises(InputError, match="did you mean 'he2016_table1'"):
        find_table('he2016_tabel1')
