"""`resnet-jax analyze signal`."""

import argparse
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands.analyses import networks
from resnet_jax.commands.analyses.subject import Report

if TYPE_CHECKING:
    from resnet_jax.commands.analyses.subject import Subject

TEXT = 'How large responses, branches and gradients are, layer by layer: trained, fresh, over time.'
EPILOG = (
    'A response is the output of a convolution after its norm, before activation and addition; in '
    "pre-activation nets, the convolution's own. A run with --config.log.signal_every=N also gets "
    'a picture over its training. Sources: arXiv 1512.03385, figure 7; arXiv 2101.08692, section '
    '3.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    networks.add_fresh_options(parser, 'of the fresh network')


def analyse(options: argparse.Namespace, subject: 'Subject') -> Report:
    """Measures the signal of the model, and of a fresh one beside it."""
    from resnet_jax.analysis import signal
    from resnet_jax.analysis.figures.signal import draw
    from resnet_jax.records.writers import read_metrics

    found = {
        name: signal.study(network, subject.examples)
        for name, network in networks.open_networks(options, subject).items()
    }
    figures: dict[str, Any] = {**found.pop('trained'), **found}
    lines = signal.over_training(read_metrics(options.workdir)) if options.workdir else []
    if lines:
        figures['training'] = [{'step': step, **each} for step, each in lines]
    return Report(figures, _printed(figures), draw(figures, lines, subject.title))


def _printed(found: dict[str, Any]) -> str:
    nets = [found, *([found['fresh']] if 'fresh' in found else [])]
    kinds = ['ratio', 'gradient', 'parameter_gradient']
    header = ['block', 'output std', 'branch/shortcut', 'gradient', 'of parameters']
    if len(nets) > 1:
        header += [f'{title} (fresh)' for title in header[1:]]
    rows = []
    for block in found['gradient']:
        row = [block]
        for net in nets:
            values = [net['output'][block]['std'], *(net[kind].get(block) for kind in kinds)]
            row += ['-' if value is None else f'{value:.3g}' for value in values]
        rows.append(row)
    return text.aligned(header, rows, text.terminal_width())
