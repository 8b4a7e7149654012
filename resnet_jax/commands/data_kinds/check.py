"""`resnet-jax data check`."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_jax import text
from resnet_jax.commands import data_options
from resnet_jax.errors import InputError, Range, RunError, check_number
from resnet_jax.json_files import json_text

if TYPE_CHECKING:
    from resnet_jax.data.inspection import Case, Inspection
    from resnet_jax.experiments.reports.gallery_page import Card

TEXT = 'Find images that are broken, repeated, in several splits, oddly sized or of one colour.'
EPILOG = (
    'Files are read and hashed, and their headers looked at; --full also decodes them, which '
    'finds damage behind the header, images of one colour, equal pixels in different files, and '
    'what is wrong with masks, boxes and maps of depth. Exit code: 1 if training would stop at an '
    'image, because it cannot be read or its label is none of the classes (with --strict, if '
    'anything at all was found); 0 otherwise; 2 for bad usage.'
)
SHOWN = 12  # cases of each concern on the page and in the terminal
SHOWN_CLASSES = 30  # in the terminal: the smallest; the page has all
LISTED = 1000  # in the JSON


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of this kind."""
    data_options.add_split_options(parser)
    check = parser.add_argument_group('the check')
    check.add_argument('--full', action='store_true', help='decode every image')
    check.add_argument(
        '--image-size',
        type=int,
        metavar='S',
        help="side of the model's input: images of less than half of it are reported; default: "
        'those of less than a quarter of the median',
    )
    check.add_argument(
        '--channels', type=int, default=3, metavar='N', help='1, 3 (default), or the bands of TIFFs'
    )
    check.add_argument(
        '--strict', action='store_true', help='exit with code 1 if anything was found'
    )
    check.add_argument(
        '--out',
        type=Path,
        default=Path('data_check'),
        metavar='DIR',
        help='for check.json and check.html (default: data_check)',
    )
    check.add_argument('--json', action='store_true', help='print one JSON object')


def run(options: argparse.Namespace) -> None:
    """Checks the images, prints the tables and writes the files."""
    from resnet_jax import data
    from resnet_jax.data.inspection import CONCERNS, find_concerns, inspect
    from resnet_jax.data.resizing import LARGEST_SIDE
    from resnet_jax.experiments.reports.document import write_texts
    from resnet_jax.records.writers import check_folder

    if options.image_size is not None:
        check_number('--image-size', options.image_size, Range(1, LARGEST_SIDE, whole=True))
    check_number('--channels', options.channels, Range(1, data.MOST_CHANNELS, whole=True))
    check_folder(options.out, 'give another --out DIR')
    sources = data_options.open_splits(options, dense=True)
    found = [inspect(source.with_bands(options.channels), options.full) for source in sources]
    concerns = find_concerns(found, options.image_size)
    result = _result(options, found, concerns)
    options.out.mkdir(parents=True, exist_ok=True)
    page = _page(options, found, concerns, result)
    texts = {'check.json': json_text(result, indent=1) + '\n', 'check.html': page}
    written = write_texts(options.out, texts)
    if options.json:
        print(json_text(result))
    else:
        _print(result)
        print('\nwritten: ' + ', '.join(map(str, written)))
    counts = {level: 0 for level in ('error', 'warning')}
    for name, cases in concerns.items():
        counts[CONCERNS[name].level] += len(cases)
    if counts['error']:
        raise RunError(
            f'training would stop at {counts["error"]:,} images of {options.data}; see {written[1]}'
        )
    if options.strict and counts['warning']:
        raise RunError(f'{counts["warning"]:,} findings in {options.data}; see {written[1]}')


def _result(
    options: argparse.Namespace,
    found: 'Sequence[Inspection]',
    concerns: 'Mapping[str, Sequence[Case]]',
) -> dict[str, Any]:
    """What was found, as JSON data."""
    from resnet_jax.data.inspection import CONCERNS

    return {
        'data': options.data,
        'full': options.full,
        'image_size': options.image_size,
        'splits': {each.source.split: _split(each) for each in found},
        'findings': {
            name: {
                'level': CONCERNS[name].level,
                'title': CONCERNS[name].title,
                'count': len(cases),
                'cases': [_case(found, case) for case in cases[:LISTED]],
            }
            for name, cases in concerns.items()
        },
    }


def _split(each: 'Inspection') -> dict[str, Any]:
    import numpy as np

    names, counts = each.source.class_names, each.counts.tolist()
    known = each.sizes[each.sizes[:, 0] > 0]
    sizes = {
        key: [int(value) for value in np.quantile(known[:, i], [0, 0.5, 1], method='nearest')]
        for i, key in enumerate(('width', 'height'))
        if len(known)
    }
    found = {'n': len(each.labels), **sizes, 'classes': dict(zip(names, counts, strict=True))}
    # Those of dense data, of which an image may have several.
    return found if not each.source.is_dense else {**found, 'read': int(each.read.sum())}


