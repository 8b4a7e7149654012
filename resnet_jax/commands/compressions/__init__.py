"""The methods of `resnet-jax compress`."""
