"""What is exported: a network with its weights, as a closed function of images."""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt8

from resnet_jax.compress.fold import fold
from resnet_jax.compress.quantize import rounded
from resnet_jax.data import Preprocessing
from resnet_jax.dense.registry import Network, net_of, with_net_fields
from resnet_jax.errors import InputError, choose
from resnet_jax.export.outputs import OUTPUTS, Outputs
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.models import cpu
from resnet_jax.models.stages import unstack_blocks
from resnet_jax.training.compilation import matmul_precision

# Runs a file: (images as the program takes them) -> its outputs by name.
Run = Callable[[np.ndarray], dict[str, np.ndarray]]
# Type of the computation -> the largest difference from the original that is accepted, relative to
# the largest value of the same output.
BOUNDS = {'float32': 1e-4, 'bfloat16': 5e-2, 'int8': 0.5}


@dataclasses.dataclass(frozen=True, eq=False)  # by identity, as jax.jit asks for a hash
class Program:
    """A closed function of images.

    Attributes:
      trained: the original.
      model: folded, with every block by its own name.
      variables: of `model`.
      takes_pixels: whether it takes uint8 pixels and normalises them; otherwise normalised floats.
      channels_last: whether it takes [N, H, W, C]; otherwise [N, C, H, W].
      batch: number of images at a time; None: any.
      dtype: a key of `BOUNDS`: of the computation.
      calibration: images in uint8, [N, H, W, C], by which activations are quantised to int8.
    """

    trained: TrainedModel
    model: Network
    variables: dict[str, Any]
    takes_pixels: bool
    channels_last: bool
    batch: int | None
    dtype: str
    calibration: UInt8[np.ndarray, 'n *space c'] | None

    @property
    def preprocessing(self) -> Preprocessing:
        """Of the training."""
        return self.trained.preprocessing

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one image, as the function takes it."""
        channels = self.preprocessing.channels
        if self.preprocessing.vocabulary:
            return self.space
        return (*self.space, channels) if self.channels_last else (channels, *self.space)

    @property
    def space(self) -> tuple[int, ...]:
        """The size of the images in each dimension."""
        space = self.preprocessing.model_space
        # Published weights of videos and volumes come with the preprocessing of images.
        dimensions: int = net_of(self.model).dimensions
        return space if len(space) == dimensions else space[-1:] * dimensions

    @property
    def input_dtype(self) -> Any:
        """Of the images."""
        return np.uint8 if self.takes_pixels else np.dtype(net_of(self.model).input_dtype)

    @property
    def outputs(self) -> Outputs:
        """What it returns."""
        return OUTPUTS[self.trained.task]

    def __call__(self, images: Shaped[Array, 'n *space c']) -> Array | dict[str, Array]:
        """Logits, float32; of a dense network its outputs by name."""
        return self.function(self.variables, images)

    def function(
        self, variables: Mapping[str, Any], images: Shaped[Array, 'n *space c']
    ) -> Array | dict[str, Array]:
        """The same as a function of the weights, which are not closed over.

        It holds nothing that is written for the backend of this process.
        """
        with cpu.disabled(), matmul_precision(self.trained.matmul_precision):
            moved = not (self.channels_last or self.preprocessing.vocabulary)
            x = jnp.moveaxis(images, 1, -1) if moved else images
            x = self.preprocessing.normalize(x) if self.takes_pixels else x
            found = self.outputs.of_model(self.model.apply(variables, x, train=False))
        if not self.channels_last:
            found |= {name: jnp.moveaxis(found[name], -1, 1) for name in self.outputs.maps}
        return found['logits'] if self.trained.task == 'classification' else found

    def images(self, pixels: UInt8[np.ndarray, 'n *space c']) -> np.ndarray:
        """The images as the function takes them."""
        x = pixels
        if not self.takes_pixels:
            x = np.asarray(jax.jit(self.preprocessing.normalize)(pixels))
        moved = not (self.channels_last or self.preprocessing.vocabulary)
        return np.ascontiguousarray(np.moveaxis(x, -1, 1) if moved else x)

    @functools.cached_property
    def _returned(self) -> Any:
        """What the model returns for one image, as shapes."""
        net = net_of(self.model)
        channels = () if self.preprocessing.vocabulary else (self.preprocessing.channels,)
        images = jax.ShapeDtypeStruct((1, *self.space, *channels), net.input_dtype)
        return jax.eval_shape(lambda x: self.model.apply(self.variables, x, train=False), images)

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of each output by its name, without the images."""
        found = jax.eval_shape(self.outputs.of_model, self._returned)
        shapes = {name: x.shape[1:] for name, x in found.items()}
        if not self.channels_last:
            for name in self.outputs.maps:
                shapes[name] = (shapes[name][-1], *shapes[name][:-1])
        return shapes

    @property
    def _meaning(self) -> str:
        """What the input is, in words."""
        if self.preprocessing.vocabulary:
            return 'texts: their bytes, and 0 after the end'
        if self.preprocessing.dimensions == 1:
            what = self.preprocessing.spectrogram or 'series'
            each = (
                'each by itself of mean 0 and deviation 1, then ' * self.preprocessing.standardize
            )
            return f'{what}, {each}(values - mean) / std'
        return 'pixels 0 to 255' if self.takes_pixels else '(pixels / 255 - mean) / std'

    def describe(self) -> dict[str, Any]:
        """What a reader of the file needs to know; plain values."""
        p = self.preprocessing
        batch = self.batch or 'N'
        return {
            'program': f'resnet-jax {importlib.metadata.version("resnet-jax")}',
            'source': self.trained.origin,
            'title': self.trained.title,
            'input': {
                'name': 'images',
                'dtype': np.dtype(self.input_dtype).name,
                'shape': [batch, *self.image_shape],
                'meaning': self._meaning,
            },
            'outputs': [
                {
                    'name': name,
                    'dtype': 'float32',
                    'shape': [batch, *shape],
                    'meaning': self.outputs.meaning[name],
                }
                for name, shape in self.output_shapes.items()
            ],
            'task': self.trained.task,
            **self.outputs.describe(self._returned),
            'dtype': self.dtype,
            'takes_pixels': self.takes_pixels,
            'channels_last': self.channels_last,
            'batch': self.batch,
            'preprocessing': dataclasses.asdict(p),
        }


