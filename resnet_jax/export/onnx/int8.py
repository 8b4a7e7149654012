"""ONNX in eight bits: quantised by onnxruntime on images, in the form that it runs fast."""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from resnet_jax.errors import InputError, first_line
from resnet_jax.export.onnx.network import INPUT, PREPARATION

BATCH = 16  # images calibrated at a time


def quantize(model: Any, images: Float[np.ndarray, 'n ...']) -> Any:
    """Puts a QuantizeLinear and a DequantizeLinear around what is computed in eight bits (QDQ).

    Activations are uint8 with a zero point, by the least and largest value on the images; weights
    are int8 with a scale for each output channel, of seven bits, because processors without VNNI
    add pairs of products in sixteen.

    Args:
      model: in float32.
      images: as the model takes them.

    Returns:
      The quantised model, without the metadata of the other one.

    Raises:
      InputError: if onnxruntime cannot quantise it.
    """
    import onnx
    from onnxruntime import quantization

    prepared = [node.name for node in model.graph.node if node.name in PREPARATION]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / 'int8.onnx'
        try:
            quantization.quantize_static(
                model,
                path,
                _Images(images),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                nodes_to_exclude=prepared,
                calibrate_method=quantization.CalibrationMethod.MinMax,
            )
        except (ValueError, RuntimeError, KeyError) as error:
            raise InputError(
                f'onnxruntime cannot quantise the network: {first_line(error)}; export it in '
                'float32'
            ) from error
        return onnx.load(str(path))


class _Images:
    """Batches of images, as onnxruntime asks for them: None at the end."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter(range(0, len(images), BATCH))
        self._images = images

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by the name of the input."""
        start = next(self._batches, None)
        return None if start is None else {INPUT: self._images[start : start + BATCH]}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """The batches that are left."""
        while (batch := self.get_next()) is not None:
            yield batch


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without advice to optimise the graph first, which it is."""
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
