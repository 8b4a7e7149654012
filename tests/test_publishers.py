"""Files of publishers and training scripts: what loads of them, and what is left over."""

import argparse
import collections
import os
import pathlib
import pickle
import re

import numpy as np
import pytest
from running import differing

import resnet_jax
from resnet_jax import load_weights
from resnet_jax.cli import main
from resnet_jax.errors import InputError
from resnet_jax.interop.weights import tensors_from_variables

torch = pytest.importorskip('torch')
import safetensors.numpy  # noqa: E402
from publishers import (  # noqa: E402
    PUBLISHERS,
    SMALL,
    foreign,
    importable,
    small,
    state_dict,
    variables_of,
)

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
    'an array of fields': lambda net, bad: {
        'x': np.array([(bad, 1.0)], [('a', object), ('b', float)]), 'state_dict': net
    },
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


def test_a_net_without_a_head_gives_features_and_no_logits(ask, capsys, tmp_path):
    path = PUBLISHERS['Barlow Twins'].save(tmp_path)
    what = ['features', '--model', 'resnet18', '--weights', path, '--image-size', 32]
    what += [f'--model.{field}={value}' for field, value in SMALL.items()]
    what += ['--data', 'digits', '--limit', 2]
    said = ask(*what, '--layer', 'pooled', '--out', tmp_path / 'pooled.npz')
    assert list(said['layers']) == ['pooled']
    wrong = [*what, '--layer', 'logits', '--out', tmp_path / 'logits.npz']
    assert main([*map(str, wrong)]) == 2
    assert "holds no head, so there is no 'logits'" in capsys.readouterr().err
    assert main(['eval', *map(str, [*what[1:], '--data', 'digits'])]) == 2
    assert 'init.reset_head=True' in capsys.readouterr().err
