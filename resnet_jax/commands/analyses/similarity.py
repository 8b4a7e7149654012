"""`resnet-jax analyze similarity`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import model_options
from resnet_jax.commands.analyses.subject import Report
from resnet_jax.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from resnet_jax.analysis.similarity import View
    from resnet_jax.commands.analyses.subject import Subject
    from resnet_jax.inference.trained import TrainedModel

TEXT = 'How alike the layers of a network, or of two, are: linear CKA; and how much a block adds.'
EPILOG = (
    'Without another network the layers of one are compared with each other. It takes the first '
    '1,000 examples; --limit takes more or fewer. Sources: arXiv 1905.00414, 2010.15327.'
)
_EXAMPLES = 1000  # by default
_MOST_BYTES = 4 * 2**30  # of Gram matrices


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    parser.set_defaults(limit=_EXAMPLES)
    other = parser.add_argument_group('the network to compare with')
    other.add_argument('--other-workdir', type=Path, metavar='DIR', help='folder of another run')
    other.add_argument(
        '--other-checkpoint',
        metavar='WHICH',
        help='latest, best or a step; of --other-workdir, else of --workdir',
    )
    other.add_argument('--other-model', metavar='NAME', help=model_options.MODEL_HELP.split(';')[0])
    other.add_argument(
        '--other-weights',
        metavar='FILE',
        help=f'{model_options.WEIGHTS_HELP}; the options for preprocessing apply to it as well',
    )
    group = parser.add_argument_group('what is compared')
    group.add_argument(
        '--layers',
        metavar='NAME,NAME,...',
        help="names, or patterns such as 'stage3/block*', see `resnet-jax features --list` "
        '(default: the stem, all blocks, pooled and logits)',
    )
    group.add_argument(
        '--other-layers', metavar='NAME,NAME,...', help='of the other network (default: --layers)'
    )
    group.add_argument(
        '--estimator',
        choices=('full', 'minibatch'),
        default='full',
        help='full: over all examples at once, biased, as usually published (default); minibatch: '
        'the mean of the unbiased HSIC over batches of --batch-size, for many examples',
    )
    group.add_argument(
        '--pool',
        action='store_true',
        help='average feature maps over space (default: flatten them)',
    )


def analyse(options: argparse.Namespace, subject: 'Subject') -> Report:
    """Compares the layers, and measures the branches."""
    from resnet_jax.analysis import similarity
    from resnet_jax.analysis.figures.similarity import draw

    other = _load_other(options, subject)
    first = _view(options, subject, options.layers, 'layer')
    second = other and _view(options, other, options.other_layers or options.layers, 'other layer')
    _check_sizes(options, subject, first, second)
    values = similarity.similarity(first, second, options.estimator)
    ours, theirs = first.layers, (second or first).layers
    found: dict[str, Any] = {
        'estimator': options.estimator,
        'features': 'mean over space' if options.pool else 'flattened',
        'layers': list(ours),
        'cka': similarity.by_pair(ours, theirs, values),
    }
    ratios = [_branches(each) for each in (subject, other) if each]
    if ratios[0]:
        found['branch'] = ratios[0]
    if other:
        found['other'] = {**other.trained.origin, 'layers': list(theirs)}
        found['other'] |= {'branch': ratios[1]} if ratios[1] else {}
    names = _names(subject.trained, other and other.trained)
    branches = dict(zip(names, ratios, strict=True))
    titles = (subject.title, names[1] if other else None)
    pictures = draw(values, ours, theirs, titles, branches)
    return Report(found, _printed(values, ours, theirs, branches), pictures)


def _branches(subject: 'Subject') -> dict[str, float]:
    """The size of the branches of a network, with a note where it has none."""
    from resnet_jax.analysis import reuse
    from resnet_jax.training.compilation import matmul_precision

    trained = subject.trained
    with matmul_precision(trained.matmul_precision):
        found = reuse.branch_ratios(subject.chain, trained.variables, subject.examples)
    if not found:
        text.note(f'{trained.title} has no shortcuts, so no branches to measure')
    return found


def _names(first: 'TrainedModel', other: 'TrainedModel | None') -> list[str]:
    """Different names of the networks: two runs may have equal titles."""
    if other is None:
        return [first.title]
    if first.title != other.title:
        return [first.title, other.title]
    folders = [f'{each.title} of {each.origin.get("workdir", "")}' for each in (first, other)]
    return folders if folders[0] != folders[1] else [first.title, f'{first.title} again']


def _load_other(options: argparse.Namespace, subject: 'Subject') -> 'Subject | None':
    """The other network, on the same examples; None without one."""
    import dataclasses

    trained = _load_other_model(options)
    if trained is None:
        if options.other_layers:
            raise InputError('--other-layers goes with another network; give --other-workdir DIR')
        return None
    # Its classes do not matter here: nothing is scored.
    examples = dataclasses.replace(subject.examples, preprocessing=trained.preprocessing)
    return subject._replace(trained=trained, examples=examples)


def _load_other_model(options: argparse.Namespace) -> 'TrainedModel | None':
    run, checkpoint = options.other_workdir, options.other_checkpoint
    published = options.other_model is not None or options.other_weights is not None
    if published:
        if run is not None or checkpoint is not None:
            raise InputError(
                '--other-model and --other-weights do not go with --other-workdir and '
                '--other-checkpoint; give one of the two'
            )
        if options.other_model is None or options.other_weights is None:
            raise InputError('give both --other-model NAME and --other-weights FILE')
    elif run is None and checkpoint is None:
        return None
    elif run is None and options.workdir is None:
        raise InputError('--other-checkpoint needs --other-workdir DIR, or --workdir DIR')
    changed = {
        'workdir': None if published else run or options.workdir,
        'checkpoint': checkpoint or 'latest',
        'model': options.other_model,
        'weights': options.other_weights,
        **dict.fromkeys(('weights_key', 'class_names')),
        'overrides': [],
    }
    if not published:  # it has its own preprocessing
        own = ('preprocessing', 'image_size', 'resize', 'mean', 'std', 'interpolation')
        changed |= dict.fromkeys(own)
    return model_options.load_model(argparse.Namespace(**{**vars(options), **changed}))


def _view(options: argparse.Namespace, subject: 'Subject', layers: str | None, kind: str) -> 'View':
    from resnet_jax.analysis import similarity
    from resnet_jax.inference import features

    known = features.layers(subject.trained.model)
    patterns = layers.split(',') if layers else similarity.DEFAULT_LAYERS
    return similarity.View(
        subject.trained.model,
        subject.trained.variables,
        similarity.choose_layers(patterns, known, kind),
        subject.examples,
        subject.examples.count,
        options.pool,
        subject.trained.matmul_precision,
    )


def _check_sizes(
    options: argparse.Namespace, subject: 'Subject', first: 'View', second: 'View | None'
) -> None:
    """Refuses more Gram matrices than fit, and too few examples, before anything is computed."""
    from resnet_jax.analysis import similarity

    if options.estimator == 'minibatch':
        if min(first.count, subject.examples.batch_size) < similarity.FEWEST:
            raise InputError(
                f'--estimator minibatch needs batches of at least {similarity.FEWEST} examples; '
                'raise --batch-size and --limit'
            )
        return
    if first.count < 2:
        raise InputError('one example cannot be compared; raise --limit')
    layers = len(first.layers) + (len(second.layers) if second else 0)
    needed = similarity.gram_bytes(first.count, layers)
    if needed > _MOST_BYTES:
        most = int((_MOST_BYTES / similarity.gram_bytes(1, layers)) ** 0.5)
        raise InputError(
            f'--estimator full would keep {needed / 2**30:.1f} GiB: {layers} matrices of '
            f'{first.count:,} x {first.count:,}; give --limit {most} or less, fewer --layers, or '
            '--estimator minibatch'
        )


def _printed(
    values: "Float[np.ndarray, 'a b']",
    first: tuple[str, ...],
    second: tuple[str, ...],
    branches: dict[str, dict[str, float]],
) -> str:
    """Each layer with the one before it, or with the most similar one of the other network."""
    import numpy as np

    def number(value: Any) -> str:
        return text.number(float(value) if np.isfinite(value) else None, '.3f')

    width = text.terminal_width()
    names = list(branches)
    parts = []
    if len(names) == 1:
        before = [text.NOTHING, *(number(values[i, i - 1]) for i in range(1, len(first)))]
        header = ['layer', 'CKA with the one before', 'with the last']
        last = [number(row[-1]) for row in values]
        rows = [list(row) for row in zip(first, before, last, strict=True)]
    else:
        parts.append(text.paragraph(f'the other network: {names[1]}', width, '  '))
        header = ['layer', 'most similar of the other', 'CKA', 'CKA of the same name']
        rows = []
        for name, row in zip(first, values, strict=True):
            best = int(np.argmax(np.nan_to_num(row, nan=-np.inf)))
            same = number(row[second.index(name)]) if name in second else text.NOTHING
            rows.append([name, second[best], number(row[best]), same])
    parts.append(text.aligned(header, rows, width))
    longest = max(branches.values(), key=len)
    blocks = [*longest, *(b for ratios in branches.values() for b in ratios if b not in longest)]
    if blocks:
        header = ['block', '||F(x)|| / ||x||', *['of the other'] * (len(names) - 1)]
        rows = [
            [block, *(number(each.get(block, np.nan)) for each in branches.values())]
            for block in blocks
        ]
        parts.append(text.aligned(header, rows, width))
    return '\n\n'.join(parts)
