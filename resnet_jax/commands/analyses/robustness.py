"""`resnet-jax analyze robustness`."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands.analyses.numbers import whole_numbers
from resnet_jax.commands.analyses.subject import Report
from resnet_jax.errors import Range, check_choice, check_number

if TYPE_CHECKING:
    from resnet_jax.commands.analyses.subject import Subject

TEXT = 'The error under fifteen corruptions, such as noise, blur and fog, at five severities.'
EPILOG = (
    'Images are corrupted after resize and crop; up to 64 pixels with the parameters of '
    'CIFAR-10-C, above with those of ImageNet-C. Source: arXiv 1903.12261.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    group = parser.add_argument_group('the corruptions')
    group.add_argument(
        '--corruptions', metavar='NAME,NAME,...', help='such as fog,snow (default: all fifteen)'
    )
    group.add_argument('--severities', metavar='N,N,...', help='from 1 to 5 (default: all five)')
    group.add_argument(
        '--frost',
        default='procedural',
        metavar='KIND',
        help='what frost adds: procedural, a computed texture (default), or photographs, those of '
        'the published sets (the extra robustness)',
    )
    group.add_argument('--seed', type=int, default=0, metavar='N', help='of the corruptions')
    parser.add_argument(
        '--baseline',
        type=Path,
        metavar='FILE',
        help='robustness.json of another model on the same examples: gives mCE and relative mCE, '
        "the errors as shares of that model's",
    )
    parser.add_argument(
        '--examples',
        type=int,
        default=1,
        metavar='N',
        help='of the first N images, a picture of each under all corruptions (default: 1)',
    )


def analyse(options: argparse.Namespace, subject: 'Subject') -> Report:
    """Runs the study of robustness."""
    from resnet_jax.analysis import corruptions, robustness
    from resnet_jax.analysis.figures.robustness import draw

    names = _names(options.corruptions)
    severities: tuple[int, ...] = corruptions.SEVERITIES
    if options.severities is not None:
        ends = severities[0], severities[-1]
        severities = tuple(whole_numbers('--severities', options.severities, *ends, 'the severest'))
    check_choice('--frost', options.frost, corruptions.FROSTS)
    if options.frost == 'photographs' and 'frost' in names:
        corruptions.weather.photographs_folder()
    preprocessing = subject.trained.preprocessing
    corruptions.check_channels(preprocessing.channels)
    check_number('--examples', options.examples, Range(0, whole=True))
    shared = {
        'data': subject.examples.source.name,
        'split': subject.examples.source.split,
        'n': subject.examples.count,
        'seed': options.seed,
        'parameters': corruptions.table_of(preprocessing.image_size),
        'frost': options.frost,
    }
    baseline = _baseline(options.baseline, names, severities, shared)
    found = robustness.study(
        subject.trained.model,
        subject.trained.variables,
        subject.examples,
        names,
        severities,
        seed=options.seed,
        frost=options.frost,
        progress=True,
    )
    compared = robustness.compare(found, baseline)
    where = None if options.baseline is None else str(options.baseline)
    figures = {**found, **compared, 'baseline': where}
    files = {
        f'example_{i}.png': _sheet_writer(subject, i, names, severities, options)
        for i in range(min(options.examples, subject.examples.count))
    }
    return Report(figures, _printed(figures), draw(found, subject.title), files)


def _names(given: str | None) -> tuple[str, ...]:
    from resnet_jax.analysis.corruptions import CORRUPTIONS

    chosen = tuple(CORRUPTIONS) if given is None else tuple(dict.fromkeys(given.split(',')))
    for name in chosen:
        check_choice('corruption', name, CORRUPTIONS)
    return chosen


def _baseline(
    path: Path | None,
    names: Sequence[str],
    severities: Sequence[int],
    shared: Mapping[str, Any],
) -> dict[str, Any] | None:
    from resnet_jax.analysis.robustness import check_baseline
    from resnet_jax.json_files import read_json

    if path is None:
        return None
    found = read_json(path, 'give the robustness.json of another model as --baseline')
    check_baseline(found, names, severities, shared, str(path))
    return found


def _sheet_writer(
    subject: 'Subject',
    index: int,
    names: Sequence[str],
    severities: Sequence[int],
    options: argparse.Namespace,
) -> Callable[[Path], None]:
    """Writes the picture of an example under all corruptions."""
    from resnet_jax.analysis.figures.robustness import sheet

    source, preprocessing = subject.examples.source, subject.trained.preprocessing

    def write(path: Path) -> None:
        example = source.with_bands(preprocessing.channels)[index]
        image = preprocessing.prepare(example['image'])
        title = f'{source.name} {source.split}, image {index}'
        sheet(image, index, names, severities, options.seed, options.frost, title).savefig(
            path, dpi=150
        )

    return write


def _printed(figures: Mapping[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return text.number(None if value is None else 100 * value, '.2f')

    width = text.terminal_width()
    compared = figures['ce'] is not None
    severities = list(next(iter(figures['error'].values())))
    header = ['corruption', *(f'{s} %' for s in severities), 'mean %']
    header += ['CE %', 'relative CE %'] if compared else []
    rows = []
    for name, errors in figures['error'].items():
        row = [name, *map(percent, errors.values()), percent(figures['mean'][name])]
        row += [percent(figures[key][name]) for key in ('ce', 'relative_ce')] if compared else []
        rows.append(row)
    lines = [
        ('undamaged', f'{percent(figures["clean"])} % error'),
        ('mean over corruptions', f'{percent(figures["mean_error"])} % error'),
    ]
    if compared:
        lines += [
            ('mCE', f'{percent(figures["mce"])} % of {figures["baseline"]}'),
            ('relative mCE', f'{percent(figures["relative_mce"])} %'),
        ]
    parts = [text.aligned(header, rows, width), text.pairs(lines, width)]
    parts += [text.paragraph(f'note: {note}', width, '  ') for note in figures['notes']]
    return '\n\n'.join(parts)
