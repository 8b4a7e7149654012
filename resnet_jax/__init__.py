"""A laboratory for residual networks in JAX."""

from typing import TYPE_CHECKING, Any

from resnet_jax.dense import create_backbone, create_model, list_models
from resnet_jax.interop import load_weights

if TYPE_CHECKING:
    from resnet_jax.inference.published import from_pretrained

__version__ = '0.1.0'

__all__ = [
    '__version__',
    'create_backbone',
    'create_model',
    'from_pretrained',
    'list_models',
    'load_weights',
]


def __getattr__(name: str) -> Any:
    """Imports `from_pretrained` when it is asked for, because that imports half of the package."""
    if name != 'from_pretrained':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from resnet_jax.inference.published import from_pretrained

    return from_pretrained
