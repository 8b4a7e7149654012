"""Inference of exported nets by onnxruntime: ours in float32 and eight bits, and PyTorch's own."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np
from cases import Case, Program

CALIBRATED = (
    16  # images that set the ranges of eight-bit activations; speed does not depend on them
)


def onnx_float(case: Case, mode: str) -> Program:
    """Our export, [N, C, H, W]."""
    return _ours(case, mode, 'float32')


def onnx_int8(case: Case, mode: str) -> Program:
    """Our export in eight bits."""
    return _ours(case, mode, 'int8')


def _ours(case: Case, mode: str, dtype: str) -> Program:
    import jax
    import jax.numpy as jnp

    from resnet_jax import create_model
    from resnet_jax.data import Preprocessing
    from resnet_jax.export.onnx import file
    from resnet_jax.export.program import make_program
    from resnet_jax.inference.trained import TrainedModel
    from resnet_jax.models.counting import count_parameters

    assert mode == 'infer'
    model = create_model(case.model, case.classes, **case.fields)
    variables = jax.jit(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, case.size, case.size, 3)), train=False)
    )()
    half = (0.5,) * 3
    preprocessing = Preprocessing(
        case.size, 3, None, half, half, tuple(map(str, range(case.classes)))
    )
    trained = TrainedModel(model, variables, preprocessing, {}, case.model)
    shape = (CALIBRATED, case.size, case.size, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    program = make_program(trained, dtype=dtype, channels_last=False, calibration=pixels)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'net.onnx'
        file.write(program, path, {})
        return Program(count_parameters(variables['params']), _infer(path, case))


def onnx_of_torch(case: Case, mode: str) -> Program:
    """PyTorch's own export of the same net."""
    import peers
    import torch

    assert mode == 'infer'
    torch.manual_seed(0)
    net = peers.torch_net(case.model, case.classes).eval()
    images = torch.zeros(case.batch, 3, case.size, case.size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'net.onnx'
        torch.onnx.export(net, (images,), str(path), opset_version=17, dynamo=False)
        return Program(sum(p.numel() for p in net.parameters()), _infer(path, case))


def _infer(path: Path, case: Case) -> Callable[[int], float]:
    """Runs a file n times on one batch."""
    import onnxruntime as ort

    options: Any = ort.SessionOptions()
    options.intra_op_num_threads = harness.cpus()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    name = session.get_inputs()[0].name
    shape = (case.batch, 3, case.size, case.size)
    images = np.random.default_rng(1).normal(size=shape).astype(np.float32)

    def steps(n: int) -> float:
        for _ in range(n):
            session.run(None, {name: images})
        return 0.0

    return steps
