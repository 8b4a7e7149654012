"""A run's folder: its config, preprocessing and summary, and the lock on it."""

import contextlib
import json
import os
import statistics
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from resnet_jax import data, versions
from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError, Unreadable, check_choice
from resnet_jax.interop.files import is_compressed
from resnet_jax.json_files import read_json, unreadable
from resnet_jax.records.writers import ID_FILE, read_metrics, write_atomically
from resnet_jax.training import config as configs
from resnet_jax.training.checkpoint import LOST
from resnet_jax.training.memory import device_peak_bytes
from resnet_jax.training.tasks import TASKS, score_of

LOCK = '.lock'
ACCEPT = '--config.data.accept_changes=true'
# What a run that is killed at its very beginning may leave.
_FIRST_FILES = (
    *(LOCK, 'data.json', 'data.json.tmp', 'preprocessing.json', 'preprocessing.json.tmp'),
    'config.json.tmp',
)

# Files that training overwrites; a folder of that name is refused.
_REPLACED = (LOCK, 'data.json', 'metrics.jsonl', 'summary.json', ID_FILE)


def is_run(workdir: Path) -> bool:
    """Whether the folder holds a run."""
    # os.path says no of a name that no file can have, where a path raises an error.
    return os.path.exists(workdir / 'config.json')


def is_sound(workdir: Path) -> bool:
    """Whether the folder holds a run whose description can be read."""
    try:
        check_readable(workdir)
    except Unreadable:
        return False
    return is_run(workdir)


def check_folder(workdir: Path, config: ConfigDict, extend: bool = False) -> None:
    """Refuses a folder that holds anything but this run; writes nothing.

    Args:
      workdir: the folder.
      config: of the run.
      extend: whether its length may be another than before; there must be a run then.

    Raises:
      InputError: showing what differs between the folder's config and this one.
      Unreadable: as `check_readable`.
    """
    check_readable(workdir)
    if is_compressed(workdir):
        raise InputError(
            f'workdir {workdir} holds a compressed model and no run; to train it further, use '
            f'another --workdir with --config.init.weights={workdir}'
        )
    if is_run(workdir):
        old, length = read_config(workdir), {*configs.ALTERNATIVES, 'train.patience'}
        others = configs.differences(old, config, configs.FREE_FIELDS | length)
        changes = others if extend else configs.differences(old, config)
        if changes:
            shown = '; '.join(changes[:8]) + (' ...' if len(changes) > 8 else '')
            longer = '' if others or extend else ', or --extend to train it further'
            raise InputError(
                f'workdir {workdir} holds a run with another config ({shown}); '
                f'use another --workdir, or the same config to continue{longer}'
            )
    elif extend:
        raise InputError(f'there is no run in workdir {workdir} to extend; leave --extend out')


def check_readable(workdir: Path) -> None:
    """Refuses a folder that is neither new nor a run whose description can be read.

    Raises:
      Unreadable: saying what is wrong with it.
    """
    if is_run(workdir):
        read_config(workdir)
        read_preprocessing(workdir)
        for path in (workdir / name for name in _REPLACED if (workdir / name).is_dir()):
            raise Unreadable(f'{path} is a folder, where a file of the run belongs; move it away')
        return
    if not workdir.exists():
        return
    if not workdir.is_dir():
        raise Unreadable(f'workdir {workdir} is a file; use another --workdir')
    foreign = sorted(p.name for p in workdir.iterdir() if p.name not in _FIRST_FILES)
    if foreign:
        raise Unreadable(
            f'workdir {workdir} is not empty and not a run (it holds {foreign[0]}); '
            'use another --workdir'
        )


@contextlib.contextmanager
def locked(workdir: Path, wait: bool = False) -> Iterator[None]:
    """Makes the folder, and keeps other processes from training in it while the context is open.

    Args:
      workdir: the folder.
      wait: whether to wait for a process that holds the lock, instead of refusing.

    Raises:
      InputError: if the folder cannot be written to, or another process holds the lock.
    """
    import fcntl

    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / LOCK).open('w')
    except OSError as error:
        raise InputError(f'cannot write to workdir {workdir}: {error.strerror}') from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InputError(f'another process is training in workdir {workdir}') from error
        yield


