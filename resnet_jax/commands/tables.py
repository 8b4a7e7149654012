"""Tables as people read them."""

from collections.abc import Sequence


def print_pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Prints two aligned columns."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f'{name:<{width}}  {value}')
