"""A run's folder: what it was told, what it learnt, and how to use it again."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import flax.linen as nn
import jax
import optax
from ml_collections import ConfigDict

from resnet_jax import models
from resnet_jax.data import Preprocessing
from resnet_jax.errors import InputError, unknown_name
from resnet_jax.records.writers import write_atomically
from resnet_jax.training import config as configs
from resnet_jax.training import optim
from resnet_jax.training.step import TrainState, create_state

DTYPES = ('float32', 'bfloat16')
# Fields of config.model that are not overrides of the model's row.
_MODEL_ARGUMENTS = ('name', 'dtype')
LOCK = '.lock'
# What a run killed in its first moments may leave.
_FIRST_FILES = (LOCK, 'preprocessing.json', 'preprocessing.json.tmp', 'config.json.tmp')


def build_model(settings: ConfigDict, num_classes: int) -> models.ResNet:
    """The model that config.model describes; fields that are not set keep the row's value."""
    overrides = {
        field: value
        for field, value in settings.items()
        if field not in _MODEL_ARGUMENTS and value is not None
    }
    check_dtype(settings.dtype, 'model.dtype')
    return models.create_model(settings.name, num_classes, settings.dtype, **overrides)


def check_dtype(name: str, field: str) -> None:
    """Refuses what is not one of `DTYPES`; `field` says whose value it is."""
    if name == 'float16':
        raise InputError(
            f'{field} float16 is not supported: gradients vanish in its narrow range unless the '
            'loss is scaled; use bfloat16, which has the range of float32'
        )
    if name not in DTYPES:
        raise unknown_name(field, name, DTYPES)


def state_template(
    config: ConfigDict, model: nn.Module, preprocessing: Preprocessing
) -> TrainState:
    """The shapes of the run's training state, without computing it."""
    # The schedule is no part of the state, so any one gives the same structure.
    optimizer = optim.make_optimizer(config.optim, optax.constant_schedule(0.0))
    size = preprocessing.image_size
    state = jax.eval_shape(
        lambda: create_state(
            model,
            optimizer,
            (size, size, preprocessing.channels),
            config.seed,
            bool(config.optim.ema),
        )
    )
    # Said, because a checkpoint remembers devices that may not be here.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)


def is_run(workdir: Path) -> bool:
    """Whether the folder holds a run."""
    return (workdir / 'config.json').is_file()


def check_folder(workdir: Path, config: ConfigDict) -> None:
    """Refuses a folder that holds something else than this run; writes nothing.

    Raises:
      InputError: showing what differs between the folder's config and this one.
    """
    if is_run(workdir):
        changes = configs.differences(read_config(workdir), config)
        if changes:
            shown = '; '.join(changes[:8]) + (' ...' if len(changes) > 8 else '')
            raise InputError(
                f'workdir {workdir} holds a run with another config ({shown}); '
                'use another --workdir, or the same config to continue'
            )
    elif workdir.exists():
        if not workdir.is_dir():
            raise InputError(f'workdir {workdir} is a file')
        foreign = sorted(p.name for p in workdir.iterdir() if p.name not in _FIRST_FILES)
        if foreign:
            raise InputError(
                f'workdir {workdir} is not empty and not a run (it holds {foreign[0]}); '
                'use another --workdir'
            )


@contextlib.contextmanager
def locked(workdir: Path, wait: bool = False) -> Iterator[None]:
    """Makes the folder and keeps other processes from training in it meanwhile.

    Args:
      workdir: the folder.
      wait: for a process that has it, instead of complaining.

    Raises:
      InputError: if the folder cannot be written in, or another process has it.
    """
    import fcntl

    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / LOCK).open('w')
    except OSError as error:
        raise InputError(f'cannot write in workdir {workdir}: {error.strerror}') from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InputError(f'another process is training in workdir {workdir}') from error
        yield


def write_run(workdir: Path, config: ConfigDict, preprocessing: Preprocessing) -> None:
    """Writes config.json and preprocessing.json of a new run."""
    write_atomically(workdir / 'preprocessing.json', preprocessing.to_json() + '\n')
    write_atomically(workdir / 'config.json', configs.to_json(config))


def read_config(workdir: Path) -> ConfigDict:
    """The config of the run in a folder.

    Raises:
      InputError: if the folder holds no run.
    """
    path = workdir / 'config.json'
    if not is_run(workdir):
        what = 'is not a run (it has no config.json)' if workdir.is_dir() else 'does not exist'
        raise InputError(f'workdir {workdir} {what}; make one with `resnet-jax train`')
    try:
        return configs.from_json(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f'cannot read {path}: {error}') from error


def read_preprocessing(workdir: Path) -> Preprocessing:
    """The preprocessing that the run's model was trained with."""
    path = workdir / 'preprocessing.json'
    try:
        return Preprocessing.from_json(path.read_text())
    except OSError as error:
        raise InputError(f'cannot read {path}: {error}') from error
