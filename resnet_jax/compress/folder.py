"""The folder of a compressed model: what `eval`, `predict`, `analyze` and `train` take.

It holds config.json, whose `model` is the smaller row; preprocessing.json; weights.safetensors, in
which quantised weights are the integers that they are; and compress.json, what was done and
measured.
"""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError, Unreadable
from resnet_jax.interop import integers
from resnet_jax.interop.files import WEIGHTS_FILE, Tensors, is_compressed, write_tensors
from resnet_jax.interop.weights import tensors_from_variables
from resnet_jax.json_files import json_text, read_json
from resnet_jax.models import ResNet
from resnet_jax.models.registry import fields_of
from resnet_jax.records.writers import check_folder, write_atomically
from resnet_jax.training import config as configs
from resnet_jax.training.workdir import write_run

REPORT = 'compress.json'


class Description(NamedTuple):
    """What a compressed model comes from.

    Attributes:
      name: of a registered model.
      config: of its run; of published weights the default config, with their data.
      preprocessing: of the model.
      method: 'prune', 'quantize', ...
    """

    name: str
    config: ConfigDict
    preprocessing: Preprocessing
    method: str


def arrays_of(
    model: ResNet, variables: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a model as a file holds them, quantised weights as integers.

    Returns:
      Arrays by name, and the metadata about the integers.
    """
    arrays = tensors_from_variables(variables, model, 'ours')
    return integers.packed(arrays, weight_bits(model, arrays))


_QUANTISED = re.compile(r'(shortcut_|gate_|last_)?conv\d*|down|core|up|head')


def weight_bits(model: ResNet, arrays: Iterable[str]) -> dict[str, int]:
    """Bits of each quantised kernel of a model, by the name of its array.

    Those inside squeeze-and-excitation and channel attention are floats.

    Args:
      model: the model.
      arrays: names in our own layout, 'params/stem/conv1/kernel'.
    """
    own, found = model.single_layers().bits, {}
    for name in arrays:
        kind, *path, leaf = name.split('/')
        if kind != 'params' or leaf != 'kernel' or 'eca' in path:
            continue
        if not _QUANTISED.fullmatch(path[-1]):
            continue
        layer = '/'.join(path[:-1] if path[-1] in ('down', 'core', 'up') else path)
        if bits := own.get(layer, model.weight_bits):
            found[name] = bits
    return found


@contextlib.contextmanager
def new_folder(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A draft beside a folder, which takes its place at the end, or is removed on an error.

    Args:
      folder: where the compressed model goes.
      overwrite: whether it may replace another compressed model.

    Raises:
      InputError: if there is something else, or it cannot be written.
    """
    check_folder(folder, 'give another --out DIR')
    if folder.exists() and any(folder.iterdir()):
        if not is_compressed(folder):
            raise InputError(f'--out {folder} is not empty and no compressed model; give another')
        if not overwrite:
            raise InputError(
                f'--out {folder} holds a compressed model; give --overwrite or another'
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', dir=folder.parent))
    draft.chmod(0o755)
    try:
        yield draft
        old = draft.with_name(f'{draft.name}.old')
        if folder.exists():
            folder.rename(old)  # whole until the new one is in its place
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_model(
    folder: Path, about: Description, model: ResNet, variables: Mapping[str, Any]
) -> None:
    """Writes everything but the report.

    Args:
      folder: exists.
      about: what the model comes from.
      model: the compressed model.
      variables: of the model.

    Raises:
      InputError: if the folder cannot be written.
    """
    fields = fields_of(about.name, model)
    fields.pop('num_classes', None)
    arrays, notes = arrays_of(model, variables)
    metadata = {
        'model': about.name,
        'fields': json.dumps(fields),
        'preprocessing': about.preprocessing.to_json(),
        'method': about.method,
        **notes,
    }
    write_tensors(folder / WEIGHTS_FILE, Tensors(arrays, metadata))
    write_run(folder, config_of(about, fields), about.preprocessing)


def config_of(about: Description, fields: Mapping[str, Any]) -> ConfigDict:
    """The config of the source, with the compressed model in it."""
    known = {name for name in about.config.model if name not in ('name', 'dtype')}
    changed: dict[str, Any] = {f'model.{name}': fields.get(name) for name in sorted(known)}
    return configs.changed(about.config, {**changed, 'model.name': about.name})


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes compress.json."""
    write_atomically(folder / REPORT, json_text(report, indent=1) + '\n')


def read_report(folder: Path) -> dict[str, Any]:
    """What `write_report` wrote.

    Raises:
      InputError: if the folder holds no compressed model.
      Unreadable: if the file is damaged.
    """
    if not (folder / REPORT).is_file():
        raise InputError(f'{folder} holds no {REPORT}; name folders that resnet-jax compress wrote')
    found = read_json(folder / REPORT, 'compress the model again')
    kinds = {'before': dict, 'after': dict, 'method': str, 'model': str}
    for key, kind in kinds.items():
        if not isinstance(found.get(key), kind):
            raise Unreadable(f'{folder / REPORT} lacks {key}; compress the model again')
    return found
