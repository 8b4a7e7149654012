"""Training and inference of the same net by ours and by its peers, as functions of n steps."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import harness

CONFIG = harness.ROOT / 'configs' / 'default.py'
CIFAR_IMAGES = 50_000
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4


@dataclasses.dataclass(frozen=True)
class Case:
    """What is computed.

    Attributes:
      model: our name of the net.
      batch: images in a step.
      size: height and width of the images.
      classes: number of logits.
      dtype: of the computation; parameters are float32.
      fields: of our model that differ from its row; ours alone knows them.
      seeds: runs that are trained in one program; ours alone can.
      dispatch: steps in one call of the host; likewise.
    """

    model: str
    batch: int
    size: int
    classes: int = 10
    dtype: str = 'float32'
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    seeds: int = 1
    dispatch: int = 1


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program.

    Attributes:
      parameters: of the net.
      steps: takes n steps, a multiple of the case's dispatch, waits for them, and returns the last
        loss (0 in inference).
    """

    parameters: int
    steps: Callable[[int], float]


def ours(case: Case, mode: str) -> Program:
    """The step of `resnet-jax train`, batch gathering and figures included; no crops, no flips."""
    return _pipeline(case, mode, {'augment.pad': '0', 'augment.flip': 'False'})


def ours_augmented(case: Case, mode: str) -> Program:
    """The same with random crops and flips, as configs/default.py has them."""
    return _pipeline(case, mode, {})


def ours_on_cifar(case: Case, mode: str) -> Program:
    """The same on as many images as CIFAR has for training, which lie on the device."""
    return _pipeline(case, mode, {}, images=CIFAR_IMAGES)


def _pipeline(case: Case, mode: str, fields: dict[str, str], images: int = 1024) -> Program:
    import jax
    import numpy as np

    from resnet_jax.models.counting import count_parameters
    from resnet_jax.training import config as configs
    from resnet_jax.training import loop, metrics, seeds
    from resnet_jax.training.inputs import open_inputs
    from resnet_jax.training.run import build_run

    assert mode == 'train', 'in inference ours is the bare model'
    assert case.classes == 10, 'the synthetic images have 10 classes'
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
    run = build_run(inputs.config, inputs)
    stepper = seeds.together(run, case.seeds, devices=1) if several else loop.alone(run)
    runs = [
        run.reseeded(configs.changed(inputs.config, {'seed': seed})) for seed in range(case.seeds)
    ]
    seed = stepper.pack([one.seed for one in runs])
    arrays = stepper.put_whole(inputs.arrays)
    states = [one.placement.put_state(one.init_state()) for one in runs]
    parameters = count_parameters(states[0].params)
    carry = [stepper.pack(states), loop.no_totals(runs, stepper)]
    streams = [one.inputs.train_batches(0, 10**9) for one in runs]

    def steps(n: int) -> float:
        for _ in range(n // case.dispatch):
            batches = [[next(stream) for _ in range(case.dispatch)] for stream in streams]
            placed = stepper.put([loop.stacked(some) for some in batches])
            carry[:] = stepper.step(seed, *carry, arrays, placed)
        sums = jax.device_get(stepper.unpack(carry[1])[-1])
        return metrics.averages(sums)['loss']

    return Program(parameters, steps)


def bare(case: Case, mode: str) -> Program:
    """Our model in a plain step."""
    from resnet_jax import create_model
    from resnet_jax.training.compilation import compiler_options

    model = create_model(case.model, case.classes, case.dtype, **case.fields)
    return _jax(*linen_functions(model), case, mode, compiler_options())


def flax(case: Case, mode: str) -> Program:
    """The plain Flax net in the same plain step."""
    import peers
    from jax import numpy as jnp

    model = peers.flax_net(case.model, case.classes, jnp.dtype(case.dtype))
    return _jax(*linen_functions(model), case, mode, {})


def linen_functions(model: Any) -> tuple[Any, Any]:
    """(init, apply) of a Flax module, as `training_step` wants them.

    init: images -> (params, stats); apply: (params, stats, images, train) -> (logits, stats).
    """
    import jax

    def init(images):
        variables = model.init(jax.random.key(0), images[:1], train=False)
        return variables['params'], variables['batch_stats']

    def apply(params, stats, images, train):
        variables = {'params': params, 'batch_stats': stats}
        if not train:
            return model.apply(variables, images, train=False), stats
        logits, new = model.apply(variables, images, train=True, mutable=['batch_stats'])
        return logits, new['batch_stats']

    return init, apply


def haiku(case: Case, mode: str) -> Program:
    """dm-haiku's own net in the same plain step."""
    import jax
    import peers

    net = peers.haiku_net(case.model, case.classes)

    def init(images):
        return net.init(jax.random.key(0), images[:1], True)

    def apply(params, stats, images, train):
        return net.apply(params, stats, None, images, train)

    assert case.dtype == 'float32'
    return _jax(init, apply, case, mode, {})


def _jax(init: Any, apply: Any, case: Case, mode: str, options: dict[str, str]) -> Program:
    import jax
    import jax.numpy as jnp

    shape = (case.batch, case.size, case.size, 3)
    images = jax.random.normal(jax.random.key(1), shape)
    labels = jnp.arange(case.batch) % case.classes
    params, stats = jax.jit(init)(images)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    if mode == 'infer':
        infer = jax.jit(lambda p, s, x: apply(p, s, x, False)[0], compiler_options=options)

        def inferring(n: int) -> float:
            for _ in range(n):
                logits = infer(params, stats, images)
            jax.block_until_ready(logits)
            return 0.0

        return Program(parameters, inferring)
    optimizer = sgd()
    step = jax.jit(
        training_step(apply, optimizer), donate_argnums=(0, 1, 2), compiler_options=options
    )
    carry = [params, stats, optimizer.init(params)]

    def training(n: int) -> float:
        for _ in range(n):
            *carry[:], loss = step(*carry, images, labels)
        return float(loss)

    return Program(parameters, training)


def sgd() -> Any:
    """he2015's optimiser: weight decay in the gradient, momentum."""
    import optax

    return optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY), optax.sgd(LEARNING_RATE, momentum=MOMENTUM)
    )


