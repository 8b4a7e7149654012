"""A laboratory for residual networks in JAX."""

from resnet_jax.interop import load_weights
from resnet_jax.models import create_model, list_models

__version__ = '0.1.0'

__all__ = ['__version__', 'create_model', 'list_models', 'load_weights']
