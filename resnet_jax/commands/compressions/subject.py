"""What every method of compression gets, and what it gives back."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_jax import text
from resnet_jax.commands import data_options, model_options
from resnet_jax.errors import InputError

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


def open_subject(options: argparse.Namespace) -> Subject:
    """Loads the model and opens the examples that the options choose.

    Raises:
      InputError: for a model or data that do not exist or cannot be read.
    """
    from resnet_jax.training import config as configs
    from resnet_jax.training import workdir

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
        fitting = _examples(trained, data_options.choose_fitting(options, chosen))
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
