"""`resnet-jax compress`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import data_options, model_options
from resnet_jax.commands.kinds import add_kinds
from resnet_jax.errors import Range, check_number
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    from resnet_jax.commands.compressions.subject import Compressed, Subject

TEXT = 'Make a model smaller, and measure what that costs and saves.'
EPILOG = (
    'The result is a folder that eval, predict, analyze and export take as --workdir; train it '
    'further with `resnet-jax train --config.init.weights=DIR`. Each method has its own --help '
    'and a section in docs/compress.md.'
)
# Each is a file of resnet_jax/commands/compressions; the last takes what the others wrote.
METHODS = ('fold', 'prune', 'factorize', 'quantize')
KINDS = (*METHODS, 'compare')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the methods and their arguments."""
    for kind, sub in add_kinds(parser, 'resnet_jax.commands.compressions', KINDS):
        if sub.get_default('kind') not in METHODS:
            kind.add_arguments(sub)
            sub.set_defaults(run_kind=kind.run)
            continue
        model_options.add_model_options(sub)
        data_options.add_data_options(sub)
        kind.add_arguments(sub)
        sub.add_argument(
            '--out', type=Path, required=True, metavar='DIR', help='folder of the result'
        )
        sub.add_argument(
            '--overwrite', action='store_true', help='replace a compressed model in DIR'
        )
        sub.add_argument(
            '--latency-batch',
            type=int,
            default=1,
            metavar='N',
            help='images at a time when speed is measured (default: 1)',
        )
        sub.add_argument('--json', action='store_true', help='print one JSON object')
        sub.set_defaults(run_kind=_compress, compress=kind.compress)


def run(options: argparse.Namespace) -> None:
    """Compresses a model, or compares compressed ones."""
    from resnet_jax.training import compilation

    compilation.keep_compiled()
    options.run_kind(options)


def _compress(options: argparse.Namespace) -> None:
    """Writes the compressed model, reads it back, and compares it with the original."""
    from resnet_jax.commands.compressions.subject import open_subject
    from resnet_jax.compress import folder, measure
    from resnet_jax.inference.trained import load_trained
    from resnet_jax.records.writers import signs_of_life
    from resnet_jax.training.compilation import matmul_precision

    check_number('--latency-batch', options.latency_batch, Range(1, 2**16, whole=True))
    with folder.new_folder(options.out, options.overwrite) as draft:
        subject = open_subject(options)
        trained = subject.trained
        with (
            signs_of_life(f'compress {options.kind}'),
            matmul_precision(trained.matmul_precision),
        ):
            result: Compressed = options.compress(options, subject)
            about = folder.Description(
                subject.name, subject.config, trained.preprocessing, options.kind
            )
            folder.write_model(draft, about, result.model, result.variables)
            again = load_trained(draft)
            before, after = measure.compare(
                [
                    measure.Net(trained.model, trained.variables),
                    measure.Net(again.model, again.variables),
                ],
                trained.preprocessing,
                subject.examples,
                options.latency_batch,
            )
        report = _report(options, subject, result, before, after)
        folder.write_report(draft, report)
    if options.json:
        print(json_text(report))
        return
    width = text.terminal_width()
    print(text.paragraph(subject.title, width, '  '))
    print(_table(before, after, options.latency_batch, width))
    print(f'\n{text.paragraph(_difference(report["difference"]), width, "  ")}')
    for part in (result.printed, f'\nwritten: {options.out}'):
        if part:
            print(part)


def _report(
    options: argparse.Namespace,
    subject: 'Subject',
    result: 'Compressed',
    before: dict[str, Any],
    after: dict[str, Any],
) -> dict[str, Any]:
    """What compress.json holds."""
    import jax

    source = subject.examples.source if subject.examples is not None else None
    apart = after.pop('difference')
    return {
        'method': options.kind,
        **subject.trained.origin,
        'model': subject.name,
        'settings': dict(result.settings),
        'data': source and source.name,
        'split': source and source.split,
        'n': len(source) if source is not None else 0,
        'before': before,
        'after': after,
        'difference': apart,
        'latency_batch': options.latency_batch,
        'device': jax.devices()[0].device_kind,
        **result.notes,
    }


def _table(before: dict[str, Any], after: dict[str, Any], batch: int, width: int | None) -> str:
    """The original and the result side by side."""
    shown = (
        ('error', 'error %', lambda x: f'{100 * x:.2f}'),
        ('loss', 'loss, nats', lambda x: f'{x:.4f}'),
        ('parameters', 'parameters', '{:,}'.format),
        ('nonzero', 'not zero', '{:,}'.format),
        ('multiply_adds', 'multiply-adds', '{:,}'.format),
        ('bytes', 'weights, KiB', lambda x: f'{x / 1024:,.1f}'),
        ('latency_ms', f'ms for a batch of {batch}', lambda x: f'{x:.3f}'),
    )
    rows = [
        [title, form(before[key]), form(after[key]), _ratio(before[key], after[key])]
        for key, title, form in shown
        if before[key] is not None
    ]
    return text.aligned(['', 'original', 'compressed', 'ratio'], rows, width)


def _difference(apart: dict[str, float]) -> str:
    return (
        f'the logits differ by {apart["largest"]:.3g} at most, {apart["rms"]:.3g} of their '
        f'deviation; the same class for {100 * apart["agreement"]:.2f} %'
    )


def _ratio(before: float, after: float) -> str:
    return f'{after / before:.3f}' if before else ''