def _case(found: 'Sequence[Inspection]', case: 'Case') -> dict[str, Any]:
    images = [
        {
            'split': (each := found[number]).source.split,
            'index': index,
            'stored_as': _stored_as(each, index),
            **({} if each.source.is_dense else {'label': int(each.labels[index])}),
        }
        for number, index in case.images[:LISTED]
    ]
    return {'text': text.printable(case.text), 'images': images}


def _stored_as(each: 'Inspection', index: int) -> str:
    try:
        return text.printable(each.source.stored_as(index))
    except (InputError, OSError):  # what is broken may be the name too
        return f'{each.source.split} example {index}'


def _tables(result: Mapping[str, Any]) -> list[text.Table]:
    """Findings, and classes by split."""
    splits = result['splits']
    findings = tuple(
        (of['title'], of['level'], f'{of["count"]:,}') for of in result['findings'].values()
    )
    notes = () if result['full'] else ('Headers only; --full decodes every image.',)
    sizes = tuple(
        (
            name,
            f'{of["n"]:,}',
            *(
                ' / '.join(map(str, of[key])) if key in of else text.NOTHING
                for key in ('width', 'height')
            ),
        )
        for name, of in splits.items()
    )
    classes = list(next(iter(splits.values()))['classes'])
    counts = tuple(
        (name, *(f'{of["classes"][name]:,}' for of in splits.values())) for name in classes
    )
    return [
        text.Table('Findings', ('finding', 'level', 'number'), findings, notes),
        text.Table(
            'Splits',
            ('split', 'images', 'width: least / median / most', 'height: least / median / most'),
            sizes,
        ),
        text.Table('Classes', ('class', *splits), counts, _of_counts(splits)),
    ]


def _of_counts(splits: Mapping[str, Any]) -> tuple[str, ...]:
    """What the counts of classes are, where an image has several."""
    read = [of['read'] for of in splits.values() if 'read' in of]
    if not read:
        return ()
    of_all = sum(of['n'] for of in splits.values())
    how = '' if sum(read) == of_all else '; --full reads all that can be read'
    return (
        f'Images in which the class is; targets of {sum(read):,} of {of_all:,} were read{how}.',
    )


def _print(result: Mapping[str, Any]) -> None:
    width = text.terminal_width()
    *others, classes = _tables(result)
    rows = classes.rows
    if len(rows) > SHOWN_CLASSES:
        totals = {row: sum(int(cell.replace(',', '')) for cell in row[1:]) for row in rows}
        rows = tuple(sorted(rows, key=totals.__getitem__)[:SHOWN_CLASSES])
    parts = [text.aligned(t.header, t.rows, width) for t in others]
    parts.append(text.aligned(classes.header, rows, width))
    parts += [text.paragraph(note, width) for note in classes.notes]
    if len(rows) < len(classes.rows):
        parts.append(f'the {len(rows)} smallest of {len(classes.rows):,} classes')
    for of in result['findings'].values():
        if of['count']:
            lines = [
                f'{case["text"]}: {", ".join(i["stored_as"] for i in case["images"][:SHOWN])}'
                for case in of['cases'][:SHOWN]
            ]
            more = of['count'] - len(lines)
            lines += [f'... and {more:,} more'] * (more > 0)
            parts.append(f'{of["title"]}:\n{text.bullets(lines, width)}')
    print('\n\n'.join(parts))


def _page(
    options: argparse.Namespace,
    found: 'Sequence[Inspection]',
    concerns: 'Mapping[str, Sequence[Case]]',
    result: Mapping[str, Any],
) -> str:
    from resnet_jax.data.inspection import CONCERNS
    from resnet_jax.experiments.reports.document import timestamp
    from resnet_jax.experiments.reports.gallery_page import gallery_page

    n = sum(len(each.labels) for each in found)
    nothing = ['No problems were found.'] * (not any(concerns.values()))
    statement = [
        f'{n:,} images in {", ".join(each.source.split for each in found)}',
        *(f'{of["title"]}: {of["count"]:,}' for of in result['findings'].values() if of['count']),
        *nothing,
    ]
    galleries = [
        (CONCERNS[name].title, [card for case in cases[:SHOWN] for card in _cards(found, case)])
        for name, cases in concerns.items()
        if cases
    ]
    how = 'every image was decoded' if options.full else 'files were hashed, headers looked at'
    facts = [('data', options.data), ('how', how), ('written', timestamp(None))]
    tables = _tables(result)
    return gallery_page(f'Check of {options.data}', statement, galleries, tables, {}, facts)


def _cards(found: 'Sequence[Inspection]', case: 'Case') -> 'list[Card]':
    """The first two images of a case, and what is the matter with them."""
    from resnet_jax.experiments.reports.gallery_page import Card

    cards = []
    for number, index in case.images[:2]:
        each = found[number]
        names, label = each.source.class_names, int(each.labels[index])
        name = names[label] if 0 <= label < len(names) else f'label {label}'
        words = [] if each.source.is_dense else [('', name)]
        lines = [('', case.text), *words, ('note', _stored_as(each, index))]
        try:
            image = None if each.source.decode else each.source[index]['image']
        except InputError:
            image = None
        cards.append(Card(image, lines))
    return cards
