"""Tables as people read them."""

from collections.abc import Sequence


def print_pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Prints two aligned columns; nothing where there are no rows."""
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f'{name:<{width}}  {value}')
