"""A sweep's findings as one HTML file that needs nothing but itself."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnet_jax.experiments.reports.findings import Arm, Findings
from resnet_jax.experiments.reports.report_figures import styles
from resnet_jax.experiments.reports.report_text import Listing, commands, facts, listings, numeric

TEMPLATE = Path(__file__).with_name('report.html.template')


def page(findings: Findings, statement: Sequence[str], curves: list[dict[str, Any]]) -> str:
    """The page.

    Args:
      findings: of the sweep.
      statement: its sentences.
      curves: as `findings.curves` gives them; they are in the page as JSON.
    """
    made, alone = map(html.escape, commands(findings))
    looks = styles(len(findings.arms))
    data = {
        'arms': [_arm(arm, *look) for arm, look in zip(findings.arms, looks, strict=True)],
        'curves': curves,
    }
    parts = {
        'title': html.escape(findings.sweep.title),
        'statement': '\n'.join(f'<li>{html.escape(sentence)}</li>' for sentence in statement),
        'tables': '\n'.join(map(_table, listings(findings))),
        'facts': '\n'.join(
            f'<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>'
            for name, text in facts(findings)
        ),
        'sweep_command': made,
        'train_command': alone,
        'data': embedded(data),
    }
    # In one pass: what stands in a part is not looked into.
    return re.sub(r'\{\{(\w+)\}\}', lambda match: parts[match[1]], TEMPLATE.read_text())


def embedded(data: Any) -> str:
    """JSON that cannot end the script element that it stands in, nor open a comment there."""
    text = json.dumps(data, allow_nan=False, separators=(',', ':'))
    for sign in '<>&':
        text = text.replace(sign, f'\\u{ord(sign):04x}')
    return text


def _arm(arm: Arm, colour: str, dashes: Sequence[int]) -> dict[str, Any]:
    error = arm.error and {name: getattr(arm.error, name) for name in ('mean', 'low', 'high', 'n')}
    return {
        'name': arm.name,
        'colour': colour,
        'dashes': list(dashes),
        'error': error,
        'errors': [run.final.error for run in arm.runs if run.final is not None],
        'published': arm.published,
    }


def _table(table: Listing) -> str:
    kinds = [' class="number"' if numeric(table, i) else '' for i in range(len(table.header))]
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
