"""A run's folder as bytes, to travel between machines that share no files."""

import io
import shutil
import tarfile
from pathlib import Path

from resnet_jax.errors import RunError

_STAYS = ('.lock',)


def pack(folder: Path) -> bytes:
    """The files of a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        for path in sorted(folder.iterdir()):
            if path.name not in _STAYS:
                archive.add(path, path.name)
    return buffer.getvalue()


def unpack(data: bytes, folder: Path) -> None:
    """Replaces a folder, which need not exist, by what was packed. Nothing lands outside it.

    Raises:
      RunError: for what is no such archive; the folder is then as it was.
    """
    new, old = (folder.with_name(f'.{folder.name}.{part}') for part in ('new', 'old'))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if not (member.isfile() or member.isdir()):
                    raise tarfile.TarError(f'{member.name} is no file')
            archive.extractall(new, filter='data')  # refuses paths that lead out of it
    except (tarfile.TarError, OSError, EOFError) as error:
        shutil.rmtree(new, ignore_errors=True)
        raise RunError(f'what came back for {folder} cannot be unpacked: {error}') from error
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
