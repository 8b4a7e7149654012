"""The weights in a run's folder or in one checkpoint, whatever else it holds."""

from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from resnet_jax.errors import InputError, first_line
from resnet_jax.models.stages import unstack_blocks


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The model's variables, without the optimiser's state.

    Args:
      path: a run's folder (its last checkpoint is read), its folder of checkpoints, or one.

    Returns:
      Arrays by path, 'params/stem/conv1/kernel', of looped blocks; the averaged ones where the run
      keeps them. And texts: the 'preprocessing' of the run.

    Raises:
      InputError: if there is no complete checkpoint, or it cannot be read.
    """
    import orbax.checkpoint as ocp

    state = _state_folder(path)
    reader = ocp.Checkpointer(ocp.PyTreeCheckpointHandler())
    try:
        metadata: Any = reader.metadata(state).item_metadata
        averaged = metadata.tree.get('ema')
        wanted: Any = {
            name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), part)
            for name, part in (averaged or metadata.tree).items()
            if name in ('params', 'batch_stats') and part
        }
        wanted = {'ema': wanted} if averaged else wanted
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        arguments = ocp.args.PyTreeRestore(item=wanted, restore_args=as_numpy, partial_restore=True)
        found = reader.restore(state, arguments)
    except Exception as error:  # Orbax and tensorstore raise many kinds
        raise InputError(f'{state} cannot be read as a checkpoint: {first_line(error)}') from error
    variables = unstack_blocks(found['ema'] if averaged else found)
    arrays = flax.traverse_util.flatten_dict(variables, sep='/')
    near = [path, *path.resolve().parents[:3]]
    stored = next((p / 'preprocessing.json' for p in near if _is_run(p)), None)
    texts = {'preprocessing': stored.read_text()} if stored and stored.is_file() else {}
    return {name: np.asarray(array) for name, array in arrays.items()}, texts


def _is_run(path: Path) -> bool:
    return (path / 'checkpoints').is_dir() and (path / 'config.json').is_file()


def _state_folder(path: Path) -> Path:
    folder = path / 'checkpoints' if _is_run(path) else path
    steps = [p for p in folder.iterdir() if p.name.isdigit() and (p / 'state').is_dir()]
    if steps:
        folder = max(steps, key=lambda p: int(p.name))
    folder = folder / 'state' if (folder / 'state').is_dir() else folder
    if not (folder / '_METADATA').is_file():
        raise InputError(f'{path} holds no run and no complete checkpoint of one')
    return folder.resolve()
