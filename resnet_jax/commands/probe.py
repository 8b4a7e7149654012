"""`resnet-jax probe`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.errors import InputError
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    from resnet_jax.experiments.probe import FewShot, Result
    from resnet_jax.inference.feature_files import Features
    from resnet_jax.statistics import Estimate

TEXT = 'Test what features are worth: a linear classifier and nearest neighbours.'
EPILOG = (
    'FILE is what `resnet-jax features` wrote. Logistic regression on standardised features, its '
    'penalty one of 1, 0.1, ... 1e-4; k-NN by the cosine, k one of 1, 3, 5, 10, 20; both chosen '
    'by a fifth of the training examples, then fitted to all of them. Without --test a fifth of '
    'the examples is the test part. Intervals have 95 % confidence.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments of the command."""
    parser.add_argument('file', type=Path, metavar='FILE', help='of features: the training set')
    parser.add_argument('--test', type=Path, metavar='FILE', help='of features: the test set')
    parser.add_argument(
        '--layer',
        action='append',
        metavar='NAME',
        help='of the file; repeat it for several; default: all',
    )
    parser.add_argument(
        '--few-shot',
        action='store_true',
        help='also with 1, 2, 5 and 10 examples per class, drawn at random --draws times',
    )
    parser.add_argument('--draws', type=int, metavar='N', help='default 5')
    parser.add_argument(
        '--out', type=Path, metavar='DIR', help='folder for probe.json, and few_shot.png'
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Probes every layer and prints the accuracies."""
    from resnet_jax.experiments import probe
    from resnet_jax.inference.feature_files import read_features
    from resnet_jax.records.writers import signs_of_life

    _check(options)
    features = read_features(options.file, options.layer)
    tests = features
    if options.test is not None:
        tests = read_features(options.test, list(features.layers))
        probe.check_together(features, tests)
    split = probe.split_examples(features.labels, tests.labels if options.test else None)
    results, few = [], []
    draws = options.draws or 5
    for layer in features.layers:
        parts = probe.examples_of(features, layer), probe.examples_of(tests, layer)
        for name in probe.CLASSIFIERS:
            with signs_of_life(f'{name} on {layer}'):
                results.append(probe.probe(layer, name, split, *parts))
                shots = probe.SHOTS if options.few_shot else ()
                few += [probe.few_shot(layer, name, split, *parts, k, draws) for k in shots]
    found = {
        'file': str(options.file),
        'test': None if options.test is None else str(options.test),
        'n_train': len(split.train),
        'n_validation': len(split.validation),
        'n_test': len(split.test),
        'classes': len(features.class_names),
        'settings': {name: list(row.settings) for name, row in probe.CLASSIFIERS.items()},
        'results': list(map(probe.as_json, results)),
        **({'draws': draws, 'few_shot': list(map(probe.as_json, few))} if few else {}),
        'features': features.description,
    }
    if options.out is not None:
        _write(options.out, found, results, few, features)
    if options.json:
        print(json_text(found))
        return
    _print(found, results, few, features)
    if options.out is not None:
        print(f'\nwritten to {options.out}: probe.json{", few_shot.png" if few else ""}')


def _check(options: argparse.Namespace) -> None:
    if options.draws is not None and not options.few_shot:
        raise InputError('--draws goes with --few-shot: give that too')
    if options.draws is not None and options.draws < 1:
        raise InputError(f'--draws must be at least 1, got {options.draws}')
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise InputError(f'--out {options.out} is a file; name a folder')


def _write(
    folder: Path,
    found: dict[str, Any],
    results: 'list[Result]',
    few: 'list[FewShot]',
    features: 'Features',
) -> None:
    """Writes probe.json, and the picture where there are few-shot tests."""
    from resnet_jax.experiments.reports.report_figures import draw_few_shot
    from resnet_jax.figures import write_figures
    from resnet_jax.records.writers import write_atomically

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / 'probe.json', json_text(found, indent=1) + '\n')
        if few:
            per_class = found['n_train'] / found['classes']
            figure = draw_few_shot(few, results, per_class, _title(features))
            write_figures({'few_shot': figure}, folder)
    except OSError as error:
        raise InputError(f'cannot write to --out {folder}: {error.strerror}') from error


def _title(features: 'Features') -> str:
    about = features.description
    return f'{about["model"]}, on {about["data"]["name"]} {about["data"]["split"]}'


def _print(
    found: dict[str, Any], results: 'list[Result]', few: 'list[FewShot]', features: 'Features'
) -> None:
    width = text.terminal_width()
    counts = f'{found["n_train"]:,} training and {found["n_test"]:,} test examples'
    print(text.paragraph(f'{_title(features)}: {counts}', width, '  '))
    rows = [
        [
            r.layer,
            r.classifier,
            f'{r.setting:g}',
            f'{100 * r.accuracy:.2f}',
            f'{100 * r.low:.2f} to {100 * r.high:.2f}',
        ]
        for r in results
    ]
    header = ['layer', 'classifier', 'penalty or k', 'accuracy %', '95 % interval']
    print(text.aligned(header, rows, width))
    if not few:
        return
    print('\n' + text.paragraph(f'accuracy %, mean of {found["draws"]} draws', width))
    shots = sorted({f.shots for f in few})
    rows = []
    for r in results:
        mine = [f.estimate for f in few if (f.layer, f.classifier) == (r.layer, r.classifier)]
        cells = [_with_half(e) for e in mine]
        rows.append([r.layer, r.classifier, *cells, f'{100 * r.accuracy:.2f}'])
    print(text.aligned(['layer', 'classifier', *map(str, shots), 'all'], rows, width))


def _with_half(found: 'Estimate') -> str:
    """A mean in %, with half of its interval where there is one."""
    if found.low is None or found.high is None:
        return f'{100 * found.mean:.1f}'
    half = max(found.mean - found.low, found.high - found.mean)  # one end may be clipped
    return f'{100 * found.mean:.1f} ± {100 * half:.1f}'
