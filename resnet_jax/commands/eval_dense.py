"""`resnet-jax eval` of networks for segmentation, detection and depth."""

import argparse
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.errors import InputError
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    from resnet_jax.commands.data_options import ChosenData
    from resnet_jax.inference.trained import TrainedModel

# Figure -> what it is called, and how it is shown.
_SHOWN = {
    'loss': ('loss', '{:.4f}'),
    'miou': ('mean IoU', '{:.2%}'),
    'pixel_accuracy': ('pixels', '{:.2%}'),
    'ap': ('AP', '{:.2%}'),
    'ap50': ('AP50', '{:.2%}'),
    'ap75': ('AP75', '{:.2%}'),
    'rmse': ('RMSE', '{:.3f} m'),
    'abs_rel': ('mean relative error', '{:.2%}'),
    'delta1': ('within a factor of 1.25', '{:.2%}'),
}


def run(options: argparse.Namespace, trained: 'TrainedModel', chosen: 'ChosenData') -> None:
    """Evaluates the model and prints the figures.

    Raises:
      InputError: for options that only classifiers take, and data of other targets or classes.
    """
    from resnet_jax.inference.trained import evaluate_trained
    from resnet_jax.records.writers import signs_of_life
    from resnet_jax.training import detection
    from resnet_jax.training.dense_metrics import class_ious

    task = trained.does
    _check(options, trained)
    if trained.task == 'detection':
        detection.check_evaluator()
    source = chosen.source.with_targets(task.takes)
    names = trained.preprocessing.class_names
    if source.class_names != names:
        raise InputError(
            f'{source.name} has the classes {text.shortened(", ".join(source.class_names), 60)}, '
            f'and the model {text.shortened(", ".join(names), 60)}; they must be the same'
        )
    for remark in source.notes:
        text.note(remark)
    with signs_of_life(f'evaluating {len(source):,} {source.noun}'):
        figures, sums = evaluate_trained(
            *(trained, source, chosen.batch_size, chosen.workers), tta=options.tta
        )
    about = {'data': source.name, 'split': source.split, 'tta': options.tta}
    result: dict[str, Any] = {**trained.origin, 'task': trained.task, **about, **figures}
    if options.per_class:
        result['per_class'] = dict(zip(names, class_ious(sums['confusion']), strict=True))
    if options.json:
        print(json_text(result))
        return
    width = text.terminal_width()
    title = f'{trained.title}, on {source.name} {source.split}: {figures["n"]} {source.noun}'
    print(text.paragraph(title, width, '  '))
    rows = [
        (label, form.format(figures[name]))
        for name, (label, form) in _SHOWN.items()
        if name in figures
    ]
    print(text.pairs(rows, width))
    if options.per_class:
        cells = [
            [name, text.number(None if iou is None else 100 * iou, '.2f')]
            for name, iou in result['per_class'].items()
        ]
        print(f'\n{text.aligned(["class", "IoU %"], cells, width)}')


def _check(options: argparse.Namespace, trained: 'TrainedModel') -> None:
    """Refuses options that only classifiers take."""
    given = {
        '--over subset': options.over == 'subset',
        '--confusion': options.confusion is not None,
        '--report': bool(options.report),
        '--per-class': options.per_class and trained.task != 'segmentation',
    }
    for option in (option for option, there in given.items() if there):
        raise InputError(f'{option} does not go with a network for {trained.does.noun}')
    if options.tta is not None and options.tta not in trained.does.views:
        known = ', '.join(trained.does.views)
        raise InputError(
            f'--tta {options.tta} does not go with a network for {trained.does.noun}'
            + (f'; it takes {known}' if known else '')
        )
