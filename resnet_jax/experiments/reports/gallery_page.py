"""A page with galleries of images, tables and plots: what an evaluation or a check found."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.experiments.reports.document import filled, html_table
from resnet_jax.text import Table, printable

TEMPLATE = Path(__file__).with_name('gallery.html.template')
LARGEST = 160  # side of a thumbnail, pixels
_PIXELATED = 64  # smaller images are enlarged without smoothing


class Card(NamedTuple):
    """An image with what is said of it.

    Attributes:
      image: uint8 [height, width, channels]; None if there is none to show.
      lines: (kind, text) below it; the kind is '', 'right', 'wrong' or 'note'.
    """

    image: UInt8[np.ndarray, 'height width c'] | None
    lines: Sequence[tuple[str, str]]


def gallery_page(
    title: str,
    statement: Iterable[str],
    galleries: Iterable[tuple[str, Sequence[Card]]],
    tables: Iterable[Table],
    plots: Mapping[str, Path],
    facts: Iterable[tuple[str, str]],
) -> str:
    """The page as HTML that needs no other file and runs no script.

    Args:
      title: of the page.
      statement: the figures, a sentence each.
      galleries: title -> images, in order.
      tables: of figures.
      plots: what a picture shows -> its PNG, which the page holds.
      facts: (name, value) of how the page was made.
    """
    pictures = '\n'.join(
        f'<figure><img alt="{_text(name)}" src="{_uri(path.read_bytes(), "png")}"></figure>'
        for name, path in plots.items()
    )
    plotted = f'<h2>Pictures</h2>\n<div class="plots">\n{pictures}\n</div>' if plots else ''
    return filled(
        TEMPLATE,
        {
            'title': _text(title),
            'statement': '\n'.join(f'<li>{_text(each)}</li>' for each in statement),
            'galleries': '\n'.join(_gallery(name, cards) for name, cards in galleries),
            'tables': '\n'.join(map(html_table, tables)),
            'plots': plotted,
            'facts': '\n'.join(
                f'<dt>{_text(name)}</dt><dd>{_text(value)}</dd>' for name, value in facts
            ),
        },
    )


def _gallery(title: str, cards: Sequence[Card]) -> str:
    shown = '\n'.join(map(_card, cards))
    none = '' if cards else '\n<p class="note">There are none.</p>'
    return f'<h2>{_text(title)}</h2>\n<div class="gallery">\n{shown}\n</div>{none}'


def thumbnail(image: UInt8[np.ndarray, 'height width c']) -> tuple[str, bool]:
    """An image as a data URI, and whether its pixels are to stay visible when it is enlarged.

    Of more bands than RGB has, the first three are shown; of two, the first.
    """
    shown = image[:, :, : 3 if image.shape[2] >= 3 else 1]
    picture = Image.fromarray(np.broadcast_to(shown, (*shown.shape[:2], 3)).copy())
    small = picture.width <= _PIXELATED
    picture.thumbnail((LARGEST, LARGEST))
    out = io.BytesIO()
    kind = 'png' if small else 'jpeg'
    picture.save(out, kind, **({} if small else {'quality': 88}))
    return _uri(out.getvalue(), kind), small


def _card(card: Card) -> str:
    shown = ''.join(
        f'<span{f" class={kind!r}" if kind else ""}>{_text(line)}</span>'
        for kind, line in card.lines
    )
    picture, image = '', card.image
    if image is not None and image.ndim == 4:
        image = image[len(image) // 2]  # of a video, the frame in its middle
    if image is not None and image.ndim == 3:  # of a series, nothing
        uri, small = thumbnail(image)
        alt = _text(', '.join(line for _, line in card.lines))
        look = 'thumbnail pixels' if small else 'thumbnail'
        picture = f'<img class="{look}" alt="{alt}" src="{uri}">'
    return f'<figure>{picture}<figcaption>{shown}</figcaption></figure>'


def _text(text: Any) -> str:
    return html.escape(printable(str(text)))


def _uri(contents: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(contents).decode("ascii")}'
