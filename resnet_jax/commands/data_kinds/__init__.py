"""The kinds of `resnet-jax data`, a file each."""
