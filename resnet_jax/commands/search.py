"""`resnet-jax search`."""

import argparse
from pathlib import Path

from resnet_jax.errors import InputError

TEXT = 'Search for the best values of some fields, or resume an interrupted search.'
EPILOG = (
    'Needs Optuna: pip install "resnet-jax[search]". Any field that is not searched can be set '
    'for all trials: --config.FIELD=VALUE. A trial that diverges does not stop the others.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options, except `--config.FIELD=VALUE`."""
    parser.add_argument(
        '--config',
        required=True,
        metavar='FILE|NAME[:VARIANT]',
        help="a search file, or the name of one of the package's, such as "
        'searches/learning_rate_weight_decay',
    )
    parser.add_argument(
        '--workdir', required=True, type=Path, metavar='DIR', help="the search's folder"
    )
    parser.add_argument(
        '--lr-range',
        action='store_true',
        help='instead of a search, a learning-rate range test of the training config given: one '
        'short run whose rate rises until the loss does; writes the curve and suggests a rate',
    )
    defaults = '(default: as in the file)'
    parser.add_argument('--trials', metavar='N', help=f'total number of trials {defaults}')
    parser.add_argument('--sampler', metavar='NAME', help=f'tpe, random or qmc {defaults}')
    parser.add_argument(
        '--pruner', metavar='NAME', help=f'none, median, halving or hyperband {defaults}'
    )


def run(options: argparse.Namespace) -> None:
    """Trains the remaining trials and prints the best, also when interrupted."""
    from resnet_jax import text
    from resnet_jax.errors import Interrupted
    from resnet_jax.experiments.search import search_report
    from resnet_jax.experiments.search.runs import run_search, trials_so_far
    from resnet_jax.experiments.search.search import load_search
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    if options.lr_range:
        _range_test(options)
        return
    trials = _trials(options.trials)
    search = load_search(options.config, options.overrides, trials, options.sampler, options.pruner)
    workdir, width = options.workdir, text.terminal_width()
    try:
        found = run_search(search, workdir)
    except (Interrupted, KeyboardInterrupt):
        print(search_report.summary(search, workdir, trials_so_far(search, workdir), width))
        raise
    print(search_report.summary(search, workdir, found, width))


def _trials(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f'--trials is a number from 1, got {text!r}')
    return int(text)


def _range_test(options: argparse.Namespace) -> None:
    from resnet_jax import text
    from resnet_jax.experiments.search import rate_range
    from resnet_jax.training.config import load_config

    for name in ('trials', 'sampler', 'pruner'):
        if getattr(options, name) is not None:
            raise InputError(f'--{name} is of a search; leave it out with --lr-range')
    config = load_config(options.config, options.overrides)
    found = rate_range.run_range_test(config, options.workdir)
    if found.steepest is None:
        said = 'the loss did not fall at any rate; look at the curve'
    else:
        said = f'the loss falls fastest at the rate {found.steepest:.2g}'
    picture = options.workdir / f'{rate_range.NAME}.png'
    said = f'{said}; it is lowest at {found.lowest:.2g}. Curve: {picture}'
    print(text.paragraph(said, text.terminal_width(), '  '))
    if found.steepest is not None:
        print(f'--config.optim.learning_rate={found.steepest:.2g}')
