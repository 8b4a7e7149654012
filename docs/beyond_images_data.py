"""Make the folders of texts and sounds that the configs `text_bytes` and `audio` are trained on.

    python docs/beyond_images_data.py texts data/languages
    python docs/beyond_images_data.py sounds data/syllables

Texts: pieces of the manual pages that Debian's packages manpages-de, manpages-fr, ... hold in 14
languages (upstream manpages-l10n, GPL-3+ and the licences of the pages); the class is the language.
A page is in the same split in all languages. Sounds: the spoken letters and syllables of Debian's
package klettres-data (KLettres, GPL-2+) in 20 languages; the class is the language, for each of
which a few speakers at most were recorded. Needs apt-get and dpkg-deb; nothing is installed.
"""

import argparse
import gzip
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

LANGUAGES = ('cs', 'da', 'de', 'es', 'fi', 'fr', 'hu', 'it', 'nb', 'nl', 'pl', 'pt_BR', 'ro', 'sv')
PACKAGES = {
    'texts': [f'manpages-{language.lower().replace("_", "-")}' for language in LANGUAGES],
    'sounds': ['klettres-data'],
}
PIECE = 256  # bytes of a text, at most
PIECES_PER_PAGE = 8
PAGES = 160  # of a language, at most
TEST_SHARE = 5  # one name in five is for testing


def main(arguments: Sequence[str] | None = None) -> None:
    """Downloads the packages and writes the folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument('kind', choices=sorted(PACKAGES))
    parser.add_argument('folder', type=Path)
    options = parser.parse_args(arguments)
    if options.folder.exists():
        parser.error(f'{options.folder} exists; give a new folder')
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        subprocess.run(['apt-get', 'download', *PACKAGES[options.kind]], cwd=here, check=True)
        for package in sorted(here.glob('*.deb')):
            subprocess.run(['dpkg-deb', '-x', package, here / 'root'], check=True)
        share = here / 'root' / 'usr' / 'share'
        write = {'texts': write_texts, 'sounds': write_sounds}[options.kind]
        print(f'{write(share, options.folder):,} files in {options.folder}')


def split_of(name: str) -> str:
    """The split that everything of a name belongs to."""
    return 'test' if zlib.crc32(name.encode()) % TEST_SHARE == 0 else 'train'


def write_texts(share: Path, folder: Path) -> int:
    """Writes pieces of manual pages.

    Args:
      share: of an unpacked package, with man/LANGUAGE/manN/PAGE.N.gz.
      folder: to write SPLIT/LANGUAGE/PAGE-NUMBER.txt in.

    Returns:
      The number of files.
    """
    count = 0
    for language in LANGUAGES:
        pages = sorted(share.glob(f'man/{language}/man*/*.gz'), key=_order)
        for page in [page for page in pages if not page.is_symlink()][:PAGES]:
            name = page.name.removesuffix('.gz')
            for number, piece in enumerate(pieces(plain(gzip.decompress(page.read_bytes())))):
                file = folder / split_of(name) / language / f'{name}-{number}.txt'
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(piece)
                count += 1
    return count


def _order(page: Path) -> int:
    """An order that does not depend on the language, and mixes the sections."""
    return zlib.crc32(page.name.encode())


def plain(page: bytes) -> str:
    """The running text of a manual page: without requests, fonts, comments and most escapes."""
    lines = page.decode('utf-8', 'ignore').splitlines()
    text = ' '.join(line for line in lines if line and line[0] not in ".'")
    text = re.sub(r'\\f(\[[^]]*\]|\(..|.)|\\[&%/,|^]|\\"[^\n]*', '', text)
    text = re.sub(r'\\\((..)|\\\[([^]]*)\]|\\s[-+]?\d', ' ', text).replace('\\-', '-')
    return ' '.join(text.replace('\\', '').split())


def pieces(text: str) -> list[bytes]:
    """The first pieces of a text, of whole words, none longer than `PIECE` bytes."""
    found, piece = [], b''
    for word in text.encode().split():
        if len(piece) + 1 + len(word) > PIECE:
            found.append(piece)
            piece = b''
        piece = piece + b' ' + word if piece else word[:PIECE]
    return [piece for piece in found if piece][:PIECES_PER_PAGE]


def write_sounds(share: Path, folder: Path) -> int:
    """Copies the sounds of letters and syllables.

    Args:
      share: of an unpacked package, with klettres/LANGUAGE/{alpha,syllab}/*.ogg.
      folder: to write SPLIT/LANGUAGE/KIND-NAME.ogg in.

    Returns:
      The number of files.
    """
    count = 0
    for sound in sorted(share.glob('klettres/*/*/*.ogg')):
        language, kind = sound.parts[-3:-1]
        # Each of a language by itself: a letter is another sound in another language.
        split = split_of(f'{language}/{kind}/{sound.name}')
        file = folder / split / language / f'{kind}-{sound.name}'
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sound, file)
        count += 1
    return count


if __name__ == '__main__':
    main()
