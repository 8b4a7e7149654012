"""`resnet-jax analyze calibration`."""

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands.analyses.subject import Report
from resnet_jax.errors import InputError, Range, check_number

if TYPE_CHECKING:
    from resnet_jax.analysis.examples import Examples
    from resnet_jax.commands.analyses.subject import Subject
    from resnet_jax.inference.calibration import Calibration

TEXT = 'How far confidences can be believed, and the temperature that corrects them.'
EPILOG = (
    'A temperature should be fitted on examples that the network was not trained on, and judged '
    'on others. Sources: arXiv 1706.04599, 1904.01685.'
)
_MOST_BINS = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    group = parser.add_argument_group('the figures')
    group.add_argument(
        '--bins', type=int, default=15, metavar='N', help='bins of confidence (default: 15)'
    )
    group.add_argument(
        '--bootstrap',
        type=int,
        default=1000,
        metavar='N',
        help='resamples for the 95 %% intervals of the calibration errors (default: 1000); 0: none',
    )
    group.add_argument('--seed', type=int, default=0, metavar='N', help='of the bootstrap')
    fit = parser.add_argument_group('the temperature')
    fit.add_argument(
        '--fit-split',
        metavar='NAME',
        help="of the same data, such as 'train[45000:]': what the temperature is fitted on "
        '(default: the examples that are analysed)',
    )
    fit.add_argument(
        '--store',
        action='store_true',
        help='keep the temperature for `resnet-jax predict --calibrated`',
    )
    fit.add_argument(
        '--calibration',
        type=Path,
        metavar='FILE',
        help='for --store: where to (default: calibration.json in the workdir)',
    )


def analyse(options: argparse.Namespace, subject: 'Subject') -> Report:
    """Measures the calibration before and after temperature scaling."""
    from resnet_jax.analysis import calibration
    from resnet_jax.analysis.figures.calibration import draw
    from resnet_jax.inference.calibration import write_calibration

    path = _check(options, subject)
    fitted_on = _fit_examples(options, subject)
    logits, labels = _logits(subject, subject.examples)
    pair = (logits, labels) if fitted_on is None else _logits(subject, fitted_on)
    temperature = calibration.fit_temperature(*pair)
    measure = functools.partial(
        calibration.figures,
        logits,
        labels,
        bins=options.bins,
        draws=options.bootstrap,
        seed=options.seed,
    )
    before = measure()
    after = None if temperature is None else measure(temperature)
    source = (fitted_on or subject.examples).source
    fit = {'data': source.name, 'split': source.split, 'n': len(source), 'same': fitted_on is None}
    found = {
        **before,
        'temperature': temperature,
        'fit': fit,
        'before': before,
        'after': after,
    }
    _remark(fit, temperature, pair[1])
    if path is not None:
        if temperature is None:
            raise InputError(f'no temperature is best on {source.split}, so none is stored')
        write_calibration(_stored(temperature, fit, subject), path)
        found['stored'] = str(path)
        text.note(f'the temperature is kept in {path}')
    return Report(found, _printed(found), draw(before, after, temperature, subject.title))


def _check(options: argparse.Namespace, subject: 'Subject') -> Path | None:
    """Refuses numbers out of range; gives the file for the temperature, if it is to be stored."""
    from resnet_jax.inference.calibration import calibration_file
    from resnet_jax.records.writers import check_file

    check_number('--bins', options.bins, Range(1, _MOST_BINS, whole=True))
    check_number('--bootstrap', options.bootstrap, Range(0, whole=True))
    if options.store:
        path = calibration_file(subject.trained, options.calibration)
        if options.out is not None and path.resolve() == (options.out / path.name).resolve():
            raise InputError(
                f'--out would write its files over {path}, the stored temperature; '
                'give another folder'
            )
        check_file(path, str(path), 'give --calibration FILE.json elsewhere')
        return path
    if options.calibration is not None:
        raise InputError('--calibration goes with --store: give that too')
    return None


def _fit_examples(options: argparse.Namespace, subject: 'Subject') -> 'Examples | None':
    """What --fit-split chooses; None without it."""
    import dataclasses

    from resnet_jax.commands import data_options

    if options.fit_split is None:
        return None
    changed = {'split': options.fit_split, 'limit': None}
    chosen = data_options.choose_data(argparse.Namespace(**{**vars(options), **changed}))
    return dataclasses.replace(subject.examples, source=chosen.source)


def _logits(subject: 'Subject', examples: 'Examples') -> Any:
    from resnet_jax.analysis.examples import predictions

    trained = subject.trained
    return predictions(trained.model, trained.variables, examples)


def _remark(fit: dict[str, Any], temperature: float | None, labels: Any) -> None:
    """Says what a reader of the figures should know about the fit."""
    if temperature is None:
        text.note(
            f'no temperature is best on the {len(labels):,} examples of {fit["split"]}: the '
            'network gets all of them right, or does no better than chance; fit on others with '
            '--fit-split'
        )
    elif fit['same']:
        text.note(
            'the temperature was fitted on the examples that are analysed, so the figures after '
            'it are a little too good; fit it on others with --fit-split'
        )


def _stored(temperature: float, fit: dict[str, Any], subject: 'Subject') -> 'Calibration':
    from resnet_jax.inference.calibration import Calibration

    trained = subject.trained
    return Calibration(
        temperature,
        fit['data'],
        fit['split'],
        fit['n'],
        trained.origin,
        trained.weights_digest(),
    )


def _printed(found: dict[str, Any]) -> str:
    def percent(figures: dict[str, Any], key: str) -> str:
        interval = figures.get(f'{key}_interval')
        ends = f' ({100 * interval[0]:.2f} to {100 * interval[1]:.2f})' if interval else ''
        return f'{100 * figures[key]:.2f}{ends}'

    columns = [found['before'], *([found['after']] if found['after'] else [])]
    bins = len(found['bins'])
    rows = [
        ['accuracy %', *(percent(c, 'accuracy') for c in columns)],
        ['mean confidence %', *(percent(c, 'confidence') for c in columns)],
        [f'calibration error %, {bins} bins of equal width', *(percent(c, 'ece') for c in columns)],
        ['of equal counts', *(percent(c, 'ece_adaptive') for c in columns)],
        ['negative log likelihood, nats', *(f'{c["nll"]:.4f}' for c in columns)],
        ['Brier score', *(f'{c["brier"]:.4f}' for c in columns)],
    ]
    header = ['', 'as trained', *['calibrated'] * (len(columns) - 1)]
    table = text.aligned(header, rows, text.terminal_width())
    if found['temperature'] is None:
        return table
    fit = found['fit']
    line = (
        f'temperature {found["temperature"]:.4f}, fitted on {fit["n"]:,} images of {fit["split"]}'
    )
    return f'{table}\n\n{text.paragraph(line, text.terminal_width(), "  ")}'
