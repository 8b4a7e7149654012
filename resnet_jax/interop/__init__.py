"""Weights of other libraries in and out: PyTorch's names and files, and our own."""

from resnet_jax.interop.weights import load_weights, save_weights

__all__ = ['load_weights', 'save_weights']
