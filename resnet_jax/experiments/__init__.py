"""Experiments: the papers' tables as data, sweeps and their reports."""

from resnet_jax.experiments.sweep import from_table, grid, zipped

__all__ = ['from_table', 'grid', 'zipped']
