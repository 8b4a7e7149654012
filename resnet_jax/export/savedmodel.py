"""SavedModel: TensorFlow's folders, written by Orbax and run by TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_jax.errors import InputError, Unreadable, first_line
from resnet_jax.export.program import Program, Run
from resnet_jax.export.silence import silence

SIGNATURE = 'serving_default'


def write(program: Program, path: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a folder with the weights as variables, and one signature: images -> outputs.

    Args:
      program: the function.
      path: the folder.
      about: ignored, as the folder holds no description.

    Returns:
      Nothing to add to the description.

    Raises:
      InputError: without the extra.
    """
    tf = _tensorflow()
    with silence():
        from orbax.export import ExportManager, JaxModule, ServingConfig

        batch = 'n' if program.batch is None else str(program.batch)
        module = JaxModule(
            program.variables['params'],
            lambda params, images: program.function(
                {**program.variables, 'params': params}, images
            ),
            input_polymorphic_shape=f'{batch}, ...',
        )
        shape = (program.batch, *program.image_shape)
        signature = ServingConfig(
            SIGNATURE,
            input_signature=[tf.TensorSpec(shape, program.input_dtype, name='images')],
            tf_postprocessor=lambda found: found if isinstance(found, dict) else {'logits': found},
        )
        ExportManager(module, [signature]).save(str(path))
    return {}


def open_file(path: Path) -> Run:
    """The function of a folder.

    Raises:
      InputError: without the extra.
      Unreadable: if it is no such folder.
    """
    tf = _tensorflow()
    try:
        with silence():
            loaded = tf.saved_model.load(str(path))
        function = loaded.signatures[SIGNATURE]
    except Exception as error:  # TensorFlow raises many kinds
        raise Unreadable(
            f'{path} cannot be read as SavedModel: {first_line(error)}; export it again'
        ) from error

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        assert loaded is not None  # it holds the variables, and lives as long as this function
        return {name: x.numpy() for name, x in function(images=tf.constant(images)).items()}

    return run


def _tensorflow() -> Any:
    """TensorFlow, without its advice on standard error.

    Raises:
      InputError: naming the extra.
    """
    try:
        with silence():
            import orbax.export
            import tensorflow as tf
    except ImportError as error:
        raise InputError(
            f'SavedModel needs the extra ({error}): pip install "resnet-jax[savedmodel]"'
        ) from error
    del orbax
    return tf
