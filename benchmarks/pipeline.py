"""Our own training step as `resnet-jax train` takes it, as a function of n steps."""

import dataclasses
import operator

import harness
from cases import Case, Program

CONFIG = harness.ROOT / 'configs' / 'default.py'
CIFAR_IMAGES = 50_000


def ours(case: Case, mode: str) -> Program:
    """The step of `resnet-jax train`, batch gathering and figures included; no crops, no flips."""
    return _pipeline(case, mode, {'augment.transforms': ''})


def ours_augmented(case: Case, mode: str) -> Program:
    """The same with random crops and flips, as configs/default.py has them."""
    return _pipeline(case, mode, {})


def ours_on_cifar(case: Case, mode: str) -> Program:
    """The same on as many images as CIFAR has for training, which lie on the device."""
    return _pipeline(case, mode, {}, images=CIFAR_IMAGES)


def our_detector(case: Case, mode: str) -> Program:
    """The step of a detector, on scenes of digits, enlarged."""
    fields = {
        'task': 'detection',
        'loss.name': 'focal',
        'loss.alpha': '0.25',
        'data.name': 'digits_scenes',
        'data.train_split': f'train[:{case.batch}]',
        'data.eval_split': 'test[:1]',
        'checkpoint.best': 'ap',
        'optim.learning_rate': '0.001',
        'augment.transforms': '',
    }
    return _pipeline(case, mode, fields, images=case.batch)


def _pipeline(case: Case, mode: str, fields: dict[str, str], images: int = 1024) -> Program:
    import jax
    import numpy as np

    from resnet_jax.experiments import seeds
    from resnet_jax.models.counting import count_parameters
    from resnet_jax.training import config as configs
    from resnet_jax.training.build import build_run, stack
    from resnet_jax.training.inputs import open_inputs
    from resnet_jax.training.tasks import TASKS

    assert mode == 'train', 'in inference ours is the bare model'
    several = case.seeds > 1
    overrides = {
        'model.name': case.model,
        'model.dtype': case.dtype,
        'data.name': 'synthetic',
        'data.image_size': str(case.size),
        'train.batch_size': str(case.batch),
        'train.steps_per_dispatch': str(case.dispatch),
        **({name: str(value) for name, value in seeds.ONE_DEVICE.items()} if several else {}),
        **{f'model.{name}': str(value) for name, value in case.fields.items()},
        **fields,
    }
    inputs = open_inputs(configs.load_config(str(CONFIG), list(overrides.items())))
    inputs = dataclasses.replace(
        inputs,
        # The same images over and over.
        train=dataclasses.replace(inputs.train, parts=(('train', 0, 1),) * images),
        arrays={name: np.resize(a, (images, *a.shape[1:])) for name, a in inputs.arrays.items()},
    )
    run, task = build_run(inputs.config, inputs), TASKS[inputs.config.task]
    if several:
        program = seeds.together(run, case.seeds, devices=1)
        step, pack, put, put_whole = program.step, program.pack, program.pack, program.put_whole
        last = lambda totals: program.unpack(totals)[-1]  # noqa: E731
    else:
        step, put_whole, last = run.train_step, run.placement.put_whole, lambda totals: totals
        pack = operator.itemgetter(0)
        put = lambda batches: run.placement.put_train_batches(batches[0])  # noqa: E731
    runs = [
        run.reseeded(configs.changed(inputs.config, {'seed': seed})) for seed in range(case.seeds)
    ]
    seed = pack([one.seed for one in runs])
    arrays = put_whole(inputs.arrays)
    states = [one.placement.put_state(one.init_state()) for one in runs]
    parameters = count_parameters(states[0].params)
    carry = [pack(states), pack([one.no_totals() for one in runs])]
    streams = [one.inputs.train_batches(0, 10**9) for one in runs]

    def steps(n: int) -> float:
        for _ in range(n // case.dispatch):
            batches = [[next(stream) for _ in range(case.dispatch)] for stream in streams]
            placed = put([stack(some) for some in batches])
            carry[:] = step(seed, *carry, arrays, placed)
        sums = jax.device_get(last(carry[1]))
        return task.train_figures(sums)['loss']

    return Program(parameters, steps)
