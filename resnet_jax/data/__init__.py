"""Data: sources, the order and reading of examples, preprocessing, augmentation on the device."""

from resnet_jax.data.image_files import ImageFile, find_images, printable
from resnet_jax.data.images import decode_image
from resnet_jax.data.known_preprocessing import PREPROCESSINGS, known_preprocessing
from resnet_jax.data.loader import (
    batch_indices,
    batch_positions,
    epoch_order,
    eval_batches,
    load_arrays,
    rows,
    train_batches,
)
from resnet_jax.data.preprocessing import Preprocessing, fit_mean, fit_std
from resnet_jax.data.sources import Source, open_source, split_sizes
from resnet_jax.data.transforms import augment, example_keys, random_crop, random_flip
from resnet_jax.data.workers import default_workers

__all__ = [
    'PREPROCESSINGS',
    'ImageFile',
    'Preprocessing',
    'Source',
    'augment',
    'batch_indices',
    'batch_positions',
    'decode_image',
    'default_workers',
    'epoch_order',
    'eval_batches',
    'example_keys',
    'find_images',
    'fit_mean',
    'fit_std',
    'known_preprocessing',
    'load_arrays',
    'open_source',
    'printable',
    'random_crop',
    'random_flip',
    'rows',
    'split_sizes',
    'train_batches',
]
