"""How a transform is declared, and how the text that chooses it is read.

A config names transforms as texts: `flip`, or `pad_crop(pad=2, mode=reflect)`. A text is parsed as
Python and never evaluated; values are literals, or bare words for names.
"""

import ast
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

from resnet_jax.errors import InputError, Range, check_choice, check_number, shown

Value = bool | float | str | tuple[float, float]
_HOW = 'write NAME or NAME(KEY=VALUE, ...), such as pad_crop(pad=2)'


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A parameter of a transform.

    Attributes:
      default: a number, a name, a truth value, or a pair of numbers, the smaller first; its kind is
        that of all values.
      allowed: the numbers that it takes, of a pair each of the two; or the names; () of a truth
        value.
      meaning: what it is, in a few words.
    """

    default: Value
    allowed: Range | tuple[str, ...]
    meaning: str

    def read(self, name: str, value: Any) -> Value:
        """Checks a value and gives it in the default's type.

        Args:
          name: 'TRANSFORM: PARAMETER', used in the message.
          value: as it was given.

        Raises:
          InputError: saying what the parameter takes.
        """
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise InputError(f'{name} must be True or False, got {shown(value)}')
            return value
        if not isinstance(self.allowed, Range):
            if not isinstance(value, str):
                raise InputError(f'{name} must be a name, got {shown(value)}')
            check_choice(name, value, self.allowed)
            return value
        if not isinstance(self.default, tuple):
            check_number(name, value, self.allowed)
            return int(value) if self.allowed.whole else float(value)
        if not isinstance(value, tuple | list) or len(value) != 2:
            raise InputError(f'{name} must be two numbers, the smaller first, got {shown(value)}')
        for number in value:
            check_number(f'{name}: each of the two', number, self.allowed)
        if value[0] > value[1]:
            raise InputError(f'{name} must be two numbers, the smaller first, got {shown(value)}')
        kind = int if self.allowed.whole else float
        return kind(value[0]), kind(value[1])


@dataclasses.dataclass(frozen=True)
class Transform:
    """A way to augment training images.

    Attributes:
      where: 'host' while an image is read, with numpy; or 'device', inside `jax.jit`.
      level: 'example' sees one image; 'batch' sees the images and targets of a batch, on the
        device only; 'views' adds smaller images to each, on the device and at the end.
      stream: sets its random numbers apart from those of the other transforms.
      apply: by `where` and `level`, with the parameters as keywords:
        host, example: (rng, image, size) -> uint8 [size, size, C]; the first of a run's gets a
        `Picture`, which is not decoded yet, the others uint8 [size, size, C]
        device, example: (key, image [H, W, C]) -> image
        device, batch: (key, images [N, H, W, C], distributions [N, classes], partner) -> (images,
        distributions); `partner` gives, of an array [N, ...], the row of each example's partner in
        the whole batch
        device, views: (key, image [H, W, C]) -> images [K, S, S, C]
      parameters: name -> parameter.
      domain: what a device transform sees: 'pixels', uint8 images; 'normalised' ones, in which 0 is
        the mean pixel; or 'any', whichever comes at its place.
      channels: of the images that it takes; None: any.
      follow: how masks, boxes and maps of depth follow the image: (key, targets, height and width
        of the image), with the parameters as keywords, -> targets; 'stay' where no pixel moves;
        None: it takes no data that has them.
      dimensions: of what it takes: 1 series [L, C], 2 images, 3 videos and volumes.
      source: paper and section.
    """

    where: Literal['host', 'device']
    level: Literal['example', 'batch', 'views']
    stream: int
    apply: Callable[..., Any]
    parameters: Mapping[str, Parameter] = dataclasses.field(default_factory=dict)
    domain: Literal['pixels', 'normalised', 'any'] = 'any'
    channels: tuple[int, ...] | None = None
    follow: Callable[..., Any] | Literal['stay'] | None = None
    dimensions: tuple[int, ...] = (2,)
    source: str = ''


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A transform with its settings, as a config chooses it.

    Attributes:
      name: its key in the table.
      transform: its row.
      settings: a value for every parameter.
    """

    name: str
    transform: Transform
    settings: Mapping[str, Any]

    def apply(self, *arguments: Any) -> Any:
        """The row's function with these settings."""
        return self.transform.apply(*arguments, **self.settings)

    def follow(self, key: Any, targets: Any, size: tuple[int, int]) -> Any:
        """The targets of an image that `apply` has changed with this key."""
        if callable(self.transform.follow):
            return self.transform.follow(key, targets, size, **self.settings)
        return targets

    def __str__(self) -> str:
        """The text that chooses it, without the settings that are the default."""
        found = [
            f'{name}={value}'
            for name, value in self.settings.items()
            if value != self.transform.parameters[name].default
        ]
        return f'{self.name}({", ".join(found)})' if found else self.name


def read_transform(text: str, table: Mapping[str, Transform], what: str = 'transform') -> Chosen:
    """Reads a text such as `pad_crop(pad=2)`.

    Args:
      text: as a config holds it.
      table: name -> transform.
      what: one of the table is called, for errors.

    Raises:
      InputError: if it cannot be read, for an unknown transform or parameter (with the nearest
        names), and for a value that the parameter does not take.
    """
    name, given = _parsed(text, what)
    check_choice(what, name, table)
    transform, settings = table[name], {}
    for key in given:
        if not transform.parameters:
            raise InputError(f'{what} {name!r} has no parameters, got {shown(key)}')
        check_choice(f'parameter of the {what} {name!r}:', key, transform.parameters)
    for key, parameter in transform.parameters.items():
        value = given.get(key, parameter.default)
        settings[key] = parameter.read(f'{what} {name}: {key}', value)
    return Chosen(name, transform, settings)


def _parsed(text: str, what: str) -> tuple[str, dict[str, Any]]:
    """The name and the values by their keys."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of text that is almost Python
            node = ast.parse(text.strip(), mode='eval').body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            keys = [keyword.arg for keyword in node.keywords]
            if node.args or None in keys:
                raise InputError(f'{what} {shown(text)} has values without a key; {_HOW}')
            values = map(_value, (keyword.value for keyword in node.keywords))
            return node.func.id, dict(zip(map(str, keys), values, strict=True))
    except InputError:
        raise
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    raise InputError(f'{what} {shown(text)} cannot be read; {_HOW}')


def _value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)


def split_list(text: str) -> tuple[str, ...]:
    """The items of a list that commas separate, but for commas in parentheses."""
    items, depth = [''], 0
    for letter in text:
        depth += (letter == '(') - (letter == ')')
        if letter == ',' and depth <= 0:
            items.append('')
        else:
            items[-1] += letter
    return tuple(item.strip() for item in items if item.strip())
