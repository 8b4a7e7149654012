"""Tables of text: aligned for a terminal, Markdown, and CSV."""

import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

NOTHING = '-'  # in a cell without a value


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


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns for a terminal: the first flush left, the others, mostly numbers, flush right."""
    lines = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        right = [cell.rjust(width) for cell, width in others]
        return '  '.join([first[0].ljust(first[1]), *right]).rstrip()

    return '\n'.join(map(line, lines))


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns, both flush left; empty without rows."""
    rows = list(rows)
    width = max((len(name) for name, _ in rows), default=0)
    return '\n'.join(f'{name:<{width}}  {value}' for name, value in rows)


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

    A spreadsheet takes text that begins with =, +, -, @, a tab or a carriage return for a formula,
    and runs it; names may begin so. Such text, other than a number, gets an apostrophe before it.
    """
    out = io.StringIO()
    csv.writer(out, lineterminator='\n').writerow(map(_not_a_formula, cells))
    return out.getvalue()


def _not_a_formula(cell: Any) -> Any:
    if not isinstance(cell, str) or cell[:1] not in tuple('=+-@\t\r') or cell == NOTHING:
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell


def printable(text: str) -> str:
    """Escapes what does not print, for one line of text that is read as it is written.

    Names of files and classes may hold line breaks, escape sequences of terminals, marks that turn
    the direction of writing, and bytes that are no characters.
    """
    return ''.join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
