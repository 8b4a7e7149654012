"""Load and save weights under PyTorch's names, those of its model libraries, and our own."""

from resnet_jax.interop.weights import load_weights, save_weights

__all__ = ['load_weights', 'save_weights']