def check_data(
    workdir: Path, config: ConfigDict, class_names: Sequence[str], fingerprint: Mapping[str, Any]
) -> None:
    """Refuses to resume a run on other data than it began with.

    Args:
      workdir: of the run.
      config: of the continuation.
      class_names: of the data as they are now.
      fingerprint: of the data as they are now, by split: see `data.fingerprint`.

    Raises:
      InputError: saying what differs.
    """
    names = read_preprocessing(workdir).class_names
    changes = [f'no class {n!r} any more' for n in names if n not in class_names]
    changes += [f'the class {n!r} is new' for n in class_names if n not in names]
    path, advice = workdir / 'data.json', 'restore it, or start a new run in another --workdir'
    if not changes and path.is_file():
        hint = 'if the data are the same, remove it and run the same command again'
        old = read_json(path, hint)
        try:
            for split, now in fingerprint.items():
                found = data.fingerprint_changes(old[split], now)
                changes += [f'{split}: {line}' for line in found]
        except (KeyError, TypeError, AttributeError) as error:
            raise unreadable(path, error, hint) from error
        advice = f'{advice}, or continue on what there is now with {ACCEPT}'
    elif not changes:  # an earlier version kept the path and the names of the classes only
        then, now = read_config(workdir).data.name, config.data.name
        changes += [f'data.name: {then} -> {now}'] * (then != now)
        advice = f'if the contents are the same, continue with {ACCEPT}'
    if changes and not (ACCEPT in advice and config.data.accept_changes):
        more = f' and {len(changes) - 4} more' if len(changes) > 4 else ''
        raise InputError(
            f'the data of the run in {workdir} has changed ({"; ".join(changes[:4])}{more}); '
            f'{advice}'
        )


def write_fingerprint(workdir: Path, fingerprint: Mapping[str, Any]) -> None:
    """Writes data.json, what the data of the run is, by split."""
    write_atomically(workdir / 'data.json', json.dumps(fingerprint, indent=1) + '\n')


def write_run(workdir: Path, config: ConfigDict, preprocessing: Preprocessing) -> None:
    """Writes preprocessing.json and config.json of a run that is new, or longer than before."""
    # Of the shorter run, whose figures stay in metrics.jsonl.
    (workdir / 'summary.json').unlink(missing_ok=True)
    write_atomically(workdir / 'preprocessing.json', preprocessing.to_json() + '\n')
    write_atomically(workdir / 'config.json', configs.to_json(config))


def read_config(workdir: Path) -> ConfigDict:
    """The config of the run in a folder.

    Raises:
      InputError: if the folder holds no run.
      Unreadable: if its file is damaged.
    """
    path = workdir / 'config.json'
    if not is_run(workdir):
        what = 'is not a run (it has no config.json)' if workdir.is_dir() else 'does not exist'
        raise InputError(f'workdir {workdir} {what}; create one with `resnet-jax train`')
    try:
        config = configs.from_json(path.read_text(encoding='utf-8'))
        check_choice('task', config.task, TASKS)  # every reader looks it up
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise unreadable(path, error, LOST) from error
    return config


def read_preprocessing(workdir: Path) -> Preprocessing:
    """The preprocessing that the run's model was trained with.

    Raises:
      Unreadable: if its file is missing or damaged.
    """
    path = workdir / 'preprocessing.json'
    try:
        return Preprocessing.from_json(path.read_text(encoding='utf-8'))
    except (ValueError, OSError) as error:
        raise unreadable(path, error, LOST) from error


