"""Every row of the papers' tables is a model that builds, has its parameters and learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet_jax.experiments.papers import TABLES, build, find_table
from resnet_jax.experiments.tables import PAPERS
from resnet_jax.models import InputError
from resnet_jax.models.counting import count_parameters
from resnet_jax.models.registry import model_row

ROWS = [(key, table, row) for key, table in TABLES.items() for row in table.rows]


def test_tables_are_complete():
    """Values are percentages, failures have none, names differ within a table."""
    for key, table in TABLES.items():
        assert table.paper in PAPERS, key
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names), key
        for row in table.rows:
            assert row.value is None or 1 < row.value < 90, (key, row.name)
            assert not (row.failed and row.value), (key, row.name)
            plain = key == 'he2015_plain'  # the paper shows curves only
            assert row.failed or row.value is not None or plain, (key, row.name)


@pytest.mark.parametrize('key', TABLES)
def test_rows_build_and_have_the_published_parameters(key):
    table = TABLES[key]
    for row in table.rows:
        # Scanned blocks hold the same parameters and are traced once.
        model = build(table, row, scan_blocks=True)
        size = model_row(row.model).image_size
        images = jnp.zeros((1, size, size, 3))
        variables = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x, False), images)
        parameters = count_parameters(variables['params'])
        assert variables['params']['head']['bias'].shape == (table.num_classes,)
        if row.parameters is not None:
            assert parameters == row.parameters, row.name


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
        model = build(table, row)
        images = jnp.zeros((1, 32, 32, 3))
        variables = jax.eval_shape(lambda x, m=model: m.init(jax.random.key(0), x, False), images)
        assert round(count_parameters(variables['params']) / 1e6, 1) == printed[row.name]


def designs():
    """One row for each distinct design, whatever its depth and classes."""
    found = {}
    for key, table, row in ROWS:
        settings = model_row(row.model).settings
        rest = {k: v for k, v in row.overrides.items() if k != 'stage_sizes'}
        groups = settings['block'].groups
        design = dataclasses.replace(settings['block'], groups=1, base_width=64)
        signature = (repr(design), groups > 1, settings['stem'], repr(sorted(rest.items())))
        found.setdefault(signature, (table, row, f'{key}: {row.name}'))
    return list(found.values())


@pytest.mark.parametrize(
    ('table', 'row'), [d[:2] for d in designs()], ids=[d[2] for d in designs()]
)
def test_a_step_gives_every_parameter_a_gradient(table, row):
    """At reduced depth and width, in training mode."""
    stages = len(model_row(row.model).settings['stage_sizes'])
    block = model_row(row.model).settings['block']
    small = {'groups': 2, 'base_width': 32} if block.groups > 1 else {}
    model = build(
        table, row, stage_sizes=(2,) + (1,) * (stages - 1), width=8, stem_width=8, **small
    )
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (8, 32, 32, 3))
    labels = jnp.arange(8) % table.num_classes

    @jax.jit
    def gradients():
        variables = model.init(keys[1], images, train=False)

        def loss(params):
            logits, _ = model.apply(
                {**variables, 'params': params},
                images,
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': keys[2]},
            )
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.value_and_grad(loss)(variables['params'])

    loss, grads = gradients()
    assert np.isfinite(loss)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.all(np.isfinite(grad)), name
        assert np.any(grad != 0), name


def test_unknown_table_shows_the_nearest():
    with pytest.raises(InputError, match="did you mean 'he2016_table1'"):
        find_table('he2016_tabel1')
