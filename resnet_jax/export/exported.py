"""An exported file as a model that predicts and is evaluated, run by the format's own runtime."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Array, Float

from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError, RunError, Unreadable, choose, first_line
from resnet_jax.export.formats import FORMATS, format_of
from resnet_jax.export.outputs import OUTPUTS
from resnet_jax.export.program import Run
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.json_files import json_text, read_json, unreadable

# What is read of a description, besides the preprocessing.
STORED = {'sha256': str, 'takes_pixels': bool, 'channels_last': bool, 'batch': int | None}
LOST = 'export it again, or restore both files from a copy'


@dataclasses.dataclass(frozen=True)
class ExportedNet:
    """A file's function, in the place of a model.

    Attributes:
      run: the function.
      to_model: its outputs by name -> what a model returns.
      title: the file, for messages.
      space: height and width that the images have, or what else they are as long as; None: any.
      takes_pixels: see `Program`.
      channels_last: see `Program`.
      batch: see `Program`.
    """

    run: Run
    to_model: Callable[[dict[str, np.ndarray]], Any]
    title: str
    space: tuple[int, ...] | None
    takes_pixels: bool
    channels_last: bool
    batch: int | None

    def apply(self, variables: Any, images: Float[Array, 'n *space c'], train: bool) -> Any:
        """What a model returns of images, as its `apply` in evaluation.

        Args:
          variables: ignored; the file has its own.
          images: [N, H, W, C], normalised; pixels in [0, 1] if the file takes pixels; whole
            numbers [N, L] of texts.
          train: must be False.
        """
        assert not train
        return self.to_model(self.outputs(np.asarray(images)))

    def outputs(self, images: Float[np.ndarray, 'n *space c']) -> dict[str, np.ndarray]:
        """The outputs of the file by name.

        Args:
          images: as `apply` takes them.

        Raises:
          InputError: for images of another size than the file takes.
          RunError: if its runtime fails.
        """
        of_texts = np.issubdtype(images.dtype, np.integer)
        space = images.shape[1:] if of_texts else images.shape[1:-1]
        # Of videos the runtime checks the number of frames, which the graph fixes.
        if self.space is not None and space[-2:] != self.space[-2:]:
            raise InputError(
                f'{self.title} takes images of {"x".join(map(str, self.space))}, not '
                f'{"x".join(map(str, space))}'
            )
        x = np.rint(images * 255).astype(np.uint8) if self.takes_pixels else images
        x = x if self.channels_last or of_texts else np.moveaxis(x, -1, 1)
        x = np.ascontiguousarray(x)
        count, batch = len(x), self.batch or len(x)
        x = np.concatenate([x, np.zeros((-count % batch, *x.shape[1:]), x.dtype)])
        try:
            parts = [self.run(x[i : i + batch]) for i in range(0, len(x), batch)]
        except Exception as error:  # runtimes raise many kinds
            raise RunError(f'{self.title} cannot be run: {first_line(error)}') from error
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def net_of(about: Mapping[str, Any], run: Run, title: str) -> ExportedNet:
    """A file's function, with what its description says about its input."""
    space = Preprocessing(**about['preprocessing']).model_space
    free = about.get('sizes', '') == 'any' or about.get('sizes', '').startswith('multiples')
    kind = about['takes_pixels'], about['channels_last'], about['batch']
    to_model = functools.partial(_to_model, about)
    return ExportedNet(run, to_model, title, None if free else space, *kind)


def _to_model(about: Mapping[str, Any], found: dict[str, np.ndarray]) -> Any:
    return OUTPUTS[_task(about)].to_model(with_last_channels(found, about), about)


def with_last_channels(
    found: Mapping[str, np.ndarray], about: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """The outputs of a file with its maps as [N, H, W, C]."""
    maps = () if about['channels_last'] else OUTPUTS[_task(about)].maps
    return {name: np.moveaxis(x, 1, -1) if name in maps else x for name, x in found.items()}


def _task(about: Mapping[str, Any]) -> str:
    """Of the network; the first descriptions do not say it."""
    task: str = about.get('task', 'classification')
    return task


def seen_preprocessing(about: Mapping[str, Any]) -> Preprocessing:
    """The preprocessing that precedes the file: without mean and deviation if it takes pixels."""
    found = Preprocessing(**about['preprocessing'])
    if not about['takes_pixels']:
        return found
    none, ones = (0.0,) * found.channels, (1.0,) * found.channels
    return dataclasses.replace(found, mean=none, std=ones)


def load_exported(path: Path) -> TrainedModel:
    """Loads an exported file, ready to evaluate and predict.

    Args:
      path: the file, beside which its description lies, see `description_file`.

    Raises:
      InputError: if there is no such file, or the extra that runs it is not installed.
      Unreadable: if it or its description is damaged.
    """
    row = FORMATS[format_of(path)]
    if not path.exists():
        raise InputError(f'there is no file {path}; write it with `resnet-jax export`')
    about = read_json(description_file(path), LOST)
    try:
        for name, kind in STORED.items():
            if not isinstance(about[name], kind):
                raise TypeError(f'{name} is {about[name]!r}')
        expected, preprocessing = about['sha256'], seen_preprocessing(about)
        choose('task', _task(about), OUTPUTS)
    except (KeyError, TypeError, InputError) as error:
        raise unreadable(description_file(path), error, LOST) from error
    if digest(path) != expected:
        raise Unreadable(f'{path} is not the file that {description_file(path)} describes; {LOST}')
    net = net_of(about, row.open(path), str(path))
    origin = {'exported': str(path), 'source': about.get('source')}
    # It has the one method of a model that evaluation and prediction call.
    model = cast(Any, net)
    title = f'{path.name} ({row.title} of {about.get("title")})'
    return TrainedModel(model, {}, preprocessing, origin, title, traceable=False, task=_task(about))


def description_file(path: Path) -> Path:
    """Where the description of an exported file lies: beside it."""
    return path.with_name(f'{path.name}.json')


def write_description(path: Path, about: Mapping[str, Any]) -> None:
    """Writes the description of an exported file, with its checksum."""
    text = json_text({**about, 'sha256': digest(path)}, indent=1)
    description_file(path).write_text(text + '\n')


def digest(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents of a folder's files."""
    found = hashlib.sha256()
    if path.is_file():
        found.update(path.read_bytes())
        return found.hexdigest()
    for each in sorted(p for p in path.rglob('*') if p.is_file()):
        found.update(str(each.relative_to(path)).encode() + each.read_bytes())
    return found.hexdigest()
