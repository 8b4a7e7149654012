"""What a training step costs, and what the pipeline around the model adds to it.

Two programs in turn, in one process, on the same synthetic images: `pipeline` is the step that
`resnet-jax train` runs (batch gathered from the data on the device, normalised, cropped, flipped;
forward, backward, update; running sums of the figures), `bare` only forward, backward and update on
floats that are ready. Figures are medians over the repetitions.

    python benchmarks/train_step.py --model cifar_resnet20 --batch-size 128
"""

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from resnet_jax.training import config as configs
from resnet_jax.training import loop, metrics
from resnet_jax.training.inputs import open_inputs
from resnet_jax.training.workdir import build_model

DEFAULT_CONFIG = Path(__file__).parent.parent / 'configs' / 'default.py'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='cifar_resnet20')
    parser.add_argument('--batch-size', type=int, default=128)
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--steps', type=int, default=5, help='steps in a repetition')
    parser.add_argument('--repetitions', type=int, default=7)
    parser.add_argument('--json', type=Path, help='also write the figures to this file')
    options = parser.parse_args()

    overrides = {
        'model.name': options.model,
        'model.dtype': options.dtype,
        'data.name': 'synthetic',
        'train.batch_size': str(options.batch_size),
    }
    config = configs.load_config(str(DEFAULT_CONFIG), list(overrides.items()))
    inputs = open_inputs(config)
    programs = {'pipeline': pipeline(config, inputs), 'bare': bare(config, inputs)}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for program in programs.values():
        program(2)  # compile and warm up
    for _ in range(options.repetitions):
        for name, program in programs.items():  # in turn, so that drift hits all alike
            start = time.perf_counter()
            program(options.steps)
            seconds[name].append((time.perf_counter() - start) / options.steps)

    result = {
        'command': ' '.join(['python', 'benchmarks/train_step.py', *sys.argv[1:]]),
        'device': jax.devices()[0].device_kind,
        'machine': platform.machine(),
        'jax': jax.__version__,
        'images_per_second': {
            name: round(options.batch_size / statistics.median(s), 1) for name, s in seconds.items()
        },
        'seconds': {
            name: {'min': min(s), 'median': statistics.median(s), 'max': max(s)}
            for name, s in seconds.items()
        },
    }
    print(f'{options.model}, batch {options.batch_size}, {options.dtype}, {result["device"]}')
    print(f'{"program":<10}{"ms, median":>12}{"min":>9}{"max":>9}{"images/s":>11}')
    for name, s in result['seconds'].items():
        print(
            f'{name:<10}{1e3 * s["median"]:>12.1f}{1e3 * s["min"]:>9.1f}{1e3 * s["max"]:>9.1f}'
            f'{result["images_per_second"][name]:>11.0f}'
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + '\n')


def pipeline(config, inputs):
    """`resnet-jax train`'s own step; returns a function that takes n steps and waits."""
    run = loop.build_run(config, inputs)
    arrays = jax.device_put(inputs.arrays)
    zeros = {name: np.zeros((), np.float32) for name in metrics.SUMS}
    carry = [run.init_state(), zeros]
    batches = inputs.train_batches(0, 10**9)

    def steps(n):
        for _ in range(n):
            carry[:] = run.train_step(*carry, arrays, next(batches))
        jax.block_until_ready(carry)

    return steps


def bare(config, inputs):
    """Model, loss, gradient and update alone."""
    model = build_model(config.model, len(inputs.train.class_names))
    optimizer = optax.chain(
        optax.add_decayed_weights(config.optim.weight_decay),
        optax.sgd(config.optim.learning_rate, momentum=config.optim.momentum),
    )
    images = inputs.preprocessing.normalize(inputs.arrays['image'][: config.train.batch_size])
    labels = jnp.asarray(inputs.arrays['label'][: config.train.batch_size])
    variables = model.init(jax.random.key(0), images[:1], train=False)

    def loss_fn(params, batch_stats):
        variables = {'params': params, 'batch_stats': batch_stats}
        logits, updates = model.apply(variables, images, train=True, mutable=['batch_stats'])
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, updates['batch_stats']

    def step(params, batch_stats, opt_state):
        grads, batch_stats = jax.grad(loss_fn, has_aux=True)(params, batch_stats)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), batch_stats, opt_state

    compiled = jax.jit(step, donate_argnums=(0, 1, 2))
    params = variables['params']
    carry = [params, variables['batch_stats'], optimizer.init(params)]

    def steps(n):
        for _ in range(n):
            carry[:] = compiled(*carry)
        jax.block_until_ready(carry)

    return steps


if __name__ == '__main__':
    main()
