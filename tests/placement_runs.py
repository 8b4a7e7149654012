"""Takes 5 steps on 8 simulated devices in several placements; run by test_placement.py.

    python tests/placement_runs.py FOLDER        # QUICK
    python tests/placement_runs.py FOLDER rest   # the other RUNS

or, as one of several processes with 2 devices each,

    python tests/placement_runs.py FOLDER HOST:PORT PROCESSES ID

or, for test_seeds.py,

    python tests/placement_runs.py FOLDER seeds

writes FOLDER/NAME.pkl, the state after the first and the last step as NumPy arrays, and
FOLDER/held.json, how much of the optimiser's state the first device keeps.
"""

import json
import os
import pathlib
import pickle
import sys

DEVICES = 8
FIELDS = {
    'model.width': '8',
    'train.batch_size': '32',
    'train.steps': '5',
    'data.memory_mib': '1024',
    'augment.transforms': 'pad_crop(pad=1),flip,mixup_or_cutmix',
}
PER_REPLICA = {'parallel.batch_norm': 'per_replica'}
GROUPS = {'parallel.batch_norm': 'groups:2'}
NO_BATCH_NORM = {'model.norm': 'group', 'model.norm_groups': '2'}
# name -> what differs from FIELDS
RUNS = {
    **{mode: {'parallel.mode': mode} for mode in ('jit', 'shard_map', 'pmap')},
    **{
        f'{mode} per replica': {'parallel.mode': mode, **PER_REPLICA}
        for mode in ('jit', 'shard_map', 'pmap')
    },
    'jit groups': GROUPS,
    'shard_map groups': {'parallel.mode': 'shard_map', **GROUPS},
    'jit sharded optimizer': {'parallel.shard_optimizer': 'True'},
    'shard_map steps at once': {'parallel.mode': 'shard_map', 'train.steps_per_dispatch': '3'},
    'jit dropout': {'model.dropout': '0.3', 'model.stochastic_depth': '0.3'},
    'jit accumulate': {'optim.accumulate': '2', **NO_BATCH_NORM},
    'pmap accumulate': {'parallel.mode': 'pmap', 'optim.accumulate': '2', **NO_BATCH_NORM},
}
# Those that `make test` has time for.
QUICK = ('jit', 'shard_map', 'pmap', 'jit sharded optimizer', 'shard_map per replica')
# Those that 2 processes with 2 devices make too.
IN_PROCESSES = (
    'jit',
    'shard_map',
    'pmap',
    'jit sharded optimizer',
)


def take_steps(fields):
    """The run; its first state; the states after each step; entries of the optimiser's state on the
    first device; sums of figures. Arrays are NumPy's.
    """
    import jax
    import numpy as np
    from running import tiny

    from resnet_jax.training.build import build_run
    from resnet_jax.training.inputs import open_inputs

    config = tiny({**FIELDS, **fields})
    run = build_run(config, open_inputs(config))
    place = run.placement
    arrays = place.put_whole(run.inputs.arrays)
    totals = run.no_totals()
    state = place.put_state(run.init_state())
    first, states = gathered(state), []
    held = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(state.opt_state))
    left = list(run.inputs.train_batches(0, config.train.steps))
    while left:
        count = run.steps_per_dispatch if run.steps_per_dispatch <= len(left) else 1
        taken, left = left[:count], left[count:]
        batches = {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}
        placed = place.put_train_batches(batches)
        state, totals = run.train_step(run.seed, state, totals, arrays, placed)
        states.append(gathered(state))
    return run, first, states, held, jax.device_get(totals)


def seeds_on_devices(folder):
    """The runs of test_seeds.py, one on each device, and two on one."""
    from running import tiny
    from seed_runs import FIELDS, SEEDS, folders_in

    from resnet_jax.experiments import seeds

    # 3 runs on 3 devices; 10 on 5, which is as many of 8 as divide them.
    for name, number in (('one on each', SEEDS), ('two on each', (*SEEDS, *range(20, 27)))):
        here = folder / name
        folders = [*folders_in(here), *(here / str(i) for i in range(len(number) - len(SEEDS)))]
        found = seeds.train_seeds(tiny(FIELDS), number, folders, 'devices')
        assert all(summary['trained_together'] == len(number) for summary in found)


def gathered(tree):
    """All of the arrays, also the parts that other processes hold."""
    import jax
    from jax.experimental import multihost_utils

    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def main() -> None:
    folder, *place = sys.argv[1:]
    folder, kept = pathlib.Path(folder), {}
    what, place = (place[0], []) if len(place) == 1 else ('', place)
    count = 2 if place else DEVICES
    flags = f'--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {flags}'
    import jax

    from resnet_jax.training import processes

    if place:
        processes.join(place[0], *map(int, place[1:]))
    rest = [name for name in RUNS if name not in QUICK]
    names = {'seeds': (), 'rest': rest, '': IN_PROCESSES if place else QUICK}[what]
    for name in names:
        run, _, states, held, totals = take_steps(RUNS[name])
        assert run.placement.devices == jax.device_count() == count * jax.process_count()
        kept[name] = held
        if processes.is_first():
            (folder / f'{name}.pkl').write_bytes(pickle.dumps((states[0], states[-1], totals)))
    if what == 'seeds':
        seeds_on_devices(folder)
    if processes.is_first():
        (folder / 'held.json').write_text(json.dumps(kept))


if __name__ == '__main__':
    main()
