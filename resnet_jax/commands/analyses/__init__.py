"""The kinds of `resnet-jax analyze`, a file for each: its arguments, what it calls and prints."""
