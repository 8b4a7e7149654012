"""`resnet-jax config`: the fields of a config, their meanings, and what it changes."""

import json
import re

import pytest
from running import CONFIGS

from resnet_jax.cli import main
from resnet_jax.commands.config import field_comments
from resnet_jax.training.config import default_config, flatten, load_config, parse_value, to_json


def printed(capsys, *arguments):
    """(marked, field, value, remark) of each field that is printed."""
    assert main(['config', *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [re.fullmatch(r'([* ]) ([\w.]+)=(.*?)(?:  +(.*))?', line) for line in lines]
    return [row.groups() for row in rows if row]


def test_the_fields_are_those_of_the_run_and_can_be_given_again(capsys):
    """Each field=value, as an override of the default, gives the same config."""
    rows = printed(capsys, 'digits', '--config.optim.momentum=0.5')
    config = load_config('digits', [('optim.momentum', '0.5')])
    assert {name: parse_value(value) for _, name, value, _ in rows} == flatten(config)
    given = [(name, value) for marked, name, value, _ in rows if marked == '*']
    assert to_json(load_config('default', given)) == to_json(config)


def test_what_differs_from_the_default_is_marked_with_the_default(capsys):
    rows = {name: (mark, value, remark) for mark, name, value, remark in printed(capsys, 'digits')}
    assert rows['data.image_size'][:2] == ('*', '8')
    assert rows['data.image_size'][2].startswith('(default: 32) pixels, height and width')
    assert rows['optim.momentum'] == (' ', '0.9', 'of sgd and muon')
    before, after = flatten(default_config()), flatten(load_config('digits'))
    differing = {name for name in after if after[name] != before[name]}
    assert {name for name, (mark, _, _) in rows.items() if mark == '*'} == differing
    shown = printed(capsys, 'digits', '--diff')
    assert {name for _, name, _, _ in shown} == differing
    assert printed(capsys, 'default', '--diff') == []


def test_json_is_what_config_json_would_hold(ask):
    found = ask('config', 'cifar10:cifar_resnet110', '--config.seed=3')
    config = load_config('cifar10:cifar_resnet110', [('seed', 3)])
    assert found == json.loads(to_json(config)) and found['seed'] == 3
    assert ask('config', 'default', '--diff', '--config.seed=3') == {'seed': 3}


def test_every_field_has_a_comment():
    comments = field_comments(CONFIGS / 'default.py')
    fields = flatten(default_config())
    assert not [name for name in fields if not comments[name]]


def test_comments_are_read_from_above_and_behind(tmp_path):
    file = tmp_path / 'some.py'
    file.write_text(
        'def get_config():\n'
        '    config.a = 1  # behind\n'
        '    # first line,\n'
        '    # second line.\n'
        "    config.b.c = ('# no comment',)  # behind too\n"
        '    # a heading\n'
        '\n'
        '    config.d = 2\n'
        '    other.e = 3  # another thing\n'
    )
    expected = {'a': 'behind', 'b.c': 'first line, second line. behind too', 'd': ''}
    assert field_comments(file) == expected


def test_without_a_name_the_configs_are_listed(ask, capsys):
    found = ask('config')
    assert {'digits', 'sweeps/norms', 'searches/learning_rate_weight_decay'} < found.keys()
    assert 'sweeps/budgets' not in found  # what sweeps share is none of them
    assert main(['config']) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith('digits '))
    assert line.endswith("A ResNet-8 on scikit-learn's digits: the demo.")


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['sweeps/norms'], ('a sweep, not a run', 'norms.py')),
        (['searches/learning_rate_weight_decay'], ('a search, not a run',)),
        (['digts'], ("'digits'",)),
        (['digits', '--config.optim.momentun=1'], ('optim.momentum',)),
        (['--diff'], ('NAME',)),
    ],
)
def test_what_is_no_config_is_refused_in_one_line(capsys, arguments, words):
    assert main(['config', *arguments]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith('resnet-jax: ') and err.count('\n') == 1
    assert all(word in err for word in words)