def training_step(apply: Any, optimizer: Any) -> Callable[..., Any]:
    """(params, stats, opt_state, images, labels) -> (params, stats, opt_state, loss).

    Args:
      apply: (params, stats, images, train) -> (logits, stats).
      optimizer: Optax's.
    """
    import jax
    import optax

    def step(params, stats, opt_state, images, labels):
        def loss_fn(params):
            logits, new = apply(params, stats, images, True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), new

        (loss, new), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), new, opt_state, loss

    return step


def torch_eager(case: Case, mode: str) -> Program:
    """PyTorch, channels_last; bfloat16 by autocast."""
    return _torch(case, mode, compiled=False)


def torch_compiled(case: Case, mode: str) -> Program:
    """The same through torch.compile."""
    return _torch(case, mode, compiled=True)


def _torch(case: Case, mode: str, compiled: bool) -> Program:
    import peers
    import torch

    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    net = peers.torch_net(case.model, case.classes).to(device, memory_format=torch.channels_last)
    parameters = sum(p.numel() for p in net.parameters())
    images = torch.randn(case.batch, 3, case.size, case.size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.arange(case.batch, device=device) % case.classes
    half = torch.autocast(device, torch.bfloat16, enabled=case.dtype == 'bfloat16')
    optimizer = torch.optim.SGD(
        net.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    torch.compiler.reset()  # else a second batch size is compiled for any
    run = torch.compile(net, dynamic=False) if compiled else net

    def infer(n: int) -> float:
        with torch.inference_mode(), half:
            for _ in range(n):
                logits = run(images)
        logits.sum().item()  # waits
        return 0.0

    def train(n: int) -> float:
        for _ in range(n):
            with half:
                loss = torch.nn.functional.cross_entropy(run(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    net.train(mode == 'train')
    return Program(parameters, train if mode == 'train' else infer)


# name -> (what tables call it, what builds it)
PEERS: dict[str, tuple[str, Callable[[Case, str], Program]]] = {
    'ours': ('ours', ours),
    'augmented': ('ours, crops and flips', ours_augmented),
    'cifar': ('ours, crops and flips, data of CIFAR size', ours_on_cifar),
    'bare': ('ours, bare step', bare),
    'flax': ('plain Flax', flax),
    'haiku': ('dm-haiku', haiku),
    'torch': ('PyTorch', torch_eager),
    'torch-compile': ('PyTorch, compiled', torch_compiled),
}


def build(peer: str, mode: str, case: Case) -> tuple[Program, float]:
    """Builds and warms up; (program, seconds that it took)."""
    start = time.perf_counter()
    program = PEERS[peer][1](case, mode)
    program.steps(2 * case.dispatch)
    return program, time.perf_counter() - start
