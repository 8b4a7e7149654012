"""Peak memory and time of a training step, against batch size, with and without rematerialisation.

`compiled` is what the compiler plans: arguments (parameters, momentum, statistics, images), results
and temporaries (activations and gradients), memory that they share counted once. `device` is what
the device counted while the steps ran; a CPU does not count. `step` is the median of a few. Each
row is its own process.

    python benchmarks/memory.py
    python benchmarks/memory.py --cases resnet50:64:224 resnet50:256:224 --dtype bfloat16
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import harness
from programs import linen_functions, sgd, training_step

CASES = tuple(
    f'{model}:{batch}:{size}'
    for model, size, batches in (
        ('cifar_resnet20', 32, (32, 128, 512)),
        ('resnet18', 64, (8, 32, 128)),
    )
    for batch in batches
)
TIMED = 5  # steps, after one that is not


def measure(model: str, batch: int, size: int, dtype: str, remat: bool) -> dict[str, Any]:
    """Figures of one step, in this process."""
    import jax
    import jax.numpy as jnp

    from resnet_jax import create_model
    from resnet_jax.training import memory
    from resnet_jax.training.compilation import jit

    fields = {'remat': True} if remat else {}
    init, apply = linen_functions(create_model(model, 10, jnp.dtype(dtype), **fields))
    optimizer = sgd()

    def start(images):
        params, stats = init(images)
        return params, stats, optimizer.init(params)

    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    step = jit(training_step(apply, optimizer), donate_argnums=(0, 1, 2))
    began = time.perf_counter()
    compiled = step.lower(*jax.eval_shape(start, images), images, labels).compile()
    seconds = time.perf_counter() - began
    plan = compiled.memory_analysis()
    figures = {
        'compile_seconds': seconds,
        'compiled_bytes': memory.compiled_bytes(compiled),
        'argument_bytes': plan and plan.argument_size_in_bytes,
        'temporary_bytes': plan and plan.temp_size_in_bytes,
        'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    }
    arrays = jnp.zeros(images.shape), jnp.zeros(labels.shape, labels.dtype)
    carry = jit(start)(arrays[0])
    times = []
    for _ in range(1 + TIMED):
        began = time.perf_counter()
        *carry, loss = compiled(*carry, *arrays)
        loss.block_until_ready()
        times.append(time.perf_counter() - began)
    return {
        **figures,
        'device_peak_bytes': memory.device_peak_bytes(),
        'step_seconds': statistics.median(times[1:]),
        'all_step_seconds': times[1:],
    }


def mebibytes(size: int | None) -> str:
    """For a table."""
    return '-' if size is None else f'{size / 2**20:.0f}'


def in_process(case: str, dtype: str, remat: bool) -> dict[str, Any]:
    """`measure` in a process of its own; {'error'} where it ends badly, as out of memory."""
    arguments = ['--one', json.dumps([*parse(case), dtype, remat])]
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=False, capture_output=True, text=True
    )
    if done.returncode:
        return {'error': (done.stderr.strip().splitlines() or ['it was killed'])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def parse(case: str) -> tuple[str, int, int]:
    """(model, batch, size) of MODEL:BATCH:SIZE."""
    model, batch, size = case.split(':')
    return model, int(batch), int(size)


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument('--cases', nargs='+', default=CASES, metavar='MODEL:BATCH:SIZE')
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--one', type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one)))
        return
    widths = [22, 9, 17, 16, 15, 13, 12, 10]
    header = ['case', 'remat', 'arguments, MiB', 'temporary, MiB', 'compiled, MiB']
    print(f'a training step, {options.dtype}')
    print(harness.line([*header, 'device, MiB', 'compile, s', 'step, ms'], widths))
    found: dict[str, Any] = {}
    device = None
    for case in options.cases:
        for remat in (False, True):
            figures = in_process(case, options.dtype, remat)
            found[f'{case}{" remat" if remat else ""}'] = figures
            if 'error' in figures:
                print(f'{case}{" remat" if remat else ""}: {figures["error"]}', flush=True)
                continue
            device = figures['device']
            sizes = ('argument_bytes', 'temporary_bytes', 'compiled_bytes', 'device_peak_bytes')
            cells = [mebibytes(figures[name]) for name in sizes]
            seconds = f'{figures["compile_seconds"]:.1f}'
            step = f'{1000 * figures["step_seconds"]:.0f}'
            row = [case, 'yes' if remat else 'no', *cells, seconds, step]
            print(harness.line(row, widths), flush=True)
    print('with rematerialisation over without:')
    for case in options.cases:
        pair = [found[name] for name in (f'{case} remat', case)]
        if all(figures.get('compiled_bytes') for figures in pair):
            memory, seconds = (pair[0][k] / pair[1][k] for k in ('compiled_bytes', 'step_seconds'))
            print(f'  {case}: memory {memory:.2f}, time {seconds:.2f}')
    harness.write_json(options.json, {'dtype': options.dtype, 'figures': found}, device)


if __name__ == '__main__':
    main()
