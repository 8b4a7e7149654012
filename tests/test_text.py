"""Tables and sentences: fitted to a terminal, unbroken for programs, harmless in a spreadsheet."""

import csv
import io
import re
import shlex

import pytest

from resnet_jax import text

HEADER = ('row', 'published', 'ours', 'runs', 'verdict', 'why')
WHY = 'only one of its three runs has finished, the others are still under way or have not begun'
ROWS = [
    ('ResNet-110 with an exclusive gate whose bias is -5', '6.43', '7.01', '3 of 3', 'equal', WHY),
    ('plain', '8.75', '-', '0 of 3', 'unknown', '-'),
    ('猫' * 30, '1.00', '1,234,567.89', '3 of 3', 'better', 'x' * 100),
]


@pytest.mark.parametrize('width', [30, 40, 60, 80, 100, 140])
def test_a_table_fits_and_lacks_nothing(width):
    """No line is longer, every number is there whole, every word of prose too."""
    shown = text.aligned(HEADER, ROWS, width)
    assert max(map(text.columns_of, shown.splitlines())) <= width
    words = shown.split()
    for name in HEADER:
        assert name in words
    for number in ('6.43', '7.01', '8.75', '1,234,567.89', 'unknown'):
        assert words.count(number) == 1
    for word in WHY.split():
        assert words.count(word) >= WHY.split().count(word)


def test_columns_below_others_begin_with_the_first_column_again():
    rows = [(f'arm{i}', *('123.45' for _ in range(12))) for i in range(3)]
    header = ('arm', *(f'column{i}' for i in range(12)))
    blocks = text.aligned(header, rows, 80).split('\n\n')
    assert len(blocks) == 2
    for block in blocks:
        lines = block.splitlines()
        assert [line.split()[0] for line in lines] == ['arm', 'arm0', 'arm1', 'arm2']
    heads = [name for block in blocks for name in block.splitlines()[0].split()]
    assert [name for name in heads if name != 'arm'] == list(header[1:])


def test_a_table_that_fits_is_the_same_as_without_a_terminal():
    small = [row[:4] for row in ROWS[1:2]]
    assert text.aligned(HEADER[:4], small, 80) == text.aligned(HEADER[:4], small)
    assert text.aligned(HEADER[:4], small).splitlines() == [
        'row    published  ours    runs',
        'plain       8.75     -  0 of 3',
    ]


def test_what_is_piped_has_a_line_for_each_record():
    lines = text.aligned(HEADER, ROWS).splitlines()
    assert len(lines) == 4 and WHY in lines[1] and 'x' * 100 in lines[3]
    assert text.terminal_width(io.StringIO()) is None


@pytest.mark.parametrize('width', [20, 44, 80])
def test_pairs_and_sentences_fit(width):
    pairs = [('versions', ', '.join(f'package{i} 1.2.{i}' for i in range(9))), ('a name ' * 9, 'b')]
    for shown in (text.pairs(pairs, width), text.bullets([WHY, WHY], width)):
        assert max(map(len, shown.splitlines())) <= width
    assert text.bullets([WHY], width).replace('\n ', '') == f'- {WHY}'
    assert text.bullets([WHY, 'b'], None) == f'- {WHY}\n- b'


def test_paths_in_sentences_are_never_cut():
    path = '/home/somebody/' + 'folder/' * 12
    assert path in text.paragraph(f'see the files in {path} and others', 40).splitlines()


def test_a_long_command_is_still_the_same_command():
    command = shlex.join(['resnet-jax', 'train', *(f'--config.f{i}=(1, {i})' for i in range(9))])
    shown = text.shell_command(command, 60)
    assert max(map(len, shown.splitlines())) <= 60 and len(shown.splitlines()) > 3
    assert shlex.split(shown.replace('\\\n', '')) == shlex.split(command)
    assert text.shell_command(command, None) == command


def test_an_option_stays_with_its_value():
    shown = text.shell_command('resnet-jax report --workdir runs/digits', 30)
    assert shown == 'resnet-jax report \\\n    --workdir runs/digits'


def test_long_names_lose_their_middle():
    assert text.shortened('abcdefghij', 5) == 'ab…ij'
    assert text.shortened('abcde', 5) == 'abcde'
    assert text.columns_of(text.shortened('猫' * 9, 8)) <= 8
    assert text.columns_of('cafe\u0301') == 4 and text.columns_of('猫!') == 3


NASTY = [
    *('=1+1', '+cmd|x', '-2+3', '@SUM(A1)', '\tx', '\rx', '\n=1', '＝1', '=HYPERLINK("http://a")'),
    *('\x1b[31mred', '\u202eright', 'a\nb', 'a"b', 'a,b'),
]


def test_no_cell_of_a_csv_is_a_formula_or_an_escape_sequence():
    written = text.comma_separated(['class', 'n'], [(name, 7) for name in NASTY])
    assert '\x1b' not in written and '\u202e' not in written
    _, *rows = csv.reader(io.StringIO(written, newline=''))
    assert [n for _, n in rows] == ['7'] * len(NASTY)
    for name, (cell, _) in zip(NASTY, rows, strict=True):
        assert not cell.startswith(tuple('=+-@\t\r\n＝'))
        assert cell.removeprefix("'") == text.printable(name, keep='\t\r\n')


def test_numbers_of_a_csv_stay_numbers():
    numbers = ['-1.5', '+3', '-1e-05', '-inf', 0.25, -2, None, '-']
    (row,) = csv.reader(io.StringIO(text.comma_separated_line(numbers)))
    assert row == ['-1.5', '+3', '-1e-05', '-inf', '0.25', '-2', '', '-']


def test_tables_show_escape_sequences_and_line_breaks():
    shown = text.aligned(['class', 'n'], [(name, '7') for name in NASTY])
    shown += text.pairs((name, name) for name in NASTY) + text.bullets(NASTY, 80)
    assert not re.search('[\x1b\r\t\u202e]', shown)
    assert len(text.aligned(['class', 'n'], [(name, '7') for name in NASTY]).splitlines()) == 15
