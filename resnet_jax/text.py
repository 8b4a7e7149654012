"""Text for people: tables within a terminal's width, Markdown and CSV; notes as they come."""

import csv
import dataclasses
import io
import os
import re
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

NOTHING = '-'  # in a cell without a value
ELLIPSIS = '…'
_GAP = '  '  # between columns
_LEAST_PROSE = 24  # columns of a terminal into which text is wrapped rather than set below
_NARROWEST = 20  # terminal that anything is fitted to
# What spreadsheets take for the beginning of a formula, in Japanese ones also the wide signs.
_FORMULA = tuple('=+-@\t\r\n＝＋－＠')


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
      title: of the table.
      header: one text per column.
      rows: one text per column in each.
      notes: what a reader must know, printed below the table.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def is_numeric(self, column: int) -> bool:
        """Whether every cell of a column holds a number or nothing; such columns align right."""
        cells = [row[column] for row in self.rows]
        return all(cell == NOTHING or cell.lstrip('+-< ')[:1].isdigit() for cell in cells)


def number(value: float | None, form: str) -> str:
    """Formats a number, or '-' for None; `form` as in `format`, e.g. ',.2f'."""
    return NOTHING if value is None else format(value, form)


def terminal_width(stream: TextIO | None = None) -> int | None:
    """The columns of the terminal that a stream is; None where it is a file or a pipe.

    What programs read stays unbroken, a line for each record; what is printed on a terminal fits.

    Args:
      stream: None: standard output.
    """
    stream = stream or sys.stdout
    if stream is None or not stream.isatty():  # None where the shell has closed it
        return None
    try:
        return max(os.get_terminal_size(stream.fileno()).columns or 80, _NARROWEST)
    except OSError:
        return 80


