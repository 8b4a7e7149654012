"""Training and inference of the same net by ours and by its peers, as functions of n steps."""

import sys
import time
from collections.abc import Callable
from typing import Any

import harness
from cases import Case, Program
from exports import onnx_float, onnx_int8, onnx_of_torch
from pipeline import our_detector, ours, ours_augmented, ours_on_cifar

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 1e-4


def bare(case: Case, mode: str) -> Program:
    """Our model in a plain step."""
    from resnet_jax import create_model
    from resnet_jax.models.cpu.compiler import compiler_options

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


def torch_detector(case: Case, mode: str) -> Program:
    """RetinaNet of torchvision, eager, with as many objects as a scene of digits has."""
    import torch

    sys.path.insert(0, str(harness.ROOT / 'tests'))
    from torchvision_cpu import import_torchvision

    import_torchvision()
    from torchvision.models.detection import retinanet_resnet50_fpn

    assert mode == 'train' and case.model == 'retinanet_resnet50_fpn'
    torch.manual_seed(0)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    net = retinanet_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=case.classes,
        min_size=case.size,
        max_size=case.size,
    ).to(device, memory_format=torch.channels_last)
    images = torch.rand(case.batch, 3, case.size, case.size, device=device)
    images = list(images.to(memory_format=torch.channels_last))
    corners = torch.tensor([[0.1, 0.1, 0.3, 0.4], [0.5, 0.2, 0.8, 0.6], [0.4, 0.6, 0.7, 0.9]])
    targets = [
        {'boxes': (corners * case.size).to(device), 'labels': torch.tensor([1, 2, 3]).to(device)}
        for _ in images
    ]
    optimizer = torch.optim.SGD(
        net.parameters(), LEARNING_RATE / 100, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )

    def train(n: int) -> float:
        for _ in range(n):
            loss = sum(net(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    net.train()
    return Program(sum(p.numel() for p in net.parameters()), train)


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
    'detector': ('ours', our_detector),
    'torch-detector': ('torchvision, eager', torch_detector),
    'onnx': ('onnxruntime, our export', onnx_float),
    'onnx-int8': ('onnxruntime, our export, int8', onnx_int8),
    'onnx-torch': ("onnxruntime, PyTorch's export", onnx_of_torch),
}


def build(peer: str, mode: str, case: Case) -> tuple[Program, float]:
    """Builds and warms up; (program, seconds that it took)."""
    start = time.perf_counter()
    program = PEERS[peer][1](case, mode)
    program.steps(2 * case.dispatch)
    return program, time.perf_counter() - start
