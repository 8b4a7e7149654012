"""Anything that a sweep or search file may return works, or is refused in one line."""

import math

import pytest

from resnet_jax.errors import InputError
from resnet_jax.experiments.definitions import SEARCH, SWEEP
from resnet_jax.experiments.search.search import load_search
from resnet_jax.experiments.sweep import make_sweep

GOOD = {'title': 'a question', 'base': 'digits', 'arms': {'a': {}, 'b': {'optim.momentum': 0.5}}}
NASTY = {
    'None': None, 'true': True, 'zero': 0, 'minus one': -1, 'a half': 0.5, 'nan': math.nan,
    'infinity': math.inf, 'huge': 10**400, 'empty text': '', 'blank': ' ', 'text': 'x',
    'long text': 'x' * 400, 'number as text': '3', 'bytes': b'a', 'empty list': [], 'list': ['a'],
    'tuple': (1, 2), 'set': {'a'}, 'empty dict': {}, 'dict of None': {'a': None},
    'dict of text': {'a': 'x'}, 'dict of a list': {'a': [1]}, 'dict of nan': {'a': math.nan},
    'dict of numbers': {'a': 3}, 'another arm': {'z': 3}, 'numbers as keys': {1: {}},
    'empty key': {'': {}}, 'long key': {'x' * 400: {}}, 'deep': {'a': {'b': {'c': {}}}},
    'object': object(), 'function': len, 'class': int, 'complex': 1j,
}  # fmt: skip
TRIES = [(key, name) for key in SWEEP for name in NASTY]


@pytest.mark.parametrize('key', SWEEP)
def test_any_value_of_a_sweep(key):
    tried = 0
    for name, value in NASTY.items():
        found = {**GOOD, key: value}
        try:
            sweep = make_sweep(found, 'sweep file x.py')
        except InputError as error:
            said = str(error)
            assert '\n' not in said and len(said) < 800, (name, said)
            assert 'x.py' in said or 'arm' in said or key == 'base', (name, said)
        else:
            assert set(sweep.arms) and sweep.seeds and sweep.title.strip(), name
        tried += 1
    assert tried == len(NASTY)


@pytest.mark.parametrize(
    ('key', 'value', 'words'),
    [
        ('seeds', '3', 'seeds must be a whole number from 1'),
        ('seeds', True, 'seeds must be a whole number from 1'),
        ('seeds', 10**400, 'seeds must be a whole number from 1'),
        ('arms', ['a', 'b'], 'arms must be a dict'),
        ('arms', {'a': ['optim.momentum']}, 'arms must be a dict'),
        ('arms', {1: {}}, 'arms must be a dict'),
        ('arms', {'x' * 400: {}}, 'at most 200 bytes'),
        ('arms', {'...': {}, '..': {}}, 'look alike'),
        ('fields', [('train.steps', 3)], 'fields must be a dict'),
        ('fields', {3: 3}, 'fields must be a dict'),
        ('published', {'a': 'low'}, 'published must be a dict, arm -> number'),
        ('runs', {'a': 0}, 'runs must be a dict, arm -> whole number'),
        ('title', 3, 'title must be a text'),
        ('baseline', 3, 'baseline must be a text'),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said(key, value, words):
    with pytest.raises(InputError, match=words):
        make_sweep({**GOOD, key: value}, 'sweep file x.py')


@pytest.mark.parametrize('key', SEARCH)
def test_any_value_of_a_search(key, tmp_path, monkeypatch):
    good = {
        'title': 'a question', 'base': 'digits', 'space': {'optim.momentum': ('linear', 0.1, 0.9)},
    }  # fmt: skip
    file = tmp_path / 'x.py'
    file.write_text('def get_search():\n    import search_values\n    return search_values.FOUND\n')
    module = type(pytest)('search_values')
    monkeypatch.setitem(__import__('sys').modules, 'search_values', module)
    for name, value in {**NASTY, 'a range': ('log', 1, 2), 'odd range': ('log', '1', 2)}.items():
        module.FOUND = {**good, key: value}
        try:
            search = load_search(str(file))
        except InputError as error:
            said = str(error)
            assert '\n' not in said and len(said) < 800, (name, said)
        else:
            assert search.title.strip() and search.space and search.trials >= 1, name
