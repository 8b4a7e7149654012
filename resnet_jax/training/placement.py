"""Where a step runs: on how many devices, and in which of JAX's ways.

One step function serves all. Under `jit` it sees the whole batch and the compiler divides the work;
under `shard_map` and `pmap` it sees one device's share and an axis name. State and batch are the
same arrays in all three, so a checkpoint of one continues in another.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from resnet_jax.models.errors import InputError, unknown_name
from resnet_jax.training.compilation import compiler_options

AXIS = 'data'
MODES = ('jit', 'shard_map', 'pmap')
BATCH_NORMS = ('synced', 'per_replica', 'groups:N')
_WHOLE, _SHARE = PartitionSpec(), PartitionSpec(AXIS)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Devices, and how a step is put on them.

    Attributes:
      mode: one of `MODES`.
      mesh: the devices, one axis named `AXIS`.
      batch_norm: 'synced': statistics of the whole batch; 'per_replica': of each device's share;
        'groups:N': of N consecutive examples. All the same in every mode.
      shard_optimizer: whether each device keeps only its part of the optimiser's state (ZeRO, arXiv
        1910.02054, stage 1).
    """

    mode: str
    mesh: Mesh
    batch_norm: str
    shard_optimizer: bool

    @property
    def devices(self) -> int:
        """How many."""
        return self.mesh.size

    @property
    def axis(self) -> str | None:
        """Name of the axis that a step reduces over; None where it sees the whole batch."""
        return None if self.mode == 'jit' else AXIS

    def norm_fields(self, batch_size: int) -> dict[str, Any]:
        """Fields of the model that give batch norm the statistics asked for."""
        kind, _, group = self.batch_norm.partition(':')
        if kind == 'groups':
            return {'ghost_batch': int(group)}
        if self.devices == 1:
            return {}
        if self.mode == 'jit':
            share = batch_size // self.devices
            return {'ghost_batch': share} if kind == 'per_replica' else {}
        return {'bn_axis_name': AXIS} if kind == 'synced' else {}

    def state_sharding(self, state: Any) -> Any:
        """A tree like a training state: where each array lives."""
        whole = NamedSharding(self.mesh, _WHOLE)
        shardings = jax.tree.map(lambda _: whole, state)
        if self.shard_optimizer:
            part = jax.tree.map(self._part, state.opt_state)
            shardings = shardings.replace(opt_state=part)
        return shardings

    def _part(self, x: Any) -> NamedSharding:
        """Divides an array along its last dimension that the devices divide, if there is one."""
        dims = [i for i, size in enumerate(x.shape) if size and size % self.devices == 0]
        spec = PartitionSpec(
            *(AXIS if i == dims[-1] else None for i in range(x.ndim)) if dims else ()
        )
        return NamedSharding(self.mesh, spec)

    def template(self, state: Any) -> Any:
        """The shapes of a state, with where each array lives, for a checkpoint to be read into."""
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            state,
            self.state_sharding(state),
        )

    def put_state(self, state: Any) -> Any:
        """A state on the devices."""
        return jax.device_put(state, self.state_sharding(state))

    def put_whole(self, tree: Any) -> Any:
        """Arrays that every device holds whole."""
        return jax.device_put(tree, NamedSharding(self.mesh, _WHOLE))

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> Any:
        """A batch of the whole, divided over the devices."""
        return jax.device_put(dict(batch), NamedSharding(self.mesh, _SHARE))

    def put_train_batch(self, batch: Mapping[str, np.ndarray]) -> Any:
        """The same as the compiled step takes it: pmap wants the devices as a first dimension."""
        if self.mode == 'pmap':
            batch = {name: x.reshape(self.devices, -1, *x.shape[1:]) for name, x in batch.items()}
        return self.put_batch(batch)

    def compile(self, step: Callable[..., Any], template: Any) -> Any:
        """Makes the step run on the devices.

        Args:
          step: (state, totals, arrays, batch) -> (state, totals), reducing over `axis`.
          template: of the state.

        Returns:
          The same function of what `put_state`, `put_whole` and `put_train_batch` give; state and
          totals are donated.
        """
        if self.mode == 'pmap':
            axes = (None, None, None, 0)
            return jax.pmap(
                step, axis_name=AXIS, in_axes=axes, out_axes=(None, None), donate_argnums=(0, 1)
            )
        if self.mode == 'shard_map':
            # Unchecked, as under pmap: gradients are each device's own until the step sums them.
            step = jax.shard_map(
                step,
                mesh=self.mesh,
                in_specs=(_WHOLE, _WHOLE, _WHOLE, _SHARE),
                out_specs=(_WHOLE, _WHOLE),
                check_vma=False,
            )
        return jax.jit(
            step,
            donate_argnums=(0, 1),
            out_shardings=(self.state_sharding(template), NamedSharding(self.mesh, _WHOLE)),
            compiler_options=compiler_options(),
        )


def make_placement(settings: ConfigDict, batch_size: int, pieces: int = 1) -> Placement:
    """The placement that config.parallel describes.

    Args:
      settings: config.parallel.
      batch_size: examples in a training batch, over all devices.
      pieces: parts that the batch is taken in, one after another (config.optim.accumulate).

    Raises:
      InputError: for an unknown name, or a batch that cannot be divided.
    """
    if settings.mode not in MODES:
        raise unknown_name('parallel.mode', settings.mode, MODES)
    kind, _, group = settings.batch_norm.partition(':')
    if settings.batch_norm not in BATCH_NORMS[:2] and not (kind == 'groups' and group.isdigit()):
        raise unknown_name('parallel.batch_norm', settings.batch_norm, BATCH_NORMS)
    found = jax.devices()
    count = len(found) if settings.devices is None else settings.devices
    if not 1 <= count <= len(found):
        raise InputError(f'parallel.devices is {count}; there are {len(found)} devices here')
    if batch_size % count:
        raise InputError(
            f'train.batch_size {batch_size} cannot be divided over {count} devices; change it, or '
            'set parallel.devices'
        )
    if settings.shard_optimizer and settings.mode != 'jit':
        raise InputError('parallel.shard_optimizer goes with parallel.mode=jit only')
    if batch_size % (count * pieces):
        raise InputError(
            f'optim.accumulate={pieces} does not divide the share of each of {count} devices in '
            f'train.batch_size {batch_size}'
        )
    share = batch_size // pieces // (1 if settings.mode == 'jit' else count)
    if kind == 'groups' and (int(group) < 1 or share % int(group)):
        raise InputError(
            f'parallel.batch_norm={settings.batch_norm} does not divide the {share} examples that '
            'are normalised together'
        )
    mesh = jax.make_mesh((count,), (AXIS,), axis_types=(AxisType.Auto,), devices=found[:count])
    return Placement(settings.mode, mesh, settings.batch_norm, settings.shard_optimizer)
