"""Images with a class for every pixel: pairs of files, and Pascal VOC's layout."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from resnet_jax.data.images import IMAGE_SUFFIXES
from resnet_jax.data.pictures import Picture
from resnet_jax.data.sources import Catalog, Record
from resnet_jax.data.targets import IGNORED
from resnet_jax.errors import InputError, first_line, shown
from resnet_jax.json_files import read_json, unreadable
from resnet_jax.text import printable

# github.com/pascalvoc: VOC2012 development kit, section 4; 255 is the border.
VOC_CLASSES = (
    *('background', 'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat'),
    *('chair', 'cow', 'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant'),
    *('sheep', 'sofa', 'train', 'tvmonitor'),
)
_LAYOUT = (
    'PATH/SPLIT/images/NAME.jpg with PATH/SPLIT/masks/NAME.png, and PATH/classes.json, '
    '{"classes": ["background", "cat"]}, for masks of colours with "colours": [[0, 0, 0], [255, 0, '
    '0]]'
)
Colour = tuple[int, int, int]


class Pair(NamedTuple):
    """An image and its mask, paths."""

    image: str
    mask: str


def masks_catalog(path: str) -> Catalog:
    """Images and masks of a folder, laid out as `_LAYOUT` says.

    A mask is grey or has a palette, and its values are the numbers of the classes, 255 to ignore a
    pixel; or it has the colours that classes.json gives, and other colours are ignored. A split
    without a folder of masks is left out, with a note.

    Raises:
      InputError: for another layout, an image without a mask, or bad names or colours.
    """
    root = pathlib.Path(path).expanduser()
    names, colours = _read_classes(root)
    folders = sorted(p.parent for p in root.glob('*/images') if p.is_dir())
    known = [folder for folder in folders if (folder / 'masks').is_dir()]
    if not known:
        raise InputError(f'{root} has no folders SPLIT/images and SPLIT/masks; wanted: {_LAYOUT}')
    pairs = {folder.name: _pairs(folder / 'images', folder / 'masks') for folder in known}
    notes = [f'{f.name} has no folder of masks and is left out' for f in folders if f not in known]
    return dataclasses.replace(_catalog(root, pairs, names, colours), notes=tuple(notes))


def voc_catalog(path: str) -> Catalog:
    """Pascal VOC's segmentation: the folder of a year, such as VOCdevkit/VOC2012.

    Raises:
      InputError: for another layout.
    """
    root = pathlib.Path(path).expanduser()
    lists = sorted((root / 'ImageSets' / 'Segmentation').glob('*.txt'))
    if not lists:
        raise InputError(
            f'{root} has no ImageSets/Segmentation/*.txt; give the folder of a year of Pascal VOC, '
            'such as VOCdevkit/VOC2012'
        )
    pairs = {}
    for file in lists:
        found = [
            Pair(
                str(root / 'JPEGImages' / f'{_plain(name, file)}.jpg'),
                str(root / 'SegmentationClass' / f'{name}.png'),
            )
            for name in _words(file)
        ]
        for one in (one for pair in found for one in pair):
            if not os.path.isfile(one):
                raise InputError(
                    f'{printable(one)} does not exist, and {file} names it; add it, or take its '
                    'name out'
                )
        if found:
            pairs[file.stem] = found
    return _catalog(root, pairs, VOC_CLASSES, None)


def _words(file: pathlib.Path) -> list[str]:
    try:
        return file.read_text(encoding='utf-8').split()
    except (OSError, ValueError) as error:
        raise unreadable(file, error, 'give one name of an image a line') from None


def _plain(name: str, file: pathlib.Path) -> str:
    """The name of a file, which must stay inside of its folder."""
    if name in ('.', '..') or '/' in name or '\\' in name:
        raise InputError(
            f'{file} holds {shown(name)}, which is no name of an image; give names without folders'
        )
    return name


def _pairs(images: pathlib.Path, masks: pathlib.Path) -> list[Pair]:
    found: list[Pair] = []
    by_mask: dict[str, pathlib.Path] = {}
    for image in sorted(images.iterdir()):
        if image.name.startswith('.') or image.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        mask = masks / f'{image.stem}.png'
        if not mask.is_file():
            raise InputError(
                f'{printable(str(image))} has no mask {printable(str(mask))}; add it, or remove '
                'the image'
            )
        if (other := by_mask.setdefault(str(mask), image)) != image:
            raise InputError(
                f'{printable(str(image))} has the mask of {printable(other.name)}; remove one of '
                'the images, or rename it'
            )
        found.append(Pair(str(image), str(mask)))
    if not found:
        raise InputError(f'{images} holds no images; wanted: {_LAYOUT}')
    return found


def _read_classes(root: pathlib.Path) -> tuple[tuple[str, ...], dict[Colour, int] | None]:
    """Names of the classes, and the class of each colour where masks have colours."""
    path = root / 'classes.json'
    if not path.is_file():
        raise InputError(f'{path} does not exist; wanted: {_LAYOUT}')
    found = read_json(path, f'wanted: {_LAYOUT}')
    listed, given = found.get('classes'), found.get('colours')
    names = tuple(listed) if isinstance(listed, list) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise InputError(f'{path} must give the names of the classes; wanted: {_LAYOUT}')
    if len(set(names)) != len(names) or len(names) > IGNORED:
        raise InputError(f'{path} must give each class once, and at most {IGNORED} of them')
    if given is None:
        return names, None
    if not isinstance(given, list) or len(given) != len(names):
        raise InputError(f'{path} must give as many colours as classes; wanted: {_LAYOUT}')
    colours: dict[Colour, int] = {}
    for number, colour in enumerate(given):
        whole = isinstance(colour, list) and len(colour) == 3
        if not whole or not all(type(part) is int and 0 <= part <= 255 for part in colour):
            raise InputError(
                f'{path} must give three numbers from 0 to 255 for {names[number]!r}, not '
                f'{shown(colour)}'
            )
        if colours.setdefault((colour[0], colour[1], colour[2]), number) != number:
            raise InputError(f'{path} gives {colour} to two classes; give each its own colour')
    return names, colours


def _catalog(
    root: pathlib.Path,
    pairs: Mapping[str, Sequence[Pair]],
    names: tuple[str, ...],
    colours: Mapping[Colour, int] | None,
) -> Catalog:
    return Catalog(
        {split: len(found) for split, found in pairs.items()},
        names,
        3,
        lambda splits: functools.partial(_read, {s: pairs[s] for s in splits}, colours),
        version=_digest(pairs, colours),
        root=str(root),
        name_of=functools.partial(_path, pairs),
        check=functools.partial(_check_sizes, pairs),
        targets=('segmentation',),
    )


def _read(
    pairs: Mapping[str, Sequence[Pair]],
    colours: Mapping[Colour, int] | None,
    split: str,
    indices: Sequence[int],
) -> list[Record]:
    return [
        (pairs[split][i].image, functools.partial(_targets, pairs[split][i].mask, colours))
        for i in indices
    ]


def _path(pairs: Mapping[str, Sequence[Pair]], split: str, index: int) -> str:
    return pairs[split][index].image


def _targets(
    path: str, colours: Mapping[Colour, int] | None, picture: Picture
) -> dict[str, np.ndarray]:
    return {'segmentation': read_mask(path, colours)}


def read_mask(path: str, colours: Mapping[Colour, int] | None = None) -> UInt8[np.ndarray, 'h w']:
    """The classes of a mask.

    Args:
      path: of a PNG.
      colours: the class of each; others are ignored. None: the values are the numbers.

    Raises:
      InputError: if it cannot be read, or is of another kind.
    """
    try:
        with Image.open(path) as image:
            if colours is not None:
                # By way of RGBA, since Pillow warns of palettes with transparency.
                pixels = np.asarray(image.convert('RGBA'), np.int32)
            elif image.mode in ('L', 'P', '1'):
                return np.asarray(image).astype(np.uint8)
            else:
                raise InputError(
                    f'{printable(path)} has pixels of {image.mode}, which are no numbers of '
                    'classes; save the mask as grey of 8 bits or with a palette, or give the '
                    'colours in the classes.json of masks:PATH'
                )
    except InputError:
        raise
    except Exception as error:  # Pillow raises many kinds on damaged files
        raise _unreadable(path, error) from None
    keys = pixels[..., 0] * 65536 + pixels[..., 1] * 256 + pixels[..., 2]
    found = np.full(keys.shape, IGNORED, np.uint8)
    for (red, green, blue), number in colours.items():
        found[keys == red * 65536 + green * 256 + blue] = number
    return found


def _check_sizes(pairs: Mapping[str, Sequence[Pair]], split: str, index: int) -> None:
    """Refuses a mask of another size than its image; of the image as it is shown, upright."""
    pair, sizes = pairs[split][index], []
    for path in pair:
        try:
            with Image.open(path) as image:
                turned = path == pair.image and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                sizes.append(image.size[::-1] if turned else image.size)
        except Exception as error:
            raise _unreadable(path, error) from None
    if sizes[0] != sizes[1]:
        (a, b), (c, d) = sizes
        raise InputError(
            f'{printable(pair.mask)} has {c}x{d} pixels, and its image, upright, {a}x{b}; give '
            'both the same size'
        )


def _unreadable(path: str, error: Exception) -> InputError:
    what = printable(getattr(error, 'strerror', None) or first_line(error))
    return InputError(f'cannot read {printable(path)}: {what}; replace it')


def _digest(pairs: Mapping[str, Sequence[Pair]], colours: Mapping[Colour, int] | None) -> str:
    """Of names and sizes of all files, wherever their folder lies, and of what colours mean."""
    lines = [json.dumps(list(colours.items()))] if colours is not None else []
    lines += [
        json.dumps([split, os.path.basename(path), os.stat(path).st_size])
        for split, found in pairs.items()
        for pair in found
        for path in pair
    ]
    return hashlib.blake2b('\n'.join(lines).encode(), digest_size=8).hexdigest()
