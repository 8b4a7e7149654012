"""Stream a data set through a model and keep the outputs of some layers."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, UInt8
from tqdm import tqdm

from resnet_jax import data
from resnet_jax.data import Source
from resnet_jax.errors import InputError, RunError, shown
from resnet_jax.inference import feature_files
from resnet_jax.inference.feature_files import LABELS, NAMES, Parts, Rows
from resnet_jax.inference.features import check_layers, layers, outputs_of
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.training.compilation import jit, matmul_precision

PIXELS = 'pixels'  # not a layer: the preprocessed image, to compare features with
# An interruption loses at most a part.
MOST_EXAMPLES, MOST_BYTES = 4096, 2**26  # of a part
_DESCRIPTIVE = ('model', 'source')  # of a description; the values depend on the other entries


@dataclasses.dataclass(frozen=True)
class Extraction:
    """The result of an extraction.

    Attributes:
      description: as stored in the file.
      found: number of examples already in the file, or in the parts of an interrupted extraction.
    """

    description: dict[str, Any]
    found: int


def layer_shapes(
    trained: TrainedModel, names: Sequence[str] | None = None, full: bool = True
) -> dict[str, tuple[int, ...]]:
    """The shapes of layers for one image, without running anything.

    Args:
      trained: the model.
      names: layers, or 'pixels'; None: all.
      full: whether feature maps are kept whole, or averaged over space.

    Raises:
      InputError: for an unknown layer, with the nearest names.
    """
    known = (PIXELS, *layers(trained.model))
    names = known if names is None else names
    check_layers(names, known)
    preprocessing = trained.preprocessing
    images = jax.ShapeDtypeStruct((1, *preprocessing.input_shape), preprocessing.dtype)
    found = jax.eval_shape(_make_step(trained, names, full), trained.variables, images)
    return {name: found[name].shape[1:] for name in names}  # tracing has sorted them


def extract(
    trained: TrainedModel,
    source: Source,
    names: Sequence[str],
    out: Path,
    *,
    full: bool = False,
    batch_size: int = 100,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Extraction:
    """Writes the outputs of layers for every example of a split, in order.

    The values depend neither on the batch size nor on the number of devices, over all of which each
    batch is divided (up to rounding). Memory holds a part of the file at a time. An interrupted
    extraction leaves its parts beside the file; the next one with the same settings resumes it.

    Args:
      trained: the model.
      source: the split.
      names: layers, see `features.layers`; or 'pixels', the preprocessed image as a vector.
      out: the file, .npz or .array_record.
      full: whether to keep feature maps whole; otherwise they are averaged over space.
      batch_size: examples per batch, rounded up to a multiple of the devices.
      workers: number of reading processes; None: what suits the machine.
      overwrite: whether to replace a file, or parts, of other settings.
      progress: show a bar if standard error is a terminal and it takes over a second.

    Raises:
      InputError: for an unknown layer, a file that cannot be written, a file or parts of other
        settings.
      RunError: if writing fails on the way, as on a full disk; complete parts are kept.
    """
    _check_target(out)
    names = tuple(dict.fromkeys(names))
    shapes = layer_shapes(trained, names, full)
    description = _describe(trained, source, shapes, full)
    parts = Parts(out)
    if out.exists() and not overwrite:
        _check_finished(out, description)
        parts.remove()
        return Extraction(description, len(source))
    opened = parts.opened(description, lambda old: _differences(old, description), overwrite)
    with _explained(out), opened:
        size = _examples_of_a_part(shapes)
        found = min(parts.count * size, len(source))
        rest = source.select(np.arange(found, len(source)), source.split)
        workers = data.default_workers() if workers is None else workers
        batches = _stream(trained, rest, _make_step(trained, names, full), batch_size, workers)
        names_of = _names_of(source)
        with matmul_precision(trained.matmul_precision), _bar(found, len(source), progress) as bar:
            for rows in _in_parts(batches, size):
                first = parts.count * size
                here = names_of[first : first + len(rows[LABELS])]
                parts.add({**rows, NAMES: np.asarray(here, np.str_)})
                bar.update(len(here))
        parts.join(source.class_names, description)
    parts.remove()
    return Extraction(description, found)


@contextlib.contextmanager
def _explained(out: Path) -> Iterator[None]:
    """Adds the file, and how to resume, to an error of writing."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f'cannot write {out}: {error.strerror or error}; make room and run the same command '
            'again to continue'
        ) from error


def _check_target(out: Path) -> None:
    feature_files.check_suffix(out, f'--out {out}')
    if out.is_dir() or not out.parent.is_dir():
        what = 'is a folder' if out.is_dir() else 'is in a folder that does not exist'
        raise InputError(f'--out {out} {what}; name a file in a folder that exists')


