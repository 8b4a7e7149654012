"""The report of a sweep, in its workdir: for reading, for looking at, for other programs."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError
from resnet_jax.experiments.reports import findings as found
from resnet_jax.experiments.reports.findings import Findings
from resnet_jax.experiments.reports.report_csv import arms_csv, runs_csv
from resnet_jax.experiments.reports.report_figures import write_figures
from resnet_jax.experiments.reports.report_html import page
from resnet_jax.experiments.reports.report_text import markdown
from resnet_jax.experiments.reports.statement import statement
from resnet_jax.records.writers import write_atomically


@dataclasses.dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
      findings: the numbers.
      statement: what they say.
      json: what report.json holds, but for the curves.
      files: all that was written; report.md and report.html come first.
    """

    findings: Findings
    statement: list[str]
    json: dict[str, Any]
    files: list[Path]


def write_report(workdir: Path) -> Report:
    """Writes the report of a sweep into its workdir, of what there is so far.

    report.md, report.html, report.json (with the curves), report.csv (a line for each arm),
    runs.csv (a line for each run), and curves and final_error as PNG and SVG.

    Raises:
      InputError: if the workdir holds no sweep, nothing has ended, or it cannot be written.
    """
    findings = found.find(workdir)
    if not findings.runs('ended'):
        raise InputError(_nothing(findings))
    says, curves = statement(findings), found.curves(findings.arms)
    content = found.to_json(findings, says, '')
    try:
        figures = write_figures(findings, curves, workdir)
        texts = {
            'report.md': markdown(findings, says, [f for f in figures if f.suffix == '.png']),
            'report.html': page(findings, says, curves),
            'report.json': json.dumps({**content, 'curves': curves}, indent=1) + '\n',
            'report.csv': arms_csv(content),
            'runs.csv': runs_csv(content),
        }
        for name, text in texts.items():
            write_atomically(workdir / name, text)
    except OSError as error:
        raise InputError(f'cannot write the report in {workdir}: {error.strerror}') from error
    return Report(findings, says, content, [*(workdir / name for name in texts), *figures])


def _nothing(findings: Findings) -> str:
    failed, every = findings.runs('failed'), findings.runs()
    begun = len(findings.runs('unfinished'))
    text = f'nothing to report: none of the {len(every)} runs in {findings.workdir} has ended'
    if failed:
        name = next(arm.name for arm in findings.arms if failed[0] in arm.runs)
        why = failed[0].failure
        text += f'; {len(failed)} failed ({name} seed {failed[0].seed}: {why and why.error})'
    return f'{text}; {begun} have begun; `resnet-jax sweep` resumes them' if begun else text
