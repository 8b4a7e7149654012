"""Converts a program to LiteRT; a script for a Python with litert-converter, without this package.

python litert_worker.py SOURCE.mlir TARGET.tflite
"""

import sys
from pathlib import Path


def convert(source: str) -> bytes:
    """StableHLO as text, of a function `main` from images to logits -> a file of LiteRT."""
    from litert_converter import converter_api_ext as converter
    from litert_converter.mlir import ir, passmanager

    context = ir.Context()
    with context, ir.Location.unknown():
        converter.prepare_mlir_context(context)
        module = ir.Module.parse(source)
        converter.set_signature(module.operation, 'serving_default', ['images'], ['logits'])
        passes, settings = passmanager.PassManager(), converter.ConvertToTFLConfig()
        converter.run_convert_to_tfl_passes(module, passes, settings)
        found: bytes = converter.export_flatbuffer_to_bytes(module.operation)
        return found


if __name__ == '__main__':
    source, target = map(Path, sys.argv[1:])
    target.write_bytes(convert(source.read_text()))
