"""Options that take several whole numbers: 1,2,5."""

from resnet_jax.errors import InputError


def whole_numbers(option: str, given: str, low: int, high: int, what: str) -> list[int]:
    """The numbers that an option gives, ascending, each once.

    Args:
      option: its name, for the message.
      given: such as '1,2,5'.
      low: the least number allowed.
      high: the largest.
      what: what the largest is, for the message.

    Raises:
      InputError: for what are no whole numbers, and numbers outside of the range.
    """
    try:
        found = sorted({int(part) for part in given.split(',')})
    except ValueError:
        raise InputError(f'{option} takes whole numbers like 1,2,5, got {given!r}') from None
    if found[0] < low or found[-1] > high:
        raise InputError(f'{option} takes numbers from {low} to {high}, {what}, got {given}')
    return found
