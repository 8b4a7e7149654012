"""The commands of `resnet-jax`: each file has its TEXT, its arguments and what it runs.

Only what a command runs may import what takes long, so that `--help` is quick.
"""
