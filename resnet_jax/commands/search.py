"""`resnet-jax search`."""

import argparse
from pathlib import Path

from resnet_jax.errors import InputError

TEXT = 'Search for the best values of some fields, or resume an interrupted search.'
EPILOG = (
    'Example: resnet-jax search --config searches/learning_rate_weight_decay --workdir DIR. '
    'Needs Optuna: pip install "resnet-jax[search]". Any field that is not searched can be set for '
    'all trials: --config.train.epochs=5. A trial that diverges does not stop the others.'
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
