"""Data sets, the order and reading of their examples, preprocessing and augmentation."""

from resnet_jax.data.bad_images import POLICIES as BAD_IMAGES
from resnet_jax.data.bad_images import BadImages
from resnet_jax.data.catalogs import (
    KINDS,
    SLICE_ORDERS,
    has_effect,
    kinds_that_take,
    open_source,
    split_sizes,
)
from resnet_jax.data.examples import find_examples, read_example
from resnet_jax.data.file_checks import check_files
from resnet_jax.data.fingerprint import fingerprint, fingerprint_changes
from resnet_jax.data.folders import listed, read_labels
from resnet_jax.data.image_search import ImageFile, find_images
from resnet_jax.data.images import decode_image
from resnet_jax.data.known_preprocessing import PREPROCESSINGS, known_preprocessing
from resnet_jax.data.loader import (
    batch_indices,
    batch_positions,
    epoch_order,
    eval_batch,
    eval_batches,
    load_arrays,
    rows,
    train_batches,
)
from resnet_jax.data.pictures import Picture, random_resized_crop
from resnet_jax.data.preprocessing import (
    LENGTH,
    MOST_CHANNELS,
    Preprocessing,
    fit_mean,
    fit_series,
    fit_std,
)
from resnet_jax.data.read_ahead import default_workers, read_ahead, usable_cores
from resnet_jax.data.resizing import check_sizes
from resnet_jax.data.sources import Details, Source, hold_out
from resnet_jax.data.spectrograms import spectrogram_shape
from resnet_jax.data.targets import empty_targets
from resnet_jax.data.transforms import (
    TRANSFORMS,
    Parameter,
    Transform,
    augment,
    canonical_transforms,
    check_transforms,
    example_keys,
    is_streamed,
    random_crop,
    random_flip,
    read_transforms,
    split_list,
    views_of,
    with_settings,
)
from resnet_jax.text import printable

__all__ = [
    'BAD_IMAGES',
    'KINDS',
    'LENGTH',
    'MOST_CHANNELS',
    'PREPROCESSINGS',
    'SLICE_ORDERS',
    'TRANSFORMS',
    'BadImages',
    'Details',
    'ImageFile',
    'Parameter',
    'Picture',
    'Preprocessing',
    'Source',
    'Transform',
    'augment',
    'batch_indices',
    'batch_positions',
    'canonical_transforms',
    'check_files',
    'check_sizes',
    'check_transforms',
    'decode_image',
    'default_workers',
    'empty_targets',
    'epoch_order',
    'eval_batch',
    'eval_batches',
    'example_keys',
    'find_examples',
    'find_images',
    'fingerprint',
    'fingerprint_changes',
    'fit_mean',
    'fit_series',
    'fit_std',
    'has_effect',
    'hold_out',
    'is_streamed',
    'kinds_that_take',
    'known_preprocessing',
    'listed',
    'load_arrays',
    'open_source',
    'printable',
    'random_crop',
    'random_flip',
    'random_resized_crop',
    'read_ahead',
    'read_example',
    'read_labels',
    'read_transforms',
    'rows',
    'spectrogram_shape',
    'split_list',
    'split_sizes',
    'train_batches',
    'usable_cores',
    'views_of',
    'with_settings',
]
