"""Options that choose the examples a model runs on; by default what its run is evaluated on."""

import argparse
from typing import TYPE_CHECKING, NamedTuple

from resnet_jax.errors import InputError

if TYPE_CHECKING:
    from resnet_jax.data import Source


class ChosenData(NamedTuple):
    """What the options choose.

    Attributes:
      source: the examples.
      batch_size: of batches without training.
      workers: number of reading processes; None: what suits the machine.
    """

    source: 'Source'
    batch_size: int
    workers: int | None


def add_data_options(parser: argparse.ArgumentParser) -> 'argparse._ArgumentGroup':
    """Declares --data, --data-dir, --split, --limit, --batch-size and --labels."""
    data = parser.add_argument_group('the data')
    data.add_argument(
        '--data', metavar='SPEC', help="tfds:NAME, folder:PATH or digits; default: the run's"
    )
    data.add_argument('--data-dir', metavar='DIR', help="of tfds:NAME; default: the run's data.dir")
    data.add_argument(
        '--split',
        metavar='NAME',
        help="default: the run's; with --model test or validation, else the first",
    )
    data.add_argument(
        '--limit', type=int, metavar='N', help='only the first N examples of the split'
    )
    data.add_argument(
        '--batch-size', type=int, metavar='N', help="default: the run's; with --model 100"
    )
    data.add_argument(
        '--labels',
        metavar='FILE',
        help='of folder:PATH: a CSV of file names and classes, for splits without class folders',
    )
    return data


def choose_data(options: argparse.Namespace) -> ChosenData:
    """Opens the examples that the options choose.

    Args:
      options: includes those of `add_data_options`, and workdir.

    Raises:
      InputError: for numbers below 1, and data that does not exist or cannot be read.
    """
    for name in ('batch_size', 'limit'):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f'--{name.replace("_", "-")} must be at least 1, got {value}')
    chosen = _of_run(options) if options.workdir is not None else _of_options(options)
    if options.limit is None or options.limit >= len(chosen.source):
        return chosen
    import numpy as np

    source = chosen.source
    return chosen._replace(source=source.select(np.arange(options.limit), source.split))


def _of_run(options: argparse.Namespace) -> ChosenData:
    from resnet_jax import data
    from resnet_jax.training import inputs, workdir

    config = workdir.read_config(options.workdir)
    size, workers = options.batch_size or config.train.eval_batch_size, config.data.workers
    if not any((options.data, options.split, options.data_dir, options.labels)):
        return ChosenData(inputs.open_splits(config)[1], size, workers)
    own = options.data is None
    source = data.open_source(
        options.data or config.data.name,
        options.split or config.data.eval_split,
        options.data_dir or config.data.dir,
        options.labels or (config.data.labels if own else None),
        config.data.slice_order if own else 'stratified',
    )
    return ChosenData(source, size, workers)


def _of_options(options: argparse.Namespace) -> ChosenData:
    from resnet_jax import data

    if options.data is None:
        raise InputError('choose the examples: give --data SPEC, or --workdir DIR of a run')
    sizes = data.split_sizes(options.data, options.data_dir, options.labels)
    usual = [name for name in ('test', 'validation', 'val') if name in sizes]
    split = options.split or next(iter([*usual, *sizes]))
    source = data.open_source(options.data, split, options.data_dir, options.labels)
    return ChosenData(source, options.batch_size or 100, None)
