"""LiteRT, once called TensorFlow Lite: converted from StableHLO, run by its interpreter.

The converter's pins clash with those of JAX's tools, so it runs in a process of another Python; the
interpreter runs in this one.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from resnet_jax.errors import InputError, Unreadable, first_line
from resnet_jax.export import litert_worker
from resnet_jax.export.program import Program, Run
from resnet_jax.export.silence import silence

PYTHON = 'RESNET_JAX_LITERT_PYTHON'  # variable of the environment: the Python that converts
SECONDS = 900  # after which a conversion is given up


def write(program: Program, path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a .tflite file for a fixed number of images.

    Args:
      program: the function.
      path: the file.
      about: ignored, as the file holds no description.

    Returns:
      Nothing to add to the description.

    Raises:
      InputError: if there is no Python that can convert, saying how to make one.
    """
    assert program.batch is not None
    images = jax.ShapeDtypeStruct((program.batch, *program.image_shape), program.input_dtype)
    exported = jax.export.export(jax.jit(program), platforms=['cpu'])(images)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / 'program.mlir'
        source.write_text(exported.mlir_module())
        images_file = Path(folder) / 'images.npy'
        if program.calibration is not None:
            count = len(program.calibration) // program.batch * program.batch
            batches = program.images(program.calibration[:count])
            np.save(images_file, batches.reshape(-1, program.batch, *program.image_shape))
        _convert([source, path, images_file], list(program.output_shapes))
    return {}


def _convert(files: Sequence[Path], outputs: Sequence[str]) -> None:
    """Runs the worker."""
    python = os.environ.get(PYTHON, sys.executable)
    command = [python, litert_worker.__file__, *map(str, files), *outputs]
    # Not the packages of this Python, whatever PYTHONPATH says.
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=SECONDS, env=environment
        )
    except OSError as error:
        raise InputError(f'{PYTHON}={python} cannot be run: {error.strerror}') from error
    except subprocess.TimeoutExpired as error:
        raise InputError(f'litert-converter took over {SECONDS} s; export to ONNX') from error
    except subprocess.CalledProcessError as error:
        if 'No module named' in error.stderr:
            raise InputError(
                f'{python} has no litert-converter or ai-edge-quantizer, whose pins clash with '
                'those of JAX: make an environment of its own (python -m venv litert && '
                'litert/bin/pip install litert-converter ai-edge-quantizer) and set '
                f'{PYTHON}=litert/bin/python'
            ) from error
        lines = error.stderr.splitlines()
        why = next((line for line in lines if 'rror: ' in line), 'it says nothing')
        raise InputError(
            f'litert-converter cannot convert the network: {why.strip()[:300]}; export to ONNX'
        ) from error


def open_file(path: Path) -> Run:
    """The function of a file.

    Raises:
      InputError: without the extra.
      Unreadable: if it is no such file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError(
            f'LiteRT needs the extra ({error}): pip install "resnet-jax[litert]"'
        ) from error
    try:
        with silence():
            interpreter = Interpreter(model_path=str(path))
            interpreter.allocate_tensors()
        runner = interpreter.get_signature_runner()
    except Exception as error:  # of many kinds
        raise Unreadable(
            f'{path} cannot be read as LiteRT: {first_line(error)}; export it again'
        ) from error

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(runner(images=images))

    return run
