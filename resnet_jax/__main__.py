"""`python -m resnet_jax` is `resnet-jax`."""

from resnet_jax.cli import main

if __name__ == '__main__':
    raise SystemExit(main())
