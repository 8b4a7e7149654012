"""`resnet-jax predict` of networks for segmentation, detection and depth."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.errors import InputError, RunError
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    from resnet_jax.inference.trained import TrainedModel


_SCORE = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares what these networks take."""
    from pathlib import Path

    group = parser.add_argument_group('networks for segmentation, detection and depth')
    group.add_argument(
        '--overlays',
        type=Path,
        metavar='DIR',
        help='draw each image with what was found: segments, boxes or depth, as DIR/0001_NAME.png',
    )
    group.add_argument(
        '--score',
        type=float,
        metavar='P',
        help=f'the least probability of an object (default {_SCORE})',
    )


def run(options: argparse.Namespace, trained: 'TrainedModel') -> None:
    """Predicts and prints what is found in the images.

    Raises:
      InputError: for options that only classifiers take, and a named file that cannot be read.
      RunError: if another file cannot be read; the rest is predicted.
    """
    from tqdm import tqdm

    from resnet_jax import data
    from resnet_jax.inference.dense import as_json, in_words, predict_dense
    from resnet_jax.inference.overlays import write_overlay

    for option in ('sheet', 'labels', 'calibrated', 'calibration', 'csv', 'exported'):
        if getattr(options, option):
            raise InputError(f'--{option} does not go with a network for {trained.does.noun}')
    files = data.find_examples(options.images, trained.preprocessing)
    names = trained.preprocessing.class_names
    skipped: list[InputError] = []

    def skip(error: InputError) -> None:
        skipped.append(error)
        tqdm.write(f'skipped {data.printable(str(error))}', file=sys.stderr)

    def results() -> Iterator[tuple[dict[str, Any], list[str]]]:
        score = _SCORE if options.score is None else options.score
        found = predict_dense(trained, files, score, skip, not options.jsonl)
        for number, prediction in enumerate(found, 1):
            about = as_json(prediction, names)
            if options.overlays is not None:
                about['overlay'] = str(write_overlay(prediction, names, options.overlays, number))
            yield about, in_words(prediction, names)

    rows: Any = results()
    if not options.jsonl or any(file.named for file in files):
        rows = list(rows)  # to fail on a named file before printing anything
    if options.json:
        print(json_text({**trained.origin, 'predictions': [about for about, _ in rows]}))
    for about, words in () if options.json else rows:
        if options.jsonl:
            print(json_text(about))
        else:
            print(text.printable(about['image']))
            for line in words:
                print(f'  {line}')
    if options.overlays is not None:
        drawn = len(files) - len(skipped)
        print(f'{drawn} pictures in {options.overlays}', file=sys.stderr)
    if skipped:
        raise RunError(f'{len(skipped)} of {len(files)} images could not be read')
