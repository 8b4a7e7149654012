"""Takes 5 steps on 8 simulated devices in several placements; run by test_placement.py.

    python tests/placement_runs.py FOLDER

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
    'model.stage_sizes': '(1, 1)',
    'train.batch_size': '32',
    'train.steps': '5',
    'data.memory_mib': '1024',
    'augment.pad': '1',
    'augment.flip': 'True',
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
    'jit dropout': {'model.dropout': '0.3', 'model.stochastic_depth': '0.3'},
    'jit accumulate': {'optim.accumulate': '2', **NO_BATCH_NORM},
    'pmap accumulate': {'parallel.mode': 'pmap', 'optim.accumulate': '2', **NO_BATCH_NORM},
}


def take_steps(fields):
    """The run; its first state; the states after each step; entries of the optimiser's state on the
    first device; sums of figures. Arrays are NumPy's.
    """
    import jax
    import numpy as np
    from running import tiny

    from resnet_jax.training import metrics
    from resnet_jax.training.inputs import open_inputs
    from resnet_jax.training.run import build_run

    config = tiny({**FIELDS, **fields})
    run = build_run(config, open_inputs(config))
    place = run.placement
    arrays = place.put_whole(run.inputs.arrays)
    totals = place.put_whole({name: np.zeros((), np.float32) for name in metrics.SUMS})
    state = place.put_state(run.init_state())
    first, states = jax.device_get(state), []
    held = sum(x.addressable_shards[0].data.size for x in jax.tree.leaves(state.opt_state))
    for batch in run.inputs.train_batches(0, config.train.steps):
        batches = place.put_train_batches({name: x[None] for name, x in batch.items()})
        state, totals = run.train_step(run.seed, state, totals, arrays, batches)
        states.append(jax.device_get(state))
    return run, first, states, held, jax.device_get(totals)


def main() -> None:
    os.environ['XLA_FLAGS'] = (
        f'--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0'
    )
    import jax

    folder, kept = pathlib.Path(sys.argv[1]), {}
    assert jax.device_count() == DEVICES
    for name, fields in RUNS.items():
        run, _, states, held, totals = take_steps(fields)
        assert run.placement.devices == DEVICES
        kept[name] = held
        (folder / f'{name}.pkl').write_bytes(pickle.dumps((states[0], states[-1], totals)))
    (folder / 'held.json').write_text(json.dumps(kept))


if __name__ == '__main__':
    main()
