"""What an analysis runs: a trained network, or a fresh one of the same design beside it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from resnet_jax.analysis.examples import Batch
from resnet_jax.analysis.parts import Chain, chain
from resnet_jax.models import ResNet
from resnet_jax.models.inputs import example_input
from resnet_jax.training.compilation import jit
from resnet_jax.training.step import named_key


class Network(NamedTuple):
    """A network as a chain of parts, its variables, and how its batch norm runs.

    Attributes:
      chain: of the model.
      variables: `params` and `batch_stats`.
      own_statistics: whether batch norm takes the mean and variance of each batch, as in training,
        and gradients flow through them; else the running ones. Nothing is dropped out in either.
    """

    chain: Chain
    variables: Mapping[str, Any]
    own_statistics: bool = False

    @property
    def statistics(self) -> str:
        """Of batch norm, for JSON: 'batch' or 'running'."""
        return 'batch' if self.own_statistics else 'running'

    def batch(self, batch: Batch) -> Batch:
        """A batch as this network takes it: without padding, where examples see each other."""
        if not self.own_statistics or batch.mask.all():
            return batch
        return Batch(batch.images[batch.mask], batch.labels[batch.mask], batch.mask[batch.mask])


def fresh_network(model: ResNet, image_size: int, channels: int, seed: int) -> Network:
    """A network of the same design with the values that training with this seed starts from.

    The running statistics of a fresh batch norm, mean 0 and variance 1, are not those of any data:
    activations would grow from block to block as if there were no norms. So each batch is
    normalised by its own statistics, as in the first training step and in arXiv 2101.08692.

    Args:
      model: of the trained network.
      image_size: side of the images.
      channels: of the images.
      seed: of the initial values.
    """
    design = model.clone(ghost_batch=0, bn_axis_name=None)
    shape = example_input(model, image_size, channels)
    images = jnp.zeros(shape.shape, shape.dtype)
    variables = jit(lambda key: design.init(key, images, train=False))(named_key(seed, 'params'))
    return Network(chain(design, image_size, channels), variables, own_statistics=True)


def run_module(
    module: nn.Module,
    variables: Mapping[str, Any],
    x: Array,
    own_statistics: bool = False,
    method: str = '__call__',
) -> Array:
    """The output of a part's module, to use in other programs: not jitted.

    Args:
      module: of a part. It, and not the part, so that equal blocks share what is compiled.
      variables: of the part.
      x: its input.
      own_statistics: as in `Network`.
      method: of the part.
    """
    found: Any
    if not own_statistics:
        found = module.apply(variables, x, train=False, method=method)
        return found
    with nn.intercept_methods(_without_dropout):
        found, _ = module.apply(variables, x, train=True, method=method, mutable=['batch_stats'])
    return found


def _without_dropout(run: Any, args: Any, kwargs: Any, context: Any) -> Any:
    return args[0] if isinstance(context.module, nn.Dropout) else run(*args, **kwargs)
