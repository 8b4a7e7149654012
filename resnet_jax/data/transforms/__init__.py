"""Augmentation: a table of named transforms, each a pure function of random numbers and images."""

from resnet_jax.data.transforms.apply import (
    augment,
    canonical_transforms,
    check_transforms,
    example_keys,
    is_streamed,
    read_transforms,
    views_of,
    with_settings,
)
from resnet_jax.data.transforms.geometry import random_crop, random_flip
from resnet_jax.data.transforms.specs import Chosen, Parameter, Transform, split_list
from resnet_jax.data.transforms.table import TRANSFORMS

__all__ = [
    'TRANSFORMS',
    'Chosen',
    'Parameter',
    'Transform',
    'augment',
    'canonical_transforms',
    'check_transforms',
    'example_keys',
    'is_streamed',
    'random_crop',
    'random_flip',
    'read_transforms',
    'split_list',
    'views_of',
    'with_settings',
]
