"""Experiments: the papers as data."""
