"""Converts a program to LiteRT; a script for a Python with litert-converter, without this package.

    python litert_worker.py SOURCE.mlir TARGET.tflite IMAGES.npy OUTPUT ...

OUTPUT are the names of the outputs in their order. If the file of images [M, batch, ...] exists,
they set the ranges of activations, and the file computes in eight bits; that needs
ai-edge-quantizer too.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

SIGNATURE = 'serving_default'


def convert(source: str, outputs: list[str]) -> bytes:
    """StableHLO as text, of a function `main` from images to outputs -> a file of LiteRT."""
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    context = ir.Context()
    with context, ir.Location.unknown():
        converter.prepare_mlir_context(context)
        module = ir.Module.parse(source)
        converter.set_signature(module.operation, SIGNATURE, ['images'], outputs)
        passes, settings = passmanager.PassManager(), converter.ConvertToTFLConfig()
        converter.run_convert_to_tfl_passes(module, passes, settings)
        found: bytes = converter.export_flatbuffer_to_bytes(module.operation)
        return found


def quantize(file: bytes, images: np.ndarray) -> bytes:
    """Weights by output channel and activations in int8; images and outputs stay as they are."""
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'float.tflite'
        path.write_bytes(file)
        made = quantizer.Quantizer(str(path))
        made.load_quantization_recipe(recipe.static_wi8_ai8())
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            made.update_quantization_recipe(
                regex='.*',
                operation_name=end,
                algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE,
            )
        # One by one: of several the quantizer takes moving averages, which cut off what is rare.
        ranges: dict[str, dict[str, np.ndarray]] = {}
        for batch in images:
            for name, found in made.calibrate({SIGNATURE: [{'images': batch}]}).items():
                old = ranges.setdefault(name, found)
                old['min'] = np.minimum(old['min'], found['min'])
                old['max'] = np.maximum(old['max'], found['max'])
        return bytes(made.quantize(ranges).quantized_model)


if __name__ == '__main__':
    source, target, images = map(Path, sys.argv[1:4])
    made = convert(source.read_text(), sys.argv[4:])
    target.write_bytes(quantize(made, np.load(images)) if images.exists() else made)
