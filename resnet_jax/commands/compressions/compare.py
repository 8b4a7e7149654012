"""`resnet-jax compress compare`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resnet_jax import text
from resnet_jax.errors import InputError, Range, check_number
from resnet_jax.json_files import json_text

TEXT = 'Compressed models side by side: a table, and what is worth its price.'
EPILOG = (
    'A run that was trained further takes part too, and of a sweep each arm, with the mean error '
    'of its seeds. Speeds are measured again, of all of them by turns, on this machine; with '
    'onnxruntime too where it is installed (the extra onnx): in eight bits where inputs are '
    'quantised, else in float32.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        'folders',
        nargs='+',
        type=Path,
        metavar='DIR',
        help='what resnet-jax compress wrote, a run or a sweep',
    )
    parser.add_argument(
        '--out', type=Path, metavar='DIR', help='write compare.md, compare.json and pictures there'
    )
    parser.add_argument(
        '--latency-batch', type=int, default=1, metavar='N', help='images at a time (default: 1)'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Reads the reports, measures the speeds together, and prints the table."""
    from resnet_jax.compress import compare
    from resnet_jax.records.writers import check_folder, signs_of_life

    check_number('--latency-batch', options.latency_batch, Range(1, 2**16, whole=True))
    if options.out is not None:
        check_folder(options.out, 'give another --out DIR')
    if len(set(options.folders)) != len(options.folders):
        raise InputError('a folder is named twice')
    found = [(folder, one) for folder in options.folders for one in _candidates(folder)]
    names = [one.name for _, one in found]
    # Two of one name, such as an arm and a folder, are told apart by where they lie.
    apart = [
        one._replace(name=f'{folder.resolve().parent.name}/{one.name}')
        if one.folders == (folder,) and names.count(one.name) > 1
        else one
        for folder, one in found
    ]
    entries = compare.read(apart)
    with signs_of_life('measuring speeds'):
        entries = compare.with_latencies(entries, options.latency_batch, _onnxruntime)
    figures: dict[str, Any] = compare.as_json(entries, options.latency_batch)
    files = [] if options.out is None else compare.write(entries, figures, options.out)
    if options.json:
        print(json_text({**figures, 'files': [str(path) for path in files]}))
        return
    table = compare.table(entries, options.latency_batch)
    print(text.aligned(table.header, table.rows, text.terminal_width()))
    if files:
        print('\nwritten: ' + ', '.join(map(str, files)))


def _candidates(folder: Path) -> list[Any]:
    """A folder, or the arms of the sweep in it: those of which every run has ended."""
    from resnet_jax.compress.compare import Candidate
    from resnet_jax.experiments.sweep import SWEEP_FILE, read_sweep, units
    from resnet_jax.training.workdir import is_ended

    if not (folder / SWEEP_FILE).is_file():
        return [Candidate(folder.name, (folder,))]
    runs = units(read_sweep(folder), folder)
    arms = {arm: tuple(u.folder for u in runs if u.arm == arm) for arm in (u.arm for u in runs)}
    found = [Candidate(arm, paths) for arm, paths in arms.items() if all(map(is_ended, paths))]
    if not found:
        raise InputError(f'no arm of the sweep in {folder} has ended with all of its seeds')
    return found


def _onnxruntime(trained: Any, batch: int) -> Callable[[], Any] | None:
    """Runs a batch by onnxruntime; None without the extra.

    A model with quantised inputs runs in eight bits, others in float32.
    """
    import importlib.util
    import tempfile

    import numpy as np

    from resnet_jax.export import formats
    from resnet_jax.export.program import make_program

    if not all(importlib.util.find_spec(name) for name in ('onnx', 'onnxruntime')):
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        try:
            program = make_program(
                trained,
                dtype='int8' if trained.model.activation_bits else 'float32',
                channels_last=False,
                calibration=_random_pixels(trained, 16),  # of values; they do not change the speed
            )
            formats.FORMATS['onnx'].write(program, path, {})
        except InputError:  # a part of the model that the format has no operation for
            return None
        run = formats.FORMATS['onnx'].open(path)  # reads all of the file
    images = np.moveaxis(_random_pixels(trained, batch), -1, 1).astype(np.float32) / 255
    images = np.ascontiguousarray(images)
    return lambda: run(images)


def _random_pixels(trained: Any, count: int) -> Any:
    import numpy as np

    pre = trained.preprocessing
    shape = (count, *pre.input_shape)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