def write_summary(
    workdir: Path,
    config: ConfigDict,
    *,
    total_steps: int,
    parameters: int,
    seconds: float,
    first_step_seconds: float | None,
    step_bytes: int | None,
    trained_together: int = 1,
    replaced: int = 0,
    profile: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes summary.json from a finished run's metrics.

    Args:
      workdir: of the run.
      config: of the run.
      total_steps: the length of the run, which `train.patience` may have cut short.
      parameters: number of entries of the model's `params`.
      seconds: trained in all, over all resumptions.
      first_step_seconds: until this process had taken its first step, compilation included; None if
        it took none.
      step_bytes: memory of a step, by the compiler's account; None where it gives none.
      trained_together: number of runs that shared each step; the speed is that of one of them.
      replaced: images that others had replaced before the first step.
      profile: what a profile of some of its steps found, where one was asked for.

    Returns:
      What it wrote. `images_per_second` is the median over the logged intervals, which leave out
      compilation, evaluation and saving; `data_wait`, `data_read` and `data_send` are means, None
      where the data are on the device.
    """
    lines = list(read_metrics(workdir))
    train = [line for line in lines if line['split'] == 'train']
    final = [line for line in lines if line['split'] == 'eval'][-1]
    speeds = [line['images_per_second'] for line in train if 'images_per_second' in line]
    summary = {
        'model': config.model.name,
        'data': config.data.name,
        'seed': config.seed,
        'parameters': parameters,
        'steps': final['step'],
        'planned_steps': total_steps,
        'stopped_early': final['step'] < total_steps,
        'seconds': round(seconds, 3),
        'first_step_seconds': first_step_seconds and round(first_step_seconds, 3),
        'trained_together': trained_together,
        'images_per_second': statistics.median(speeds) if speeds else None,
        **_reading(train, replaced),
        'train': _figures(train[-1]) if train else {},
        'eval': _figures(final),
        'memory': {'step_bytes': step_bytes, 'device_peak_bytes': device_peak_bytes()},
        **({'profile': profile} if profile else {}),
        'device': jax.devices()[0].device_kind,
        'versions': versions.installed(),
        'git_commit': git_commit(),
    }
    write_atomically(workdir / 'summary.json', json.dumps(summary, indent=2) + '\n')
    return summary


def _reading(train: Sequence[Mapping[str, Any]], replaced: int) -> dict[str, Any]:
    """What a summary says of the reading of images, from the training lines of metrics.jsonl."""
    shares = {
        name: [line[name] for line in train if line.get(name) is not None]
        for name in ('data_wait', 'data_read', 'data_send')
    }
    return {
        **{name: statistics.mean(found) if found else None for name, found in shares.items()},
        'bad_images': replaced + int(sum(line.get('bad_images') or 0 for line in train)),
    }


def read_summary(workdir: Path) -> dict[str, Any] | None:
    """What `write_summary` wrote; None if the run has not finished.

    Raises:
      Unreadable: if it is damaged.
    """
    path = workdir / 'summary.json'
    if not path.exists():
        return None
    hint = 'it is no summary of a run; remove it and run the same command again'
    summary = read_json(path, hint)
    figures = summary.get('eval')
    if not isinstance(figures, dict) or not isinstance(score_of(figures), int | float):
        raise unreadable(path, 'it has no figures of an evaluation', hint)
    return summary


def is_ended(workdir: Path) -> bool:
    """Whether a run has written its summary.

    A damaged summary counts as missing: training rewrites it from the last checkpoint and the
    figures.
    """
    try:
        return read_summary(workdir) is not None
    except Unreadable:
        return False


def _figures(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ('step', 'split')}


def git_commit() -> str | None:
    """The commit of the code's checkout, with '+' if it has changes; None outside a checkout."""

    def git(*args: str) -> str:
        return subprocess.run(
            ['git', '-C', str(Path(__file__).parent), *args],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        return git('rev-parse', 'HEAD') + ('+' if git('status', '--porcelain', '-uno') else '')
    except (OSError, subprocess.CalledProcessError):
        return None
