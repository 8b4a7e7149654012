"""A laboratory for residual networks in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_jax.dense import create_backbone, create_model, list_models
    from resnet_jax.inference.published import from_pretrained
    from resnet_jax.interop import load_weights

    __version__: str

__all__ = [
    '__version__',
    'create_backbone',
    'create_model',
    'from_pretrained',
    'list_models',
    'load_weights',
]
# Where each name is. It is imported when it is asked for, so that `import resnet_jax` and the
# command line's --help do not wait for JAX.
_PLACES = {
    **dict.fromkeys(('create_backbone', 'create_model', 'list_models'), 'resnet_jax.dense'),
    'from_pretrained': 'resnet_jax.inference.published',
    'load_weights': 'resnet_jax.interop',
}
_PARTS = ('data', 'dense', 'interop', 'models')


def __getattr__(name: str) -> Any:
    if name == '__version__':
        from importlib import metadata

        return metadata.version('resnet-jax')
    if name in _PARTS:
        return importlib.import_module(f'resnet_jax.{name}')
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
