"""What every method of compression gets, and what it gives back."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_jax import text
from resnet_jax.commands import data_options, model_options
from resnet_jax.errors import InputError, Range, check_number

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from resnet_jax.analysis.examples import Examples
    from resnet_jax.inference.trained import TrainedModel
    from resnet_jax.models import ResNet


class Subject(NamedTuple):
    """A model to compress, and examples.

    Attributes:
      trained: the model.
      name: of the registered model that it is, or was made of.
      config: of its run, or the default one with the options' data.
      examples: that the original and the result are compared on; None without data.
      fitting: that scales, channels or ranks may be chosen on; None without data.
    """

    trained: 'TrainedModel'
    name: str
    config: 'ConfigDict'
    examples: 'Examples | None'
    fitting: 'Examples | None'

    @property
    def title(self) -> str:
        """The model and the examples."""
        if self.examples is None:
            return f'{self.trained.title}, on random images'
        source = self.examples.source
        return f'{self.trained.title}, on {len(source):,} images of {source.name} {source.split}'

    def fitting_examples(self, what: str) -> 'Examples':
        """The examples to choose something on.

        Raises:
          InputError: without data.
        """
        if self.fitting is None:
            raise InputError(f'{what} needs examples: give --data SPEC')
        return self.fitting


@dataclasses.dataclass(frozen=True)
class Compressed:
    """The result of a method.

    Attributes:
      model: the smaller model.
      variables: of the model.
      settings: of the method, for JSON.
      notes: further results, for JSON.
      printed: further results for people, lines.
    """

    model: 'ResNet'
    variables: Mapping[str, Any]
    settings: Mapping[str, Any]
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    printed: str = ''


def add_fit_options(parser: argparse.ArgumentParser) -> None:
    """Declares the examples that a method chooses its numbers on."""
    group = parser.add_argument_group('the images that the method looks at')
    group.add_argument(
        '--fit-split',
        metavar='NAME',
        help="of the same data (default: the run's training split, or train; where there is none, "
        'the examples that the result is judged on)',
    )
    group.add_argument(
        '--fit-images', type=int, default=512, metavar='N', help='how many (default: 512)'
    )


def open_subject(options: argparse.Namespace) -> Subject:
    """Loads the model and opens the examples that the options choose.

    Raises:
      InputError: for a model or data that do not exist or cannot be read.
    """
    from resnet_jax.training import config as configs
    from resnet_jax.training import workdir

    if 'fit_images' in options:
        check_number('--fit-images', options.fit_images, Range(1, whole=True))
    has_data = options.workdir is not None or options.data is not None
    if not has_data and (options.split or options.limit):
        raise InputError('--split and --limit go with --data SPEC')
    chosen = data_options.choose_data(options) if has_data else None
    trained = model_options.load_model(options)
    if options.workdir is not None:
        config = workdir.read_config(options.workdir)
        name = config.model.name
    else:
        config, name = configs.default_config(), options.model
        config = configs.changed(config, _data_fields(options, trained, chosen))
    examples = None if chosen is None else _examples(trained, chosen)
    fitting = None
    if chosen is not None and 'fit_split' in options:
        fitting = _examples(trained, _fit_data(options, config, chosen))
    return Subject(trained, name, config, examples, fitting)


def _data_fields(options: argparse.Namespace, trained: Any, chosen: Any) -> dict[str, Any]:
    """Fields of the config that stand for the data and the preprocessing of published weights."""
    pre = trained.preprocessing
    fields: dict[str, Any] = {
        'data.image_size': pre.image_size,
        'data.channels': pre.channels,
        'data.resize': pre.resize,
        'data.std': pre.std,
        'data.mean': pre.mean if not isinstance(pre.mean[0], tuple) else None,
        'data.normalize': 'pixel' if isinstance(pre.mean[0], tuple) else 'channel',
    }
    if fields['data.normalize'] == 'pixel':
        fields['data.std'] = None
    if chosen is not None:
        given = {f: getattr(options, f) for f in data_options.DETAILS}
        fields |= {f'data.{name}': value for name, value in given.items()}
        fields |= {'data.name': options.data, 'data.dir': options.data_dir}
        fields['data.eval_split'] = chosen.source.split
    return fields


def _examples(trained: Any, chosen: Any) -> 'Examples':
    from resnet_jax import data
    from resnet_jax.analysis.examples import Examples
    from resnet_jax.inference.class_matching import match_classes

    names = trained.preprocessing.class_names
    classes, how = match_classes(names, chosen.source.class_names)
    for remark in (*chosen.source.notes, *([how] if how else [])):
        text.note(remark)
    workers = data.default_workers() if chosen.workers is None else chosen.workers
    return Examples(chosen.source, trained.preprocessing, classes, chosen.batch_size, workers)


def _fit_data(options: argparse.Namespace, config: Any, chosen: Any) -> Any:
    """The first images of the split to choose on, in an order that mixes the classes."""
    import numpy as np

    from resnet_jax import data

    split = options.fit_split
    if split is None and options.workdir is not None and options.data is None:
        split = config.data.train_split
    if split is None:
        spec = options.data or config.data.name
        sizes = data.split_sizes(spec, **data_options.details(options, spec))
        split = 'train' if 'train' in sizes else None
    source = chosen.source
    if split is not None:
        changed = {'split': split, 'limit': None}
        source = data_options.choose_data(argparse.Namespace(**{**vars(options), **changed})).source
    else:
        text.note('there is no training split: what is chosen is judged on the same images')
    order = np.random.default_rng(0).permutation(len(source))[: options.fit_images]
    return chosen._replace(source=source.select(np.sort(order), source.split))
