"""The form in which published tables are kept."""

import dataclasses
from typing import Any

PAPERS = {
    'he2015': 'He et al., Deep Residual Learning for Image Recognition, arXiv 1512.03385',
    'he2016': 'He et al., Identity Mappings in Deep Residual Networks, arXiv 1603.05027',
    'wrn': 'Zagoruyko and Komodakis, Wide Residual Networks, arXiv 1605.07146',
    'resnext': 'Xie et al., Aggregated Residual Transformations, arXiv 1611.05431',
    'senet': 'Hu et al., Squeeze-and-Excitation Networks, arXiv 1709.01507',
    'stochdepth': 'Huang et al., Deep Networks with Stochastic Depth, arXiv 1603.09382',
    'rsb': 'Wightman et al., ResNet strikes back, arXiv 2110.00476',
    'torchvision': 'torchvision, released weights (IMAGENET1K_V1)',
    'torchvision_v2': (
        "Vryniotis, How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives, "
        'pytorch.org/blog, 2021'
    ),
    'timm': 'Wightman, PyTorch Image Models, results-imagenet.csv and model cards, August 2026',
}


@dataclasses.dataclass(frozen=True)
class PublishedRow:
    """One row of a published table.

    Attributes:
      name: as the paper calls it.
      model: a registered model.
      overrides: fields in which its block design or network differs from the model's.
      value: the published figure; None where the paper reports a failure or only a curve.
      spread: standard deviation of `value`, where given.
      top5: the published top-5 error, where given.
      parameters: exact count for the table's classes, where one is published or computed.
      failed: whether the paper reports a failure: an error above 20 % (above 60 % for the plain
        net).
    """

    name: str
    model: str
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    value: float | None = None
    spread: float | None = None
    top5: float | None = None
    parameters: int | None = None
    failed: bool = False


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A published comparison.

    Attributes:
      paper: a key of `PAPERS`.
      title: what is compared, and where in the paper.
      data: 'cifar10', 'cifar100' or 'imagenet'.
      metric: what `PublishedRow.value` is.
      rows: the rows.
    """

    paper: str
    title: str
    data: str
    rows: tuple[PublishedRow, ...]
    metric: str = 'top-1 error, %'

    @property
    def num_classes(self) -> int:
        """Number of classes of the data set."""
        return {'cifar10': 10, 'cifar100': 100, 'imagenet': 1000}[self.data]

    @property
    def image_size(self) -> int:
        """Height and width of the images that the models see, in pixels."""
        return 224 if self.data == 'imagenet' else 32
