"""Options that choose the examples a model runs on; by default what its run is evaluated on."""

import argparse
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_jax import text
from resnet_jax.errors import InputError, Range, check_number

if TYPE_CHECKING:
    from resnet_jax.data import Source


SPECS = 'digits, tfds:NAME, folder:PATH, tar:PATTERN, npz:FILE, hf:NAME, text:PATH or audio:PATH'
# Attributes of `data.Details`.
DETAILS = ('labels', 'image_key', 'label_key', 'label_names', 'length', 'sample_rate')


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
    """Declares --data, --split, --limit, --batch-size and what a data set's name leaves open."""
    data = parser.add_argument_group('the data')
    data.add_argument('--data', metavar='SPEC', help=f"{SPECS}; default: the run's")
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
    add_details(data)
    return data


def add_details(data: 'argparse._ArgumentGroup') -> None:
    """Declares what the name of a data set leaves open."""
    data.add_argument(
        '--data-dir', metavar='DIR', help='of tfds:NAME: where it lies; default: data.dir'
    )
    data.add_argument(
        '--labels',
        metavar='FILE',
        help='of folder:PATH: a CSV of file names and classes, for splits without class folders',
    )
    for key in ('image', 'label'):
        data.add_argument(
            f'--{key}-key',
            metavar='NAME',
            help=f'of hf:NAME and tfds:NAME: the column of the {key}s; of tar:PATTERN: the suffix '
            f'of their files{" or a field of the JSON" * (key == "label")}; default: found by type',
        )
    data.add_argument(
        '--label-names',
        metavar='FILE',
        help='of tar:PATTERN, npz:FILE and hf:NAME: the names of the classes, one a line',
    )
    data.add_argument(
        '--length',
        type=int,
        metavar='N',
        help="of text:PATH and audio:PATH: bytes or samples of each file; default: the run's",
    )
    data.add_argument(
        '--sample-rate',
        type=int,
        metavar='HZ',
        help="of audio:PATH: samples a second; default: the run's",
    )


def add_split_options(parser: argparse.ArgumentParser) -> None:
    """Declares --data, which is required, --split of several, and the details."""
    data = parser.add_argument_group('the data')
    data.add_argument('--data', required=True, metavar='SPEC', help=SPECS)
    data.add_argument('--split', nargs='+', metavar='NAME', help='default: all splits')
    add_details(data)


def open_splits(options: argparse.Namespace, dense: bool = False) -> 'list[Source]':
    """Opens the splits that the options of `add_split_options` choose.

    Of all splits, those that cannot be used, such as one without labels, are left out with a note.

    Args:
      options: includes those of `add_split_options`.
      dense: whether the command also takes data with masks, boxes or maps of depth.

    Raises:
      InputError: for data that does not exist or cannot be read.
    """
    from resnet_jax import data

    about = details(options, options.data)

    def opened(split: str) -> 'Source':
        # Of dense data the caller looks at the files one by one.
        source = data.open_source(options.data, split, checked=not dense, **about)
        return source if dense else labelled(source)

    if options.split:
        return [opened(split) for split in dict.fromkeys(options.split)]
    found, faults = [], []
    for split in data.split_sizes(options.data, **about):
        try:
            found.append(opened(split))
        except InputError as error:
            faults.append(error)
    if not found:
        raise faults[0] if faults else InputError(f'{options.data} has no split')
    notes = dict.fromkeys(note for source in found for note in source.notes)
    for remark in (*notes, *(f'left out: {error}' for error in faults)):
        text.note(remark)
    return found


def details(options: argparse.Namespace, spec: str) -> dict[str, Any]:
    """The options of `add_details`, as `data.open_source` takes them.

    Raises:
      InputError: for an option without effect on this data set.
    """
    from resnet_jax import data

    for field in DETAILS:
        if getattr(options, field) is not None and not data.has_effect(spec, field):
            kinds = ' or '.join(data.kinds_that_take(field))
            raise InputError(
                f'--{field.replace("_", "-")} has no effect on {spec}; it goes with {kinds}'
            )
    for field in ('length', 'sample_rate'):
        if getattr(options, field) is not None:
            check_number(f'--{field.replace("_", "-")}', getattr(options, field), data.LENGTH)
    return {field: getattr(options, field) for field in ('data_dir', *DETAILS)}


