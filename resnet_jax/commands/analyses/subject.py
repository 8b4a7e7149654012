"""What every analysis gets, and what it gives back."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from resnet_jax import text
from resnet_jax.commands import data_options, model_options
from resnet_jax.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from resnet_jax.analysis.examples import Examples
    from resnet_jax.analysis.parts import Chain
    from resnet_jax.data import Source
    from resnet_jax.inference.trained import TrainedModel


_OF_IMAGES = ('attribution', 'robustness')
_OF_DENSE = ('attribution',)  # kinds that also take networks for segmentation and detection


class Subject(NamedTuple):
    """A model and the examples that it is analysed on.

    Attributes:
      trained: the model.
      examples: in the order of their split.
    """

    trained: 'TrainedModel'
    examples: 'Examples'

    @property
    def chain(self) -> 'Chain':
        """The network as a chain of parts."""
        from resnet_jax.analysis.parts import chain

        preprocessing = self.trained.preprocessing
        return chain(self.trained.model, preprocessing.model_space, preprocessing.channels)

    @property
    def title(self) -> str:
        """Of figures: the model and the examples."""
        source = self.examples.source
        return f'{self.trained.title}, on {len(source):,} images of {source.name} {source.split}'


@dataclasses.dataclass(frozen=True)
class Report:
    """The result of an analysis.

    Attributes:
      figures: for JSON, by name.
      printed: for people, lines.
      pictures: name of a file, without its extension -> figure.
      files: name of a further file -> what writes it.
    """

    figures: Mapping[str, Any]
    printed: str
    pictures: 'Mapping[str, Figure]' = dataclasses.field(default_factory=dict)
    files: Mapping[str, Callable[[Path], None]] = dataclasses.field(default_factory=dict)


def open_subject(options: argparse.Namespace) -> Subject:
    """Loads the model and opens the examples that the options choose.

    Args:
      options: includes those of `add_model_options` and `add_data_options`.

    Raises:
      InputError: for a model or data that do not exist or cannot be read, and data of classes that
        the model does not have.
    """
    from resnet_jax import data
    from resnet_jax.analysis.examples import Examples
    from resnet_jax.inference.class_matching import match_classes

    dense = options.kind in _OF_DENSE
    chosen = data_options.choose_data(options, dense)
    trained = model_options.load_model(options, dense=dense)
    trained, source = _of_images(trained, chosen.source)
    preprocessing = trained.preprocessing
    if preprocessing.dimensions != 2 and options.kind in _OF_IMAGES:
        noun = preprocessing.noun
        raise InputError(f'analyze {options.kind} changes images, and this model takes {noun}')
    classes, how = match_classes(trained.preprocessing.class_names, source.class_names)
    for remark in (*source.notes, *([how] if how else [])):
        text.note(remark)
    workers = data.default_workers() if chosen.workers is None else chosen.workers
    examples = Examples(source, trained.preprocessing, classes, chosen.batch_size, workers)
    return Subject(trained, examples)


def _of_images(trained: 'TrainedModel', source: 'Source') -> 'tuple[TrainedModel, Source]':
    """A dense network as one that scores whole images, and the targets that it takes.

    Raises:
      InputError: for a network that knows no classes, and data without its targets.
    """
    from resnet_jax.analysis.image_scores import ImageScores

    if not trained.does.is_dense:
        return trained, data_options.labelled(source)
    if trained.task == 'depth':
        raise InputError(
            'analyze attribution explains classes, and a network for depth has none; choose one '
            'for segmentation or detection'
        )
    scores = dataclasses.replace(trained, model=ImageScores(trained.model))
    return scores, source.with_targets(trained.does.takes)
