"""What a run writes while it goes: metrics.jsonl, TensorBoard events and the console."""

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file by a complete one: a reader or a crash sees the old text or the new."""
    temporary = path.with_name(path.name + '.tmp')
    with temporary.open('w') as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_metrics(workdir: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that a crash cut short is left out."""
    path = workdir / 'metrics.jsonl'
    if not path.exists():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


class MetricWriter:
    """Appends figures to metrics.jsonl and to TensorBoard events.

    Attributes:
      step: the step that the run goes on from; what was written beyond it, before a crash, is
        dropped, so that the files are those of an uninterrupted run.
    """

    def __init__(self, workdir: Path, step: int) -> None:
        from tensorboardX import SummaryWriter

        lines = [m for m in read_metrics(workdir) if m['step'] <= step]
        write_atomically(
            workdir / 'metrics.jsonl', ''.join(json.dumps(line) + '\n' for line in lines)
        )
        self._file = (workdir / 'metrics.jsonl').open('a')
        self._events = SummaryWriter(str(workdir), purge_step=step + 1 if step else None)

    def write(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        """Appends a line {'step', 'split', **figures}; figures that are not finite become null."""
        clean = {k: v if math.isfinite(v) else None for k, v in figures.items()}
        self._file.write(json.dumps({'step': step, 'split': split, **clean}) + '\n')
        self._file.flush()
        for name, value in figures.items():
            self._events.add_scalar(f'{split}/{name}', value, step)
        self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._events.close()


class Console:
    """A progress bar on a terminal, plain lines otherwise, on standard error."""

    def __init__(self, first_step: int, last_step: int) -> None:
        self._bar = tqdm(
            total=last_step,
            initial=first_step,
            unit='step',
            disable=None,
            dynamic_ncols=True,
            smoothing=0.05,
        )
        self._last_step = last_step

    def advance(self) -> None:
        """One more step is under way."""
        self._bar.update()

    def figures(self, step: int, figures: Mapping[str, float], seconds_left: float) -> None:
        """Shows the training figures at a step."""
        shown = (
            f'loss {figures["loss"]:.4f}  top1 {100 * figures["top1"]:.2f} %  '
            f'{figures["images_per_second"]:.0f} images/s'
        )
        if self._bar.disable:
            left = tqdm.format_interval(seconds_left)
            self.say(f'step {step}/{self._last_step}  {shown}  {left} left')
        else:
            self._bar.set_postfix_str(shown)

    def say(self, line: str) -> None:
        """Prints a line, above the bar where there is one."""
        if self._bar.disable:
            print(line, file=sys.stderr, flush=True)
        else:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar where it is."""
        self._bar.close()
