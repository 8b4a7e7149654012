"""Placement of a step: on which devices, and by jit, shard_map or pmap.

One step function serves all. Under `jit` it sees the whole batch and the compiler divides the work;
under `shard_map` and `pmap` it sees one device's share and an axis name. State and batch are the
same arrays in all three, so a checkpoint of one continues in another. The devices may belong to
several processes; then each process gives its share of a batch, and all give the whole of the rest.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from resnet_jax.errors import InputError, unknown_name
from resnet_jax.training.compilation import compiler_options

AXIS = 'data'
MODES = ('jit', 'shard_map', 'pmap')
BATCH_NORMS = ('synced', 'per_replica', 'groups:N')
_WHOLE, _SHARE = PartitionSpec(), PartitionSpec(AXIS)
_SHARES = PartitionSpec(None, AXIS)  # of batches for several steps


@dataclasses.dataclass(frozen=True)
class Placement:
    """Devices, and how a step is placed on them.

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
        """Number of devices, over all processes."""
        return self.mesh.size

    @property
    def axis(self) -> str | None:
        """Name of the axis that a step reduces over; None where it sees the whole batch."""
        return None if self.mode == 'jit' else AXIS

    def norm_fields(self, batch_size: int) -> dict[str, Any]:
        """Model fields that give batch norm the statistics of `batch_norm`."""
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
        """A tree like a training state: the sharding of each array."""
        shardings = jax.tree.map(lambda _: self.everywhere, state)
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
        """The shapes and shardings of a state, to restore a checkpoint into."""
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            state,
            self.state_sharding(state),
        )

    def put_state(self, state: Any) -> Any:
        """A state on the devices."""
        return _put(state, self.state_sharding(state))

    def put_whole(self, tree: Any) -> Any:
        """Arrays that every device holds whole."""
        return _put(tree, jax.tree.map(lambda _: self.everywhere, tree))

    @property
    def everywhere(self) -> NamedSharding:
        """The sharding of an array that every device holds whole."""
        return NamedSharding(self.mesh, _WHOLE)

    def put_batch(self, batch: Mapping[str, np.ndarray]) -> Any:
        """A batch divided over the devices, of which this process gives its share."""
        return _put_shares(batch, NamedSharding(self.mesh, _SHARE))

    def put_train_batches(self, batches: Mapping[str, np.ndarray]) -> Any:
        """The batches [steps, share, ...] of some steps, as the compiled step takes them.

        pmap wants the devices of this process as the first dimension.
        """
        if self.mode == 'jit' and self.devices == 1 and jax.default_backend() == 'cpu':
            # The call itself takes NumPy's arrays faster than `device_put` does: 0.5 ms less of the
            # host's time a step, of series that take 6 in all (jax 0.10.1, 2 cores).
            return dict(batches)
        if self.mode != 'pmap':
            return _put_shares(batches, NamedSharding(self.mesh, _SHARES))
        here = self.mesh.local_mesh
        parts = {
            name: x.reshape(len(x), here.size, -1, *x.shape[2:]).swapaxes(0, 1)
            for name, x in batches.items()
        }
        return jax.device_put(parts, NamedSharding(here, _SHARE))

    def compile(self, step: Callable[..., Any], template: Any, level: int | None = None) -> Any:
        """Compiles a step for the devices.

        Args:
          step: (seed, state, totals, arrays, batches) -> (state, totals), reducing over `axis`.
          template: of the state.
          level: XLA's optimisation level; None leaves its own. `jax.pmap` cannot set it.

        Returns:
          The same function of what `put_state`, `put_whole` and `put_train_batches` give; state and
          totals are donated.
        """
        if self.mode == 'pmap':
            mapped = jax.pmap(
                step,
                axis_name=AXIS,
                in_axes=(None, None, None, None, 0),
                out_axes=(None, None),
                donate_argnums=(1, 2),
            )
            return mapped if jax.process_count() == 1 else self._global(mapped)
        if self.mode == 'shard_map':
            # Unchecked, as under pmap: gradients are each device's own until the step sums them.
            step = jax.shard_map(
                step,
                mesh=self.mesh,
                in_specs=(_WHOLE, _WHOLE, _WHOLE, _WHOLE, _SHARES),
                out_specs=(_WHOLE, _WHOLE),
                check_vma=False,
            )
        return jax.jit(
            step,
            donate_argnums=(1, 2),
            out_shardings=(self.state_sharding(template), self.everywhere),
            compiler_options=compiler_options(level),
        )

    def _global(self, mapped: Callable[..., Any]) -> Callable[..., Any]:
        """Turns pmap's results, arrays of this process, into arrays of all processes."""

        def everywhere(x: jax.Array) -> jax.Array:
            parts = [part.data for part in x.addressable_shards]
            return jax.make_array_from_single_device_arrays(x.shape, self.everywhere, parts)

        return lambda *arguments: jax.tree.map(everywhere, mapped(*arguments))


def _put(tree: Any, shardings: Any) -> Any:
    """Arrays that this process, as every other, holds whole."""

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        held = np.asarray(x)
        return jax.make_array_from_callback(held.shape, sharding, lambda index: held[index])

    return jax.tree.map(put, tree, shardings)


def _put_shares(batch: Mapping[str, np.ndarray], sharding: NamedSharding) -> Any:
    """Arrays of which each process holds the share that its devices take, in their order."""
    return {name: jax.make_array_from_process_local_data(sharding, x) for name, x in batch.items()}


def check_batch_norm(name: str) -> None:
    """Refuses what is not one of `BATCH_NORMS`, N being a positive number.

    Raises:
      InputError: suggesting the nearest names.
    """
    kind, _, group = name.partition(':')
    if name not in BATCH_NORMS[:2] and not (kind == 'groups' and group.isdigit() and int(group)):
        raise unknown_name('parallel.batch_norm', name, BATCH_NORMS)


def make_placement(settings: ConfigDict, batch_size: int, pieces: int = 1) -> Placement:
    """The placement that config.parallel describes.

    Args:
      settings: config.parallel.
      batch_size: examples in a training batch, over all devices.
      pieces: parts that the batch is taken in, one after another (config.optim.accumulate).

    Raises:
      InputError: for an unknown name, or a batch that cannot be divided.
    """
    kind, _, group = settings.batch_norm.partition(':')
    found = jax.devices()
    count = len(found) if settings.devices is None else settings.devices
    if jax.process_count() > 1 and count != len(found):
        raise InputError(f'several processes use all {len(found)} devices; unset parallel.devices')
    if not 1 <= count <= len(found):
        raise InputError(f'parallel.devices is {count}; there are {len(found)} devices here')
    if batch_size % count:
        raise InputError(
            f'train.batch_size {batch_size} cannot be divided over {count} devices; change it, or '
            'set parallel.devices'
        )
    if batch_size % (count * pieces):
        raise InputError(
            f'optim.accumulate={pieces} does not divide the share of each of {count} devices in '
            f'train.batch_size {batch_size}'
        )
    share = batch_size // pieces // (1 if settings.mode == 'jit' else count)
    if kind == 'groups' and share % int(group):
        raise InputError(
            f'parallel.batch_norm={settings.batch_norm} does not divide the {share} examples that '
            'are normalised together'
        )
    # In JAX's order, process by process, so that a process's share of a batch is one piece of it.
    mesh = Mesh(np.asarray(found[:count]), (AXIS,), axis_types=(AxisType.Auto,))
    return Placement(settings.mode, mesh, settings.batch_norm, settings.shard_optimizer)
