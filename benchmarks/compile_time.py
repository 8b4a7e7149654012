"""Compile time and step time of deep nets, with blocks looped and scanned.

One training step (forward, backward, update) of the same weights in both layouts, in one process.
Compile time is from the traced function to the executable, tracing included; step times are medians
of repetitions taken in turn.

    python benchmarks/compile_time.py --model cifar_resnet110 --batch-size 32
    python benchmarks/compile_time.py --model cifar_preact_resnet1001 --batch-size 4
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from resnet_jax import create_model
from resnet_jax.models.registry import model_row
from resnet_jax.models.stages import unstack_blocks


def training_step(model, optimizer, images, labels):
    """(variables, opt_state) -> (variables, opt_state, loss)."""

    def step(variables, opt_state):
        def loss_fn(params):
            logits, new = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables['params'])
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(variables['params'], updates)
        return {'params': params, **new}, opt_state, loss

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='cifar_resnet110')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--repetitions', type=int, default=5)
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    options = parser.parse_args()

    size = model_row(options.model).image_size
    images = jax.random.normal(jax.random.key(0), (options.batch_size, size, size, 3))
    labels = jnp.arange(options.batch_size) % 10
    optimizer = optax.sgd(0.1, momentum=0.9)
    stacked = None
    compiled, states, result = {}, {}, {}
    for kind in ('scanned', 'looped'):
        model = create_model(options.model, scan_blocks=kind == 'scanned')
        if stacked is None:
            stacked = jax.jit(model.init, static_argnames='train')(
                jax.random.key(1), images[:1], train=False
            )
        variables = stacked if kind == 'scanned' else unstack_blocks(stacked)
        states[kind] = (variables, optimizer.init(variables['params']))
        start = time.perf_counter()
        step = jax.jit(training_step(model, optimizer, images, labels))
        compiled[kind] = step.lower(*states[kind]).compile()
        result[kind] = {'compile_seconds': time.perf_counter() - start}
        result[kind]['loss'] = float(compiled[kind](*states[kind])[2])  # also warms up
    seconds: dict[str, list[float]] = {kind: [] for kind in compiled}
    for _ in range(options.repetitions):
        for kind, step in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(step(*states[kind]))
            seconds[kind].append(time.perf_counter() - start)

    print(f'{options.model}, batch {options.batch_size}, {jax.devices()[0].device_kind}')
    print(f'{"blocks":<9}{"compile, s":>11}{"step, ms":>10}{"min":>9}{"max":>9}{"loss":>10}')
    for kind, times in seconds.items():
        result[kind] |= {'step_seconds': statistics.median(times), 'all_step_seconds': times}
        print(
            f'{kind:<9}{result[kind]["compile_seconds"]:>11.1f}'
            f'{1e3 * statistics.median(times):>10.0f}{1e3 * min(times):>9.0f}'
            f'{1e3 * max(times):>9.0f}{result[kind]["loss"]:>10.5f}'
        )
    for figure in ('compile_seconds', 'step_seconds'):
        ratio = result['scanned'][figure] / result['looped'][figure]
        result[f'scanned_over_looped_{figure}'] = ratio
        print(f'{figure}: scanned / looped = {ratio:.2f}')
    if options.json:
        result |= {
            'command': ' '.join(['python', 'benchmarks/compile_time.py', *sys.argv[1:]]),
            'device': jax.devices()[0].device_kind,
            'jax': jax.__version__,
        }
        options.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
    main()
