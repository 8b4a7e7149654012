"""The laboratory for residual networks in JAX."""

from resnet_jax.interop import load_weights
from resnet_jax.models import create_model, list_models

__all__ = ['create_model', 'list_models', 'load_weights']
