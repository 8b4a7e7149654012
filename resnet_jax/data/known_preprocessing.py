"""The preprocessing of published weights, by name.

`resize` is the shorter side before the centre crop of `image_size`. timm states the crop as a
fraction of the resized image, and rounds: resize = floor(image_size / fraction).
"""

from collections.abc import Sequence
from typing import Any

from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.errors import choose

_IMAGENET = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
_HALF = {'mean': (0.5, 0.5, 0.5), 'std': (0.5, 0.5, 0.5)}  # timm: IMAGENET_INCEPTION_MEAN, _STD

PREPROCESSINGS: dict[str, dict[str, Any]] = {
    # torchvision/transforms/_presets.py, ImageClassification's defaults: the IMAGENET1K_V1 weights.
    'torchvision': {'image_size': 224, 'resize': 256, 'interpolation': 'bilinear', **_IMAGENET},
    # torchvision/models/resnet.py, resize_size=232: the IMAGENET1K_V2 weights, and V1 of
    # resnext101_64x4d.
    'torchvision_v2': {'image_size': 224, 'resize': 232, 'interpolation': 'bilinear', **_IMAGENET},
    # timm/models/resnet.py, _rcfg: crop 0.95, floor(224 / 0.95) = 235. The weights of "ResNet
    # strikes back" (a1, a2, d, b1k ... but not a1h, trained at 176).
    'timm': {'image_size': 224, 'resize': 235, 'interpolation': 'bicubic', **_IMAGENET},
    # timm/models/resnet.py, _tcfg, _ttcfg and _gcfg: crop 0.875. ra, ra2, bt, am, racm, gluon.
    'timm_875': {'image_size': 224, 'resize': 256, 'interpolation': 'bicubic', **_IMAGENET},
    # timm/models/resnetv2.py, resnetv2_50.a1h_in1k and resnetv2_101.a1h_in1k: crop 0.95.
    'timm_resnetv2': {'image_size': 224, 'resize': 235, 'interpolation': 'bicubic', **_HALF},
    # timm/models/resnetv2.py, the file's own default with bicubic, such as
    # resnetv2_50x1_bit.goog_distilled_in1k: crop 0.875.
    'inception': {'image_size': 224, 'resize': 256, 'interpolation': 'bicubic', **_HALF},
    # timm/models/resnetv2.py, resnetv2_50x1_bit.goog_in21k_ft_in1k and others: 448, crop 1.
    'bit': {'image_size': 448, 'resize': None, 'interpolation': 'bilinear', **_HALF},
    # akamaster/pytorch_resnet_cifar10, trainer.py: ImageNet's figures on CIFAR's 32x32 images.
    'cifar': {'image_size': 32, 'resize': None, 'interpolation': 'bilinear', **_IMAGENET},
}


def known_preprocessing(name: str, class_names: Sequence[str]) -> Preprocessing:
    """Looks up the preprocessing of a family of published weights, for RGB images.

    Args:
      name: a key of `PREPROCESSINGS`.
      class_names: the name of each label.

    Raises:
      InputError: if the name is unknown; the message suggests the nearest.
    """
    fields = choose('preprocessing', name, PREPROCESSINGS)
    return Preprocessing(channels=3, class_names=tuple(class_names), **fields)
