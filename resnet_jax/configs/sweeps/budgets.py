"""How long the sweeps train on which data; the papers' recipes are in the configs themselves."""

from typing import Any

_FIELDS: dict[str, dict[str, Any]] = {
    # One-cycle SGD; at 0.1 some seeds of deep nets are lost in their first steps.
    'digits': {'train.epochs': 10.0, 'optim.learning_rate': 0.02},
}


def fields(base: str) -> dict[str, Any]:
    """Fields that all arms of a sweep on a base config share."""
    return _FIELDS.get(base, {})


def series_fields() -> dict[str, Any]:
    """Fields of all arms on time series: a fifth of the recipe's 1,500 epochs, and its plateaus."""
    return {'train.epochs': 300.0, 'optim.plateau_patience': 10}
