"""The option to analyse a fresh network of the same design beside the trained one."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_jax.analysis.networks import Network
    from resnet_jax.commands.analyses.subject import Subject


def add_fresh_options(parser: argparse.ArgumentParser, seed_of: str) -> None:
    """Declares --init and --seed.

    Args:
      parser: of a kind of analysis.
      seed_of: what the seed is of, for the help.
    """
    group = parser.add_argument_group('a fresh network beside')
    group.add_argument(
        '--init',
        action='store_true',
        help='also measure a network of the same design as training with --seed starts from; its '
        "batch norm takes each batch's own statistics",
    )
    group.add_argument('--seed', type=int, default=0, metavar='N', help=f'{seed_of} (default: 0)')


def open_networks(options: argparse.Namespace, subject: 'Subject') -> 'dict[str, Network]':
    """The networks to measure: 'trained', and 'fresh' with --init."""
    from resnet_jax.analysis.networks import Network, fresh_network

    trained = subject.trained
    found = {'trained': Network(subject.chain, trained.variables)}
    if options.init:
        p = trained.preprocessing
        found['fresh'] = fresh_network(trained.model, p.image_size, p.channels, options.seed)
    return found
