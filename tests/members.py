"""Which members of a parametrised test are slow tests."""

import pytest


def members(names, slow):
    """All names as parameters; those in `slow` prove little that the others do not."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]