def _check_finished(out: Path, description: dict[str, Any]) -> None:
    """Refuses an existing file with other settings."""
    changes = _differences(feature_files.read_description(out), description)
    if changes:
        raise InputError(
            f'{out} exists, with other settings ({"; ".join(changes[:4])}); give another --out, or '
            '--overwrite to replace it'
        )


def _bar(done: int, total: int, progress: bool) -> 'tqdm[Any]':
    """A bar on standard error, if that is a terminal."""
    return tqdm(
        total=total, initial=done, unit='image', delay=1, disable=None if progress else True
    )


def _make_step(trained: TrainedModel, names: Sequence[str], full: bool) -> Any:
    """The jitted function (variables, uint8 images) -> {name: float32 values}."""
    wanted = [name for name in names if name != PIXELS]
    run = outputs_of(trained.model, wanted) if wanted else None

    @jit
    def step(variables: Any, images: UInt8[Array, 'n h w c']) -> dict[str, Array]:
        normalised = trained.preprocessing.normalize(images)
        found = {PIXELS: normalised.reshape(len(images), -1)}
        for name, x in (run(variables, normalised) if run else {}).items():
            x = x.astype(jnp.float32)
            found[name] = x if full or x.ndim == 2 else x.mean(axis=tuple(range(1, x.ndim - 1)))
        return {name: found[name] for name in names}

    return step


def _stream(
    trained: TrainedModel, source: Source, step: Any, batch_size: int, workers: int
) -> Iterator[Rows]:
    """The layers and labels of each batch, without what pads the last one."""
    if not len(source):
        return
    mesh = Mesh(np.asarray(jax.devices()), ('data',), axis_types=(AxisType.Auto,))
    whole, share = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec('data'))
    variables = jax.device_put(trained.variables, whole)
    batch_size = -(-batch_size // mesh.size) * mesh.size
    for batch in data.eval_batches(source, trained.preprocessing, batch_size, workers):
        found = step(variables, jax.device_put(batch['image'], share))
        keep = batch['mask']
        yield {
            **{name: np.asarray(x)[keep] for name, x in found.items()},
            LABELS: batch['label'][keep].astype(np.int64),
        }


def _in_parts(batches: Iterable[Rows], size: int) -> Iterator[Rows]:
    """The same rows, `size` at a time; the last part may be smaller."""
    held: list[Rows] = []
    n = 0

    def joined() -> Rows:
        return {name: np.concatenate([rows[name] for rows in held]) for name in held[0]}

    for batch in batches:
        held.append(batch)
        n += len(batch[LABELS])
        while n >= size:
            rows = joined()
            yield {name: x[:size] for name, x in rows.items()}
            held = [{name: x[size:] for name, x in rows.items()}]
            n -= size
    if n:
        yield joined()


def _examples_of_a_part(shapes: dict[str, tuple[int, ...]]) -> int:
    """The number of examples of each part except the last; independent of the batch size."""
    example = sum(4 * int(np.prod(shape)) for shape in shapes.values())
    return max(1, min(MOST_EXAMPLES, MOST_BYTES // example))


def _names_of(source: Source) -> list[str]:
    """The path of each example's file, else its number in the split."""
    return source.files() if source.root else list(map(str, range(len(source))))


def _describe(
    trained: TrainedModel, source: Source, shapes: dict[str, tuple[int, ...]], full: bool
) -> dict[str, Any]:
    """All that decides the values, and where they come from, as JSON."""
    preprocessing = json.loads(trained.preprocessing.to_json())
    preprocessing.pop('class_names')
    fields = dataclasses.fields(trained.model)
    found = {
        'model': trained.title,
        'source': trained.origin,
        'architecture': {
            f.name: str(getattr(trained.model, f.name))
            for f in fields
            if f.name not in ('parent', 'name', 'scan_blocks', 'remat')
        },
        'weights_digest': trained.weights_digest(),
        'matmul_precision': trained.matmul_precision,
        'preprocessing': preprocessing,
        'data': {
            'name': source.name,
            'split': source.split,
            'examples': len(source),
            'fingerprint': data.fingerprint(source),
        },
        'layers': {name: list(shape) for name, shape in shapes.items()},
        'full': full,
    }
    return json.loads(json.dumps(found))  # lists for tuples, as it is read back


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings on which the values depend that differ between two descriptions."""

    def words(value: Any) -> str:
        return shown(list(value) if isinstance(value, dict) else value, 60)

    found = []
    for key in (key for key in new if key not in _DESCRIPTIVE):
        then, now = old.get(key), new[key]
        if key != 'layers' and isinstance(then, dict) and isinstance(now, dict):
            both = [k for k in now if then.get(k) != now[k]]
            found += [f'{key}.{k}: {words(then.get(k))} -> {words(now[k])}' for k in both]
        elif then != now:
            found.append(f'{key}: {words(then)} -> {words(now)}')
    return found
