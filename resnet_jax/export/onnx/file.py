"""ONNX files: written and checked by the `onnx` package, run by onnxruntime."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.dense.registry import net_of
from resnet_jax.errors import InputError, Unreadable, first_line
from resnet_jax.export.onnx import int8
from resnet_jax.export.onnx.dense import add_dense
from resnet_jax.export.onnx.graph import IR_VERSION, OPSET, Graph
from resnet_jax.export.onnx.network import INPUT, add_input, add_network, check_exportable
from resnet_jax.export.program import Program, Run
from resnet_jax.models import ResNet


def require_onnx() -> None:
    """Refuses to go on without the packages of the extra.

    Raises:
      InputError: naming the extra.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(
            f'ONNX needs the extra ({error}): pip install "resnet-jax[onnx]"'
        ) from error
    del onnx, onnxruntime


def write(program: Program, path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the network as a graph, and has `onnx.checker` look at all of it.

    Args:
      program: the function.
      path: the file.
      about: description of the program, stored in the file's metadata.

    Returns:
      Nothing to add to the description.

    Raises:
      InputError: for a part of the network without a form in ONNX, and without the extra.
    """
    require_onnx()
    import onnx

    model = make_model(program)
    if program.dtype == 'int8':
        assert program.calibration is not None
        model = int8.quantize(model, program.images(program.calibration))
    texts = {name: v if isinstance(v, str) else json.dumps(v) for name, v in about.items()}
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return {}


def make_model(program: Program) -> Any:
    """The ONNX model of a program, in float32.

    Raises:
      InputError: for a part of the network without a form in ONNX.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    net = net_of(program.model)
    check_exportable(net, program.dtype)
    params = jax.tree.map(np.asarray, program.variables['params'])
    graph, p = Graph(), program.preprocessing
    normalization = None
    if program.takes_pixels:
        normalization = np.asarray(p.mean, np.float32), np.asarray(p.std, np.float32)
    x = add_input(graph, net, program.space, p.channels, normalization, program.channels_last)
    if isinstance(program.model, ResNet):
        add_network(graph, program.model, params, x)
    else:
        add_dense(graph, program.model, params, x, program.trained.task, program.channels_last)
    batch = program.batch or 'N'
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(program.input_dtype))
    made = helper.make_graph(
        graph.nodes,
        'resnet',
        [helper.make_tensor_value_info(INPUT, kind, [batch, *program.image_shape])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, *shape])
            for name, shape in program.output_shapes.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in graph.constants.items()],
    )
    model = helper.make_model(
        made,
        producer_name='resnet-jax',
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid('', OPSET)],
    )
    assert isinstance(model, onnx.ModelProto)
    return model


def open_file(path: Path) -> Run:
    """The function of a file, run by onnxruntime on the CPU.

    Raises:
      InputError: without the extra.
      Unreadable: if it is no such file.
    """
    require_onnx()
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3  # what it optimises is no warning to a user
    try:
        session = ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        name = session.get_inputs()[0].name
    except Exception as error:  # of many kinds
        raise Unreadable(
            f'{path} cannot be read as ONNX: {first_line(error)}; export it again'
        ) from error

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = session.run(None, {name: images})
        return {output.name: x for output, x in zip(session.get_outputs(), found, strict=True)}

    return run
