"""A report as a document, written as Markdown and as one HTML page that needs no other file."""

import dataclasses
import datetime
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.records.writers import write_atomically
from resnet_jax.text import Table, escape, markdown

TEMPLATE = Path(__file__).with_name('report.html.template')


@dataclasses.dataclass(frozen=True)
class Document:
    """The content of a report, independent of its format.

    Attributes:
      title: of the report.
      statement: its conclusions, a sentence each.
      tables: in order; the first two are the gist.
      facts: (name, value) of how and when the figures came about.
      lists: (title, items) of further sections.
      blocks: (caption, text) of commands and the like, shown as they are.
    """

    title: str
    statement: Sequence[str]
    tables: Sequence[Table]
    facts: Sequence[tuple[str, str]]
    lists: Sequence[tuple[str, Sequence[str]]] = ()
    blocks: Sequence[tuple[str, str]] = ()


@dataclasses.dataclass(frozen=True)
class WrittenReport:
    """A report in its folder.

    Attributes:
      document: its content.
      json: the same for programs, without curves.
      files: all files that were written, report.md first.
    """

    document: Document
    json: dict[str, Any]
    files: list[Path]


def timestamp(now: datetime.datetime | None) -> str:
    """A time, now if None, as ISO 8601 in UTC."""
    return (now or datetime.datetime.now(datetime.UTC)).isoformat(timespec='seconds')


def provenance_facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts about hardware, software and time, of a report's JSON: `provenance` and 'written'."""
    versions = [f'{name} {" or ".join(of)}' for name, of in found['versions'].items()]
    return [
        ('hardware', ', '.join(found['devices']) or 'unknown'),
        ('versions', ', '.join(versions) or 'unknown'),
        ('git commit', ', '.join(found['git_commits']) or 'unknown'),
        ('written', found['written']),
    ]


def write_texts(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Writes files of text into a folder.

    Raises:
      InputError: if they cannot be written.
    """
    for name, text in texts.items():
        try:
            write_atomically(folder / name, text)
        except OSError as error:
            raise InputError(
                f'cannot write the report {folder / name}: {error.strerror}; move away what is '
                'there, or make room and check the permissions of the folder'
            ) from error
    return [folder / name for name in texts]


def to_markdown(document: Document, figures: Iterable[Path] = ()) -> str:
    """A document as Markdown.

    Args:
      document: the document.
      figures: images in the same folder, shown below the statement.
    """
    parts = [
        f'# {escape(document.title)}',
        '\n'.join(f'- {escape(sentence)}' for sentence in document.statement),
        *(f'![{path.stem.replace("_", " ")}]({path.name})' for path in figures),
    ]
    for table in document.tables:
        parts += [f'## {escape(table.title)}', markdown(table), *map(escape, table.notes)]
    for title, items in document.lists:
        parts += [f'## {escape(title)}', '\n'.join(f'- {escape(item)}' for item in items)]
    facts = '\n'.join(f'- {name}: {escape(value)}' for name, value in document.facts)
    parts += ['## How it was made', facts]
    for caption, block in document.blocks:
        parts += [f'{escape(caption)}:', f'```\n{block}\n```']
    return '\n\n'.join(filter(None, parts)) + '\n'


def to_html(
    document: Document, charts: Mapping[str, Any], curves: tuple[str, str], finals: bool = True
) -> str:
    """A document as an HTML page with curves to point at.

    Args:
      document: the document.
      charts: what the page's script draws: 'arms' (lines of the charts), 'curves', and 'panels', of
        which one is shown at a time.
      curves: title of the chart of curves, and a note.
      finals: whether there is a chart of the arms' final errors.
    """
    parts = {
        'title': html.escape(document.title),
        'statement': '\n'.join(f'<li>{html.escape(text)}</li>' for text in document.statement),
        'curves_title': html.escape(curves[0]),
        'curves_note': html.escape(curves[1]),
        'finals_hidden': '' if finals else ' hidden',
        'tables': '\n'.join(map(html_table, document.tables)),
        'lists': '\n'.join(_list(title, items) for title, items in document.lists),
        'facts': '\n'.join(
            f'<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>'
            for name, value in document.facts
        ),
        'blocks': '\n'.join(
            f'<p>{html.escape(caption)}:</p>\n<pre>{html.escape(block)}</pre>'
            for caption, block in document.blocks
        ),
        'data': embedded({**charts, 'finals': finals}),
    }
    return filled(TEMPLATE, parts)


def filled(template: Path, parts: Mapping[str, str]) -> str:
    """A template with HTML in the place of each `{{name}}`."""
    # In one pass, so that a part that looks like a placeholder stays as it is.
    return re.sub(r'\{\{(\w+)\}\}', lambda match: parts[match[1]], template.read_text())


def embedded(data: Any) -> str:
    """JSON that neither ends the script element that holds it nor opens a comment there."""
    text = json.dumps(data, allow_nan=False, separators=(',', ':'))
    for sign in '<>&':
        text = text.replace(sign, f'\\u{ord(sign):04x}')
    return text


def _list(title: str, items: Iterable[str]) -> str:
    entries = ''.join(f'<li>{html.escape(item)}</li>' for item in items)
    return f'<h2>{html.escape(title)}</h2>\n<ul>{entries}</ul>'


def html_table(table: Table) -> str:
    """A table as HTML, with its title and notes."""
    columns = range(1, len(table.header))
    kinds = ['', *(' class="number"' if table.is_numeric(i) else '' for i in columns)]
    head = ''.join(
        f'<th scope="col"{kind}>{html.escape(name)}</th>'
        for name, kind in zip(table.header, kinds, strict=True)
    )
    rows = []
    for first, *others in table.rows:
        cells = ''.join(
            f'<td{kind}>{html.escape(text)}</td>'
            for text, kind in zip(others, kinds[1:], strict=True)
        )
        rows.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    notes = ''.join(f'<p class="note">{html.escape(note)}</p>' for note in table.notes)
    title = html.escape(table.title)
    return (
        f'<h2>{title}</h2>\n<div class="scroll"><table aria-label="{title}">\n<thead><tr>{head}'
        f'</tr></thead>\n<tbody>\n{"".join(rows)}\n</tbody></table></div>\n{notes}'
    )