def make_program(
    trained: TrainedModel,
    *,
    dtype: str = 'float32',
    takes_pixels: bool = False,
    channels_last: bool = True,
    batch: int | None = None,
    calibration: UInt8[np.ndarray, 'n *space c'] | None = None,
) -> Program:
    """The closed function of a model.

    Args:
      trained: the model.
      dtype: see `Program`; in bfloat16 all kernels but the head's are stored in it too.
      takes_pixels: see `Program`.
      channels_last: see `Program`.
      batch: see `Program`.
      calibration: see `Program`; needed for int8.

    Raises:
      InputError: for an unknown type, and a batch below 1.
    """
    choose('dtype', dtype, BOUNDS)
    if takes_pixels and trained.preprocessing.dimensions == 1:
        raise InputError(
            '--preprocess is for pixels, and this model takes series, sounds or texts, whose '
            'normalisation is in the description beside the file; leave it out'
        )
    if batch is not None and batch < 1:
        raise InputError(f'--batch must be at least 1, got {batch}')
    model, variables = trained.model, trained.variables
    if net_of(model).scan_blocks:
        variables = unstack_blocks(variables)
    computed = 'float32' if dtype == 'int8' else dtype
    model = with_net_fields(model, scan_blocks=False, remat=False, dtype=jnp.dtype(computed))
    # Training with `weight_bits` stores unrounded weights. Round them before folding, whose own
    # rounding could otherwise move one to the next integer.
    params = rounded(model, variables['params'])
    model, variables = fold(model, {**variables, 'params': params})
    # What is left of the statistics are the ranges of quantised inputs.
    ranges = dict(variables.get('batch_stats', {}))
    variables = {'params': _stored(variables['params'], computed), 'batch_stats': ranges}
    return Program(
        *(trained, model, variables, takes_pixels, channels_last, batch, dtype, calibration)
    )


def _stored(params: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The kernels in the type of the computation, which halves a file in bfloat16."""

    def convert(path: Any, value: Any) -> Any:
        kernel = path[-1].key == 'kernel' and path[0].key != 'head'
        return jnp.asarray(value, dtype if kernel else jnp.float32)

    converted: dict[str, Any] = jax.tree_util.tree_map_with_path(convert, dict(params))
    return converted