def columns_of(text: str) -> int:
    """The columns of a terminal that a text takes: wide characters two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in 'WF')
        for c in text
    )


def shortened(text: str, width: int) -> str:
    """Shortens a text to a number of columns by replacing its middle with an ellipsis."""
    if columns_of(text) <= width:
        return text
    head, tail = width // 2, (width - 1) // 2
    while columns_of(text[:head]) > width // 2:
        head -= 1
    while tail and columns_of(text[-tail:]) > (width - 1) // 2:
        tail -= 1
    return f'{text[:head]}{ELLIPSIS}{text[len(text) - tail :]}'


def wrapped(parts: Iterable[str], width: int, gap: str = ' ') -> list[str]:
    """Joins parts, such as words, to lines of at most `width` columns, breaking only between parts.

    Args:
      parts: what is not broken.
      width: of the lines.
      gap: between parts on one line.
    """
    lines: list[str] = []
    for part in parts:
        if lines and columns_of(lines[-1] + gap + part) <= width:
            lines[-1] += gap + part
        else:
            lines.append(part)
    return lines or ['']


def paragraph(text: str, width: int | None, hang: str = '') -> str:
    """A text wrapped at words; paths and commands are never cut. Without a width as it is.

    Args:
      text: on one line.
      width: of the lines; None: any.
      hang: before each line but the first.
    """
    text = printable(text)
    if width is None or columns_of(text) <= width:
        return text
    return f'\n{hang}'.join(wrapped(text.split(), width - len(hang)))


def shell_command(command: str, width: int | None, hang: str = '    ') -> str:
    """A command in lines of a shell, broken between arguments, not between option and value.

    Args:
      command: as `shlex.join` gives it.
      width: of the lines, but for an argument that is longer; None: any.
      hang: before each line but the first.
    """
    if width is None or columns_of(command) <= width:
        return command
    parts: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        value = parts and re.fullmatch(r'--[^ =]+', parts[-1]) and not word.startswith('-')
        parts[-1:] = [f'{parts[-1]} {word}'] if value else [*parts[-1:], word]
    return f' \\\n{hang}'.join(wrapped(parts, width - len(hang) - 2))


def bullets(sentences: Iterable[str], width: int | None) -> str:
    """Sentences, each behind a dash."""
    return '\n'.join(paragraph(f'- {sentence}', width, '  ') for sentence in sentences)


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]], width: int | None = None) -> str:
    """Columns for people: the first flush left, the others, mostly numbers, flush right.

    What does not print, such as escape sequences of terminals in the names of classes, is shown.

    Args:
      header: one text per column.
      rows: one text per column in each.
      width: of the lines. Of a table that is wider, long text is wrapped at words, and columns
        that do not fit follow below, with the first column repeated. None: no limit.
    """
    table = [tuple(map(printable, column)) for column in zip(header, *rows, strict=True)]
    if width is None or sum(map(_width, table)) + len(_GAP) * (len(table) - 1) <= width:
        return _side_by_side([[_Cell(c, index > 0) for c in t] for index, t in enumerate(table)])
    names = [_fitted(cell, width // 2, right=False) for cell in table[0]]
    beside = width - max(cell.width for cell in names) - len(_GAP)
    blocks, room = [[names]], beside
    for column in table[1:]:
        natural = _width(column)
        fits = natural <= room or (room >= _LEAST_PROSE and _is_prose(column, room))
        if not fits and len(blocks[-1]) > 1:
            blocks.append([names])
            room = beside
        right = natural <= room
        blocks[-1].append([_fitted(cell, room, right) for cell in column])
        room -= min(natural, room) + len(_GAP)
    return '\n\n'.join(map(_side_by_side, blocks))


def pairs(rows: Iterable[tuple[str, str]], width: int | None = None) -> str:
    """Names and values in two columns, both flush left, made printable; empty without rows.

    Args:
      rows: the names and values.
      width: of the lines; longer text is wrapped at words. None: any.
    """
    rows = list(rows)
    if not rows:
        return ''
    names, values = (map(printable, column) for column in zip(*rows, strict=True))
    limit = None if width is None else width // 2
    left = [_fitted(name, limit, right=False) for name in names]
    room = None if width is None else width - max(cell.width for cell in left) - len(_GAP)
    return _side_by_side([left, [_fitted(value, room, right=False) for value in values]])


class _Cell:
    """A cell of a table in lines, flush right or left."""

    def __init__(self, text: str, right: bool, lines: Sequence[str] = ()) -> None:
        self.lines, self._right = tuple(lines) or (text,), right
        self.width = max(map(columns_of, self.lines))

    def line(self, number: int, width: int) -> str:
        text = self.lines[number] if number < len(self.lines) else ''
        space = ' ' * (width - columns_of(text))
        return space + text if self._right else text + space


def _width(column: Sequence[str]) -> int:
    return max(map(columns_of, column))


def _is_prose(column: Sequence[str], room: int) -> bool:
    """Whether what is too long for the room has words to break between."""
    return all(' ' in cell for cell in column if columns_of(cell) > room)


def _fitted(text: str, width: int | None, right: bool) -> _Cell:
    if width is None or columns_of(text) <= width:
        return _Cell(text, right)
    lines = wrapped((shortened(word, width) for word in text.split()), width)
    return _Cell(text, right, lines)


def _side_by_side(columns: Sequence[Sequence[_Cell]]) -> str:
    widths = [max(cell.width for cell in column) for column in columns]
    found = []
    for cells in zip(*columns, strict=True):
        for number in range(max(len(cell.lines) for cell in cells)):
            line = [cell.line(number, width) for cell, width in zip(cells, widths, strict=True)]
            found.append(_GAP.join(line).rstrip())
    return '\n'.join(found)


def markdown(table: Table) -> str:
    """A table in Markdown, without its title and notes."""
    columns = range(1, len(table.header))
    rules = ('---', *('---:' if table.is_numeric(i) else '---' for i in columns))
    lines = [map(escape, table.header), rules, *(map(escape, row) for row in table.rows)]
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in lines)


def escape(text: str) -> str:
    """Text that Markdown shows as it is: on one line, without HTML, without ending a cell."""
    plain = ' '.join(text.split()).replace('&', '&amp;').replace('<', '&lt;')
    for mark in '\\|*`[]':
        plain = plain.replace(mark, f'\\{mark}')
    # Between letters or digits, as in a name, an underscore marks nothing.
    return re.sub(r'(?<![^\W_])_|_(?![^\W_])', r'\\_', plain)


def comma_separated(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """The lines of a CSV file."""
    return ''.join(map(comma_separated_line, [header, *rows]))


def comma_separated_line(cells: Sequence[Any]) -> str:
    """A line of a CSV file, with its end.

    A spreadsheet takes text that begins with =, +, -, @, a tab or a line's end for a formula, and
    runs it; names may begin so. Such text, other than a number, gets an apostrophe before it. What
    does not print is escaped, but for tabs and ends of lines, which are quoted.
    """
    out = io.StringIO()
    csv.writer(out).writerow(map(_csv_cell, cells))  # whose \r\n makes it quote either in a cell
    return out.getvalue().removesuffix('\r\n') + '\n'


def _csv_cell(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    shown = printable(cell, keep='\t\r\n')
    if not cell.startswith(_FORMULA) or cell == NOTHING:
        return shown
    try:
        float(cell)
    except ValueError:
        return f"'{shown}"
    return shown


def printable(text: str, keep: str = '') -> str:
    """Escapes what does not print, for one line of text that is read as it is written.

    Names of files and classes may hold line breaks, escape sequences of terminals, marks that turn
    the direction of writing, and bytes that are no characters.

    Args:
      text: the text.
      keep: characters that stay although they do not print.
    """
    if text.isprintable():  # as nearly every name; this is called for every image that is read
        return text
    return ''.join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


def print_line(line: str) -> None:
    """Prints a line on standard error, above a bar where there is one."""
    from tqdm import tqdm  # here, so that --help does not wait for it

    tqdm.write(line, file=sys.stderr)


def note(remark: str) -> None:
    """Prints a remark on standard error, told from an error by its first word."""
    print_line(paragraph(f'note: {remark}', terminal_width(sys.stderr), '  '))
