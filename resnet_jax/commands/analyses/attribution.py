"""`resnet-jax analyze attribution`."""

import argparse
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands.analyses.subject import Report
from resnet_jax.errors import InputError, Range, check_choice, check_number, unknown_name

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array

    from resnet_jax.analysis.attribution import Maps, Settings
    from resnet_jax.analysis.figures.attribution import Row
    from resnet_jax.commands.analyses.subject import Subject

TEXT = 'Where a model looks: maps of the positions on which the logit of a class depends.'
EPILOG = (
    'By default the first 16 examples are explained (--limit N: the first N). The raw maps are in '
    'attribution.npz, and in the JSON unless they are many.'
)
BASELINES = ('mean', 'black')
_LIMIT = 16
_MOST_NUMBERS = 100_000  # of maps in the JSON
_OF_ORDER = Range(1, whole=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    parser.set_defaults(limit=_LIMIT)
    group = parser.add_argument_group('the maps')
    group.add_argument(
        '--method',
        nargs='+',
        default=['grad_cam'],
        metavar='NAME',
        help='grad_cam (default), grad_cam++, hires_cam, layer_cam, eigen_cam, '
        'integrated_gradients, smooth_grad, occlusion',
    )
    group.add_argument(
        '--layer',
        metavar='NAME',
        help='of the class activation maps: stage2, stage3/block1, stage3/block1/conv2, ...; '
        'final_map, what the head averages; default: the last stage, of a pre-activation net '
        'final_map, which follows the last norm and activation',
    )
    group.add_argument(
        '--target',
        default='true',
        metavar='WHICH',
        help='the class that is explained: true (default; of dense networks that of the largest '
        'object), predicted or the name of one',
    )
    group.add_argument(
        '--baseline',
        default='mean',
        metavar='NAME',
        help='what replaces pixels, and where integrated gradients begin: mean (default), the '
        'mean of the training images; or black',
    )
    group.add_argument(
        '--images', type=int, default=8, metavar='N', help='examples in the picture (default: 8)'
    )
    _add_settings(parser.add_argument_group('single methods'))
    checks = parser.add_argument_group('checks')
    checks.add_argument('--curves', action='store_true', help='deletion and insertion curves')
    checks.add_argument('--sanity', action='store_true', help='maps of weights made random')
    checks.add_argument('--seed', type=int, default=0, metavar='N', help='of all that is random')


def _add_settings(group: 'argparse._ArgumentGroup') -> None:
    """Declares the fields of `Settings`."""
    group.add_argument(
        '--steps', type=int, default=32, metavar='N', help='of integrated gradients (default: 32)'
    )
    group.add_argument(
        '--samples', type=int, default=25, metavar='N', help='of SmoothGrad (default: 25)'
    )
    group.add_argument(
        '--noise',
        type=float,
        default=0.15,
        metavar='SHARE',
        help="of SmoothGrad, of an image's range of values (default: 0.15)",
    )
    group.add_argument(
        '--stride',
        type=int,
        metavar='PIXELS',
        help="of occlusion (default: an eighth of the image's side)",
    )
    group.add_argument(
        '--patch',
        type=int,
        metavar='PIXELS',
        help='side of the square that occlusion hides (default: twice the stride)',
    )


def analyse(options: argparse.Namespace, subject: 'Subject') -> Report:
    """Makes the maps, their checks and the pictures."""
    from resnet_jax.analysis import attribution, responses
    from resnet_jax.analysis.examples import predictions
    from resnet_jax.analysis.figures.attribution import draw
    from resnet_jax.analysis.image_scores import strongest

    settings = _check(options)
    if subject.trained.does.is_dense and (options.curves or options.sanity):
        raise InputError(
            '--curves and --sanity check maps of networks that classify images; leave them out'
        )
    model, variables = subject.trained.model, subject.trained.variables
    layer = options.layer or responses.default_layer(model)
    responses.check_layer(model, layer)
    choose_targets = _target(options.target, subject)
    baseline = _baseline(options.baseline, subject)
    logits, labels = predictions(model, variables, subject.examples)
    dense = subject.trained.does.is_dense
    predicted = strongest(logits, dense)
    targets = choose_targets(labels, predicted)
    explain = functools.partial(
        attribution.explain,
        model,
        batches=subject.examples,
        targets=targets,
        methods=options.method,
        baseline=baseline,
        layer=layer,
        settings=settings,
    )
    maps = explain(variables)
    figures: dict[str, Any] = {'layer': layer, 'target': options.target, 'methods': options.method}
    figures |= _examples(subject, labels, predicted, logits, targets)
    if 'integrated_gradients' in maps:
        figures['completeness'] = _completeness(
            subject, logits, targets, maps['integrated_gradients'], baseline
        )
    figures |= _checks(options, subject, targets, maps, explain, baseline)
    first = maps[options.method[0]]
    if first.size <= _MOST_NUMBERS:
        figures['maps'] = first.tolist()
    pictures = draw(
        figures,
        _rows(options.images, subject, maps, figures),
        f'{subject.title}; {_explained(options, layer, dense)}',
    )
    save = functools.partial(_save, maps, labels, predicted, targets, _names(subject))
    return Report(figures, _printed(figures, dense), pictures, {'attribution.npz': save})


def _check(options: argparse.Namespace) -> 'Settings':
    """Checks all options that need no model."""
    from resnet_jax.analysis.attribution import METHODS, Settings

    for name in options.method:
        check_choice('method', name, METHODS)
    if len(set(options.method)) < len(options.method):
        raise InputError(f'--method names one twice: {" ".join(options.method)}')
    check_choice('baseline', options.baseline, BASELINES)
    for name in ('images', 'steps', 'samples'):
        check_number(f'--{name}', getattr(options, name), _OF_ORDER)
    for name in ('stride', 'patch'):
        if getattr(options, name) is not None:
            check_number(f'--{name}', getattr(options, name), _OF_ORDER)
    check_number('--noise', options.noise, Range(0.0))
    return Settings(
        steps=options.steps,
        samples=options.samples,
        noise=options.noise,
        stride=options.stride or 0,
        patch=options.patch or 0,
        seed=options.seed,
    )


def _target(given: str, subject: 'Subject') -> Any:
    """A function of labels and predicted classes that gives the classes to explain."""
    import numpy as np

    from resnet_jax.inference.class_matching import class_finder

    if given == 'true':
        return lambda labels, predicted: labels
    if given == 'predicted':
        return lambda labels, predicted: predicted
    names = _names(subject)
    number = class_finder(names)(given)
    if number is None:
        raise unknown_name('target', given, ['true', 'predicted', *names])
    return lambda labels, predicted: np.full_like(labels, number)


def _names(subject: 'Subject') -> tuple[str, ...]:
    """The names of the model's classes; where the weights give none, those of the data."""
    names = list(subject.trained.preprocessing.class_names)
    if names == [str(i) for i in range(len(names))]:
        examples = subject.examples
        for number, name in zip(examples.classes, examples.source.class_names, strict=True):
            names[number] = name
    return tuple(names)


def _baseline(name: str, subject: 'Subject') -> 'Array':
    """The normalised image of the training images' mean, or of black pixels."""
    import jax.numpy as jnp

    p = subject.trained.preprocessing
    black = p.normalize(jnp.zeros((1, p.image_size, p.image_size, p.channels), jnp.uint8))[0]
    return black if name == 'black' else jnp.zeros_like(black)


def _examples(
    subject: 'Subject',
    labels: 'np.ndarray',
    predicted: 'np.ndarray',
    logits: 'np.ndarray',
    targets: 'np.ndarray',
) -> dict[str, Any]:
    """What is known of each example, by the names of classes, and the accuracy."""
    import numpy as np

    names = _names(subject)
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    confidence = shifted[np.arange(len(predicted)), predicted] / shifted.sum(axis=1)
    return {
        'top1': float(np.mean(predicted == labels)),
        'examples': [
            {
                'true': names[label],
                'predicted': names[guess],
                'confidence': float(sure),
                'target': names[target],
            }
            for label, guess, sure, target in zip(
                labels, predicted, confidence, targets, strict=True
            )
        ],
    }


def _completeness(
    subject: 'Subject', logits: 'np.ndarray', targets: 'np.ndarray', maps: 'Maps', baseline: 'Array'
) -> dict[str, float]:
    """How well the sums of integrated gradients are the differences of the logits."""
    import numpy as np

    found: Any = subject.trained.model.apply(subject.trained.variables, baseline[None], train=False)
    expected = logits[np.arange(len(targets)), targets] - np.asarray(found)[0, targets]
    error = np.abs(maps.sum(axis=(1, 2), dtype=np.float64) - expected).mean()
    return {'difference': float(np.abs(expected).mean()), 'error': float(error)}


def _checks(
    options: argparse.Namespace,
    subject: 'Subject',
    targets: 'np.ndarray',
    maps: 'Mapping[str, Maps]',
    explain: Any,
    baseline: 'Array',
) -> dict[str, Any]:
    """The checks that are asked for."""
    from resnet_jax.analysis import faithfulness
    from resnet_jax.analysis.attribution import METHODS
    from resnet_jax.analysis.networks import fresh_network

    trained, found = subject.trained, dict[str, Any]()
    if options.curves:
        found |= faithfulness.deletion_and_insertion(
            trained.model,
            trained.variables,
            subject.examples,
            targets,
            maps,
            baseline=baseline,
            seed=options.seed,
        )
    if options.sanity:
        p = trained.preprocessing
        fresh = fresh_network(trained.model, p.image_size, p.channels, options.seed).variables
        signed = {name: METHODS[name].signed for name in maps}
        found |= faithfulness.sanity(subject.chain, trained.variables, fresh, maps, explain, signed)
    return found


def _rows(
    count: int, subject: 'Subject', maps: 'Mapping[str, Maps]', figures: Mapping[str, Any]
) -> 'list[Row]':
    """What the picture shows of the first examples."""
    from resnet_jax.analysis.figures.attribution import Row, crop_box

    preprocessing = subject.trained.preprocessing
    source = subject.examples.source.with_bands(preprocessing.channels)
    originals = source.take(range(min(count, len(source))))
    return [
        Row(
            image=original['image'],
            box=crop_box(original['image'].shape, preprocessing),
            input_size=preprocessing.image_size,
            maps={name: each[i] for name, each in maps.items()},
            **{key: figures['examples'][i][key] for key in ('true', 'predicted', 'confidence')},
        )
        for i, original in enumerate(originals)
    ]


def _explained(options: argparse.Namespace, layer: str, dense: bool) -> str:
    """The end of the pictures' title."""
    words = {
        'true': "the largest object's class" if dense else 'the true class',
        'predicted': 'the predicted class',
    }
    what = 'score' if dense else 'logit'
    return f'{what} of {words.get(options.target, options.target)}, layer {layer}'


def _save(
    maps: 'Mapping[str, Maps]',
    labels: 'np.ndarray',
    predicted: 'np.ndarray',
    targets: 'np.ndarray',
    names: tuple[str, ...],
    path: Path,
) -> None:
    """Writes the raw maps: the first method's as `maps`, and each under its name."""
    import numpy as np

    arrays = {'labels': labels, 'predicted': predicted, 'targets': targets}
    arrays |= {'names': np.array(names), 'maps': next(iter(maps.values())), **maps}
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _printed(figures: dict[str, Any], dense: bool) -> str:
    width = text.terminal_width()
    share = f'{100 * figures["top1"]:.1f} % of the examples'
    words = f'in {share} the strongest class is that of the largest object'
    parts = [f'layer {figures["layer"]}; {words if dense else share + " are right"}']
    if 'completeness' in figures:
        found = figures['completeness']
        parts.append(
            f'integrated gradients: the sums of the maps miss the difference of the logits, '
            f'{found["difference"]:.3g} on average, by {found["error"]:.2g}'
        )
    if 'curves' in figures:
        header = ['order', 'deletion (low is good)', 'insertion (high is good)']
        rows = [
            [name, f'{area:.3f}', f'{figures["insertion"][name]:.3f}']
            for name, area in figures['deletion'].items()
        ]
        parts.append(text.aligned(header, rows, width))
    if 'sanity' in figures:
        methods = list(figures['sanity'])
        rows = [
            [part, *(text.number(figures['sanity'][name][part], '.2f') for name in methods)]
            for part in figures['sanity'][methods[0]]
        ]
        others = figures['sanity_other_images']
        rows.append(['(of other images)', *(text.number(others[name], '.2f') for name in methods)])
        parts.append(text.aligned(['random down to', *methods], rows, width))
    return '\n\n'.join(parts)
