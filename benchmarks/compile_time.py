"""Compile time and step time of deep nets, with blocks looped and scanned.

One training step (forward, backward, update) of the same weights in both layouts, in one process.
Compile time is from the traced function to the executable, tracing included; step times are medians
of repetitions taken in turn.

    python benchmarks/compile_time.py --model cifar_resnet110 --batch-size 32
    python benchmarks/compile_time.py --model cifar_preact_resnet1001 --batch-size 4
"""

import time
from typing import Any

import harness
import jax
import jax.numpy as jnp
from programs import linen_functions, sgd, training_step

from resnet_jax import create_model
from resnet_jax.models.registry import model_row
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.training.compilation import jit


def main() -> None:
    parser = harness.parser(__doc__, repetitions=5)
    parser.add_argument('--model', default='cifar_resnet110')
    parser.add_argument('--batch-size', type=int, default=32)
    options = parser.parse_args()

    size = model_row(options.model).image_size
    images = jax.random.normal(jax.random.key(0), (options.batch_size, size, size, 3))
    labels = jnp.arange(options.batch_size) % 10
    compiled, states, result = compile_both(options.model, images, labels)
    programs = {
        kind: lambda kind=kind: jax.block_until_ready(compiled[kind](*states[kind], images, labels))
        for kind in compiled
    }
    for kind, times in harness.interleaved(programs, options.repetitions).items():
        result[kind]['step_seconds'] = harness.spread(times)

    print(f'{options.model}, batch {options.batch_size}, {jax.devices()[0].device_kind}')
    rows = [
        [
            kind,
            f'{found["compile_seconds"]:.1f}',
            *(f'{1e3 * found["step_seconds"][k]:.0f}' for k in ('median', 'min', 'max')),
            f'{found["loss"]:.5f}',
        ]
        for kind, found in result.items()
    ]
    print(harness.table(['blocks', 'compile, s', 'step, ms', 'min', 'max', 'loss'], rows))
    figures: dict[str, Any] = {'model': options.model, 'batch_size': options.batch_size, **result}
    for name, of in (
        ('compile_seconds', lambda found: found['compile_seconds']),
        ('step_seconds', lambda found: found['step_seconds']['median']),
    ):
        ratio = of(result['scanned']) / of(result['looped'])
        figures[f'scanned_over_looped_{name}'] = ratio
        print(f'{name}: scanned / looped = {ratio:.2f}')
    harness.write_json(options.json, figures)


def compile_both(name: str, images: jax.Array, labels: jax.Array) -> tuple[Any, Any, Any]:
    """The step, its arguments and its figures, each {'scanned', 'looped'}, of the same weights."""
    optimizer = sgd()
    compiled, states, result = {}, {}, {}
    stacked = None
    for kind in ('scanned', 'looped'):
        init, apply = linen_functions(create_model(name, scan_blocks=kind == 'scanned'))
        if stacked is None:
            params, stats = jax.jit(init)(images)
            stacked = {'params': params, 'batch_stats': stats}
        variables = stacked if kind == 'scanned' else unstack_blocks(stacked)
        params = variables['params']
        states[kind] = (params, variables['batch_stats'], optimizer.init(params))
        start = time.perf_counter()
        step = jit(training_step(apply, optimizer))  # as `resnet-jax train` compiles
        compiled[kind] = step.lower(*states[kind], images, labels).compile()
        result[kind] = {'compile_seconds': time.perf_counter() - start}
        # Also warms up.
        result[kind]['loss'] = float(compiled[kind](*states[kind], images, labels)[3])
    return compiled, states, result


if __name__ == '__main__':
    main()
