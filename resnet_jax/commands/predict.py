"""`resnet-jax predict`."""

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import model_options, predict_dense
from resnet_jax.errors import InputError, RunError
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    from resnet_jax.inference.predict import Prediction
    from resnet_jax.inference.trained import TrainedModel

TEXT = 'Predict the classes of image files, their segments, objects or depth.'
EPILOG = (
    'A folder stands for the .jpg, .png, .webp, .tif, .gif, .bmp and like files in it and its '
    "subfolders. Quote patterns: 'photos/*.jpg', or 'photos/**/*.jpg' for any depth of folders. "
    'Folders and patterns skip hidden files and sort the others. An unreadable file that you name '
    'is an error: exit code 2, and nothing is printed. One from a folder or pattern is skipped '
    'with a line on standard error, the others are predicted, and the exit code is 1. --jsonl and '
    '--csv print each line as soon as it is computed, unless you name files.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGE',
        help='an image file, a folder of images or a quoted pattern; for a model of videos or '
        'volumes an .npy file of one, or a folder of its frames; for one of texts, sounds or '
        'series such a file, folder or pattern',
    )
    model_options.add_model_options(parser)
    model_options.add_exported_option(parser)
    parser.add_argument(
        '--topk', type=int, default=5, metavar='K', help='number of classes (default 5)'
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument('--json', action='store_true', help='print one JSON object')
    forms.add_argument(
        '--jsonl', action='store_true', help='print one JSON object per line and image'
    )
    forms.add_argument(
        '--csv',
        action='store_true',
        help='print image, rank, class and probability as CSV, with a header',
    )
    parser.add_argument(
        '--calibrated',
        action='store_true',
        help='divide the logits by the temperature that `resnet-jax analyze calibration --store` '
        'has fitted to these weights',
    )
    parser.add_argument(
        '--calibration',
        type=Path,
        metavar='FILE',
        help='for --calibrated: where the temperature is (default: calibration.json in the '
        'workdir)',
    )
    parser.add_argument(
        '--sheet',
        type=Path,
        metavar='FILE.png',
        help='draw the first 100 images as the model sees them, with bars of their classes, and '
        'whether these are right where the true class is known: by --labels, or because the folder '
        'of an image is called like one',
    )
    parser.add_argument(
        '--labels',
        type=Path,
        metavar='FILE',
        help='for --sheet: a CSV of file names and classes',
    )
    predict_dense.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Predicts and prints the classes of the images."""
    from resnet_jax.training import compilation

    if options.exported is not None and options.workdir is not None:
        raise InputError('--exported does not go with --workdir; leave out one of the two')
    compilation.keep_compiled()
    trained = model_options.load_model_or_exported(options)
    with compilation.matmul_precision(trained.matmul_precision):
        if trained.does.is_dense:
            predict_dense.run(options, trained)
        elif options.overlays is not None or options.score is not None:
            given = '--score' if options.overlays is None else '--overlays'
            raise InputError(
                f'{given} is for segments, boxes and depth, and this model classifies images; '
                'leave it out (--sheet FILE.png draws the images)'
            )
        else:
            _predict(options, trained)


def _predict(options: argparse.Namespace, trained: 'TrainedModel') -> None:
    from tqdm import tqdm

    from resnet_jax import data
    from resnet_jax.inference import plots, predict, sheet
    from resnet_jax.inference.class_matching import class_finder
    from resnet_jax.records.writers import signs_of_life

    _check_sheet(options, trained.preprocessing.noun)
    if options.sheet:
        plots.check_writable(options.sheet, '--sheet')
    elif options.labels:
        raise InputError('--labels goes with --sheet FILE.png: give that too')
    temperature = _temperature(options, trained)
    labels = data.read_labels(options.labels, '--labels') if options.labels else None
    if labels:
        find = class_finder(trained.preprocessing.class_names)
        if unknown := [name for name in sorted(set(labels.values())) if find(name) is None]:
            text.note(
                f'the model has no class {data.printable(data.listed(unknown))} of '
                f'{options.labels}; such images are shown as neither right nor wrong'
            )
    files = data.find_examples(options.images, trained.preprocessing)
    skipped: list[InputError] = []
    drawn: list[Prediction] = []

    def skip(error: InputError) -> None:
        skipped.append(error)
        tqdm.write(f'skipped {data.printable(str(error))}', file=sys.stderr)

    def keep_for_sheet(predictions: Iterable['Prediction']) -> Iterator['Prediction']:
        for item in predictions:
            if options.sheet and len(drawn) < sheet.LIMIT:
                drawn.append(item)
            yield item

    line_by_line = options.jsonl or options.csv
    progress = not (line_by_line and sys.stdout.isatty())  # the lines on the terminal show it
    found = predict.predict(trained, files, options.topk, skip, progress, labels, temperature)
    results: Iterator[dict[str, Any]] = map(_as_object, keep_for_sheet(found))
    if not line_by_line or any(file.named for file in files):
        with signs_of_life(f'predicting {len(files):,} images'):
            results = iter(list(results))  # to fail on a named file before printing anything
    if options.json:
        about = {'temperature': temperature} if options.calibrated else {}
        print(json_text({**trained.origin, **about, 'predictions': list(results)}))
    elif options.jsonl:
        for item in results:
            print(json_text(item))
    elif options.csv:
        _print_csv(results)
    else:
        _print_table(results)
    if drawn:
        sheet.write_sheet(drawn, len(files) - len(skipped), options.topk, options.sheet)
        print(f'sheet of {len(drawn)} of {len(files)} images: {options.sheet}', file=sys.stderr)
    if skipped:
        raise RunError(f'{len(skipped)} of {len(files)} images could not be read')


def _check_sheet(options: argparse.Namespace, noun: str) -> None:
    if options.sheet and noun != 'images':
        raise InputError(f'--sheet draws images, and this model takes {noun}; leave it out')


def _temperature(options: argparse.Namespace, trained: 'TrainedModel') -> float:
    """What divides the logits: the stored temperature, which is said, or 1."""
    from resnet_jax.inference import calibration

    if options.calibrated and options.exported:
        raise InputError('--calibrated goes with the model itself, and not with --exported')
    if not options.calibrated:
        if options.calibration is not None:
            raise InputError('--calibration goes with --calibrated: give that too')
        return 1.0
    path = calibration.calibration_file(trained, options.calibration)
    found = calibration.read_calibration(path, trained)
    text.note(f'the probabilities are calibrated, with the logits divided by {found.words}')
    return found.temperature


def _as_object(item: 'Prediction') -> dict[str, Any]:
    top = [{'class': name, 'probability': probability} for name, probability in item.top]
    return {'image': str(item.path), 'top': top}


def _print_csv(results: Iterable[dict[str, Any]]) -> None:
    """Prints a line as soon as it is computed."""
    print(text.comma_separated_line(['image', 'rank', 'class', 'probability']), end='')
    for item in results:
        image = text.printable(item['image'])
        for rank, top in enumerate(item['top'], 1):
            cells = [image, rank, text.printable(top['class']), top['probability']]
            print(text.comma_separated_line(cells), end='')


def _print_table(results: Iterable[dict[str, Any]]) -> None:
    rows = []
    for item in results:
        classes = [
            f'{100 * top["probability"]:5.1f} % {text.printable(top["class"])}'
            for top in item['top']
        ]
        rows.append((text.printable(item['image']), classes))
    if not rows:
        return
    width = text.terminal_width()
    longest = max(text.columns_of(name) for name, _ in rows)
    if width is None:
        print(text.pairs((name, '  '.join(classes)) for name, classes in rows))
    elif longest <= width // 2:
        _print_beside(rows, longest, width)
    else:
        for name, classes in rows:
            print(text.shortened(name, width))
            _print_beside([('', classes)], 0, width)


def _print_beside(rows: Iterable[tuple[str, list[str]]], left: int, width: int) -> None:
    """Prints the classes to the right of each name, wrapped to the width of the terminal."""
    for name, classes in rows:
        room = width - left - 2
        lines = text.wrapped((text.shortened(c, room) for c in classes), room, '  ')
        for i, line in enumerate(lines):
            mark = '' if i else name
            print(f'{mark}{" " * (left - text.columns_of(mark))}  {line}')
