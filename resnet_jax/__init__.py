"""The laboratory for residual networks in JAX."""
