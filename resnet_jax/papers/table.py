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
    'fawaz2019': (
        'Fawaz et al., Deep learning for time series classification, arXiv 1809.04356, of the '
        'ResNet of Wang et al., arXiv 1611.06455'
    ),
    'timm': 'Wightman, PyTorch Image Models, results-imagenet.csv and model cards, August 2026',
}


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """A data set, as far as a table's costs need it.

    Attributes:
      classes: their number.
      image_shape: of an example, [H, W, C] or [L, C].
      examples: for training.
    """

    classes: int
    image_shape: tuple[int, ...]
    examples: int


_FACTS = {
    'cifar10': DataFacts(10, (32, 32, 3), 50_000),
    'cifar100': DataFacts(100, (32, 32, 3), 50_000),
    'imagenet': DataFacts(1000, (224, 224, 3), 1_281_167),
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
      own: what is known of the row's data set, where the rows of a table differ in that.
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
    own: 'DataFacts | None' = None


@dataclasses.dataclass(frozen=True)
class PublishedTable:
    """A published comparison.

    Attributes:
      paper: a key of `PAPERS`.
      title: what is compared, and where in the paper.
      data: 'cifar10', 'cifar100' or 'imagenet'; or 'ucr', of which each row has its own set.
      metric: what `PublishedRow.value` is.
      rows: the rows.
    """

    paper: str
    title: str
    data: str
    rows: tuple[PublishedRow, ...]
    metric: str = 'top-1 error, %'

    def facts(self, row: PublishedRow) -> DataFacts:
        """What is known of the data set of one of its rows."""
        return row.own or _FACTS[self.data]