def labelled(source: 'Source') -> 'Source':
    """A source whose examples have a class each.

    Raises:
      InputError: for data with masks, boxes or maps of depth.
    """
    if source.is_dense:
        raise InputError(
            f'{source.name} has {" and ".join(source.targets)} for each image, and this command '
            'takes data with a class for each'
        )
    return source


def choose_data(options: argparse.Namespace, dense: bool = False) -> ChosenData:
    """Opens the examples that the options choose.

    Args:
      options: includes those of `add_data_options`, and workdir.
      dense: whether the command also takes data with masks, boxes or maps of depth.

    Raises:
      InputError: for numbers below 1, data that does not exist or cannot be read, and data that the
        command does not take.
    """
    for name in ('batch_size', 'limit'):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise InputError(f'--{name.replace("_", "-")} must be at least 1, got {value}')
    chosen = _of_run(options) if options.workdir is not None else _of_options(options)
    if not dense:
        labelled(chosen.source)
    if options.limit is None or options.limit >= len(chosen.source):
        return chosen
    import numpy as np

    source = chosen.source
    return chosen._replace(source=source.select(np.arange(options.limit), source.split))


def add_fit_options(parser: argparse.ArgumentParser, usual: int) -> None:
    """Declares the examples that numbers are chosen on, such as the ranges of activations."""
    group = parser.add_argument_group('the images that numbers are chosen on')
    group.add_argument(
        '--fit-split',
        metavar='NAME',
        help="of the same data (default: the run's training split, or train; where there is none, "
        'the examples that the result is judged on)',
    )
    group.add_argument(
        '--fit-images', type=int, default=usual, metavar='N', help=f'how many (default: {usual})'
    )


def choose_fitting(options: argparse.Namespace, chosen: ChosenData) -> ChosenData:
    """Opens a sample of the examples that the options of `add_fit_options` choose.

    Args:
      options: includes those of `add_data_options`, and workdir.
      chosen: the examples that the result is judged on.

    Raises:
      InputError: for a number below 1, and data that does not exist or cannot be read.
    """
    import numpy as np

    from resnet_jax import data
    from resnet_jax.training import inputs, workdir

    check_number('--fit-images', options.fit_images, Range(1, whole=True))
    split, source = options.fit_split, chosen.source
    if split is None and options.data is None:
        source, _ = inputs.open_splits(workdir.read_config(options.workdir))
    elif split is None and 'train' in data.split_sizes(
        options.data, **details(options, options.data)
    ):
        split = 'train'
    if split is not None:
        changed = {**vars(options), 'split': split, 'limit': None}
        source = choose_data(argparse.Namespace(**changed), source.is_dense).source
    elif source is chosen.source:
        text.note('there is no training split: what is chosen is judged on the same images')
    # Mixed: many sets lie class by class.
    sample = np.random.default_rng(0).permutation(len(source))[: options.fit_images]
    return chosen._replace(source=source.select(np.sort(sample), source.split))


def _of_run(options: argparse.Namespace) -> ChosenData:
    from resnet_jax import data
    from resnet_jax.training import inputs, workdir

    config = workdir.read_config(options.workdir)
    size, workers = options.batch_size or config.train.eval_batch_size, config.data.workers
    if not any(getattr(options, field) for field in ('data', 'split', 'data_dir', *DETAILS)):
        return ChosenData(inputs.open_splits(config)[1], size, workers)
    spec = options.data or config.data.name
    about = inputs.source_details(config)
    if options.data is not None:
        # Texts and sounds are cut as those that the model was trained on.
        about = {key: about[key] for key in ('data_dir', 'length', 'sample_rate')}
    given = {key: value for key, value in details(options, spec).items() if value is not None}
    for key in ('length', 'sample_rate'):
        if key in given and about[key] not in (None, given[key]):
            raise InputError(
                f'--{key.replace("_", "-")} {given[key]}: the model was trained with {about[key]}; '
                'leave it out'
            )
    about |= given
    source = data.open_source(spec, options.split or config.data.eval_split, **about)
    return ChosenData(source, size, workers)


def _of_options(options: argparse.Namespace) -> ChosenData:
    from resnet_jax import data

    if options.data is None:
        raise InputError('choose the examples: give --data SPEC, or --workdir DIR of a run')
    about = details(options, options.data)
    sizes = data.split_sizes(options.data, **about)
    usual = [name for name in ('test', 'validation', 'val') if name in sizes]
    split = options.split or next(iter([*usual, *sizes]))
    source = data.open_source(options.data, split, **about)
    return ChosenData(source, options.batch_size or 100, None)
