"""Published tables on time series, in the form of cifar.py."""

from resnet_jax.papers.table import DataFacts, PublishedRow, PublishedTable

# Set of the UCR archive -> accuracy and its deviation over ten runs, in %, and what the set is.
# The figures are those that hfawaz/dl-4-tsc publishes beside the paper's table 9.
_UCR: dict[str, tuple[float, float, DataFacts]] = {
    'ItalyPowerDemand': (96.3, 0.4, DataFacts(2, (24, 1), 67)),
    'GunPoint': (99.1, 0.7, DataFacts(2, (150, 1), 50)),
    'ArrowHead': (84.5, 1.2, DataFacts(3, (251, 1), 36)),
    'OSULeaf': (97.9, 0.8, DataFacts(6, (427, 1), 200)),
}

SERIES: dict[str, PublishedTable] = {
    'fawaz2019': PublishedTable(
        'fawaz2019',
        'the ResNet of series on sets of the UCR archive, means of ten runs, table 9',
        'ucr',
        tuple(
            PublishedRow(name, 'tsc_resnet', {}, accuracy, spread=deviation, own=facts)
            for name, (accuracy, deviation, facts) in _UCR.items()
        ),
        metric='top-1 accuracy, %',
    ),
}
