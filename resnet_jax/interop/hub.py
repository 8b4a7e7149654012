"""Published weights by name: found in a folder, on Hugging Face or among torchvision's.

This gets a file and checks that it is the published one; `files` reads it.
"""

import functools
import hashlib
import http.client
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from resnet_jax.errors import InputError, first_line, unknown_name

# Where torchvision's files are published.
TORCHVISION_ADDRESS = 'https://download.pytorch.org/models'
# None is huggingface_hub's own address, which the environment variable HF_ENDPOINT changes.
HUGGING_FACE_ADDRESS: str | None = None

# What a repository's weights are called, best first: safetensors need no PyTorch to be read.
HUGGING_FACE_FILES = ('model.safetensors', 'pytorch_model.bin')

FORMS = 'a path, hf:OWNER/REPO[/FILE][@REVISION] or torchvision:NAME[:VARIANT]'
BY_HAND = 'or fetch the file by hand and give its path'


class Published(NamedTuple):
    """A file of torchvision's weights.

    Attributes:
      file: its name, which ends with the first 8 hexadecimal digits of its SHA-256.
      preprocessing: 'torchvision' (shorter side resized to 256, centre 224) or 'torchvision_v2'
        (to 232, centre 224).
    """

    file: str
    preprocessing: str


_v1 = functools.partial(Published, preprocessing='torchvision')
_v2 = functools.partial(Published, preprocessing='torchvision_v2')

# Name -> variant -> file, from torchvision/models/resnet.py (the `*_Weights` classes). The last
# variant of a row is torchvision's DEFAULT.
TORCHVISION = {
    'resnet18': {'v1': _v1('resnet18-f37072fd.pth')},
    'resnet34': {'v1': _v1('resnet34-b627a593.pth')},
    'resnet50': {'v1': _v1('resnet50-0676ba61.pth'), 'v2': _v2('resnet50-11ad3fa6.pth')},
    'resnet101': {'v1': _v1('resnet101-63fe2227.pth'), 'v2': _v2('resnet101-cd907fc2.pth')},
    'resnet152': {'v1': _v1('resnet152-394f9c45.pth'), 'v2': _v2('resnet152-f82ba261.pth')},
    'resnext50_32x4d': {
        'v1': _v1('resnext50_32x4d-7cdf4587.pth'),
        'v2': _v2('resnext50_32x4d-1a0047aa.pth'),
    },
    'resnext101_32x8d': {
        'v1': _v1('resnext101_32x8d-8ba56ff5.pth'),
        'v2': _v2('resnext101_32x8d-110c445d.pth'),
    },
    # Published only once, as IMAGENET1K_V1, but with the newer recipe and its preprocessing.
    'resnext101_64x4d': {'v1': _v2('resnext101_64x4d-173b62eb.pth')},
    'wide_resnet50_2': {
        'v1': _v1('wide_resnet50_2-95faca4d.pth'),
        'v2': _v2('wide_resnet50_2-9ba9bcbe.pth'),
    },
    'wide_resnet101_2': {
        'v1': _v1('wide_resnet101_2-32ee1156.pth'),
        'v2': _v2('wide_resnet101_2-d733dc28.pth'),
    },
}


def fetch(spec: str | os.PathLike) -> Path:
    """The file of weights that a text names, downloaded if it is not here yet.

    Args:
      spec: a path; or `hf:OWNER/REPO[/FILE][@REVISION]`, without FILE the repository's
        model.safetensors, else its pytorch_model.bin; or `torchvision:NAME[:VARIANT]` with VARIANT
        v1 or v2, without it the newest. torchvision's files go to the folder resnet_jax in
        $XDG_CACHE_HOME or ~/.cache, those of Hugging Face to huggingface_hub's own cache.

    Returns:
      The path of the file, or of a folder where the path given is one.

    Raises:
      InputError: if there is no such file, it cannot be fetched, it is not the published one, or
        the package that fetches it is not installed.
    """
    if isinstance(spec, str):
        source, colon, name = spec.partition(':')
        if colon and source in SOURCES:
            return SOURCES[source](name)
        # One letter may be a drive.
        if re.fullmatch(r'\w[\w+.-]+', source) and colon and not os.path.exists(spec):
            error = unknown_name('source of weights', source, SOURCES)
            raise InputError(f'{error}; weights are {FORMS}')
    return _local(spec)


def preprocessing_of(spec: str | os.PathLike) -> str | None:
    """The name of the preprocessing that weights were published with.

    Args:
      spec: as for `fetch`.

    Returns:
      A name of `resnet_jax.data.known_preprocessing`, or None where the text does not tell: for
      paths and Hugging Face.

    Raises:
      InputError: if it names no weights of torchvision's.
    """
    if isinstance(spec, str) and spec.startswith('torchvision:'):
        return _published(spec.partition(':')[-1]).preprocessing
    return None


def _published(name: str) -> Published:
    """The row of torchvision's `NAME[:VARIANT]`."""
    name, colon, variant = name.partition(':')
    if name not in TORCHVISION:
        raise unknown_name('torchvision model', name, TORCHVISION)
    variants = TORCHVISION[name]
    if not colon:
        variant = list(variants)[-1]
    if variant not in variants:
        raise unknown_name(f'variant of torchvision:{name}', variant, variants)
    return variants[variant]


def _local(spec: str | os.PathLike) -> Path:
    if not os.fspath(spec):
        raise InputError(f'no weights named; give {FORMS}')
    path = Path(os.path.expanduser(spec))
    try:
        if path.exists():
            return path
        if not path.parent.is_dir():
            raise InputError(f'no weights at {path}: there is no folder {path.parent}')
        names = os.listdir(path.parent)
    except OSError as error:
        raise InputError(f'no weights at {path}: {error.strerror}') from error
    if not names:
        raise InputError(f'no weights at {path}: its folder is empty')
    raise unknown_name(f'file of weights in {path.parent}', path.name, names)


def _from_torchvision(name: str) -> Path:
    """The file of `NAME[:VARIANT]`, from the cache if it is there and whole."""
    file = _published(name).file
    digits = file.removesuffix('.pth').rpartition('-')[-1]
    path = _cache() / file
    try:
        if path.exists():
            with path.open('rb') as opened:
                if hashlib.file_digest(opened, 'sha256').hexdigest().startswith(digits):
                    return path
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f'cannot use the cache folder {path.parent} ({error.strerror}): set XDG_CACHE_HOME to '
            'a folder that can be written'
        ) from error
    _download(f'{TORCHVISION_ADDRESS}/{file}', path, digits)
    return path


def _cache() -> Path:
    """The folder of this package in the user's cache, as the XDG base directories have it."""
    given = os.environ.get('XDG_CACHE_HOME', '')
    # A relative one is to be ignored.
    base = given if os.path.isabs(given) else os.path.expanduser('~/.cache')
    return Path(base) / 'resnet_jax'


def _download(url: str, path: Path, digits: str) -> None:
    """Puts the file at an address, whose SHA-256 begins with `digits`, to a path, or nothing."""
    try:
        # Writes beside the path, checks the hash, moves; removes what it wrote if it fails.
        from torch.hub import download_url_to_file
    except ImportError as error:
        raise InputError(
            'fetching torchvision: weights needs the extra: pip install "resnet-jax[torch]"'
        ) from error
    try:
        download_url_to_file(url, str(path), hash_prefix=digits, progress=sys.stderr.isatty())
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f'cannot fetch {url} to {path} ({_reason(error)}): try again, {BY_HAND}'
        ) from error
    except RuntimeError as error:  # the hash
        raise InputError(
            f'what {url} answered is not the published file, for its SHA-256 does not begin with '
            f'{digits}: try again, {BY_HAND}'
        ) from error


def _from_hugging_face(name: str) -> Path:
    """The file of `OWNER/REPO[/FILE][@REVISION]`."""
    location, at, revision = name.partition('@')
    owner, *rest = location.split('/')
    parts = [owner, *rest, *(revision.split('/') if at else ())]
    # No part may lead out of the cache's folder.
    if not rest or any(
        part in ('', '.', '..') or re.search(r'[\\:\0-\x1f]', part) for part in parts
    ):
        raise InputError(f'cannot read {"hf:" + name!r}; write hf:OWNER/REPO[/FILE][@REVISION]')
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            'reading hf: weights needs the extra: pip install "resnet-jax[hub]"'
        ) from error
    repo, file = f'{owner}/{rest[0]}', '/'.join(rest[1:])
    where: dict[str, Any] = {'repo_id': repo, 'revision': revision or None}
    try:
        file = _file_of(huggingface_hub, where, file)
        return Path(
            huggingface_hub.hf_hub_download(filename=file, endpoint=HUGGING_FACE_ADDRESS, **where)
        )
    except InputError:
        raise
    except Exception as error:  # what it raises depends on its version's transport
        raise _hugging_face_error(error, repo, file, revision) from error


def _file_of(huggingface_hub: Any, where: dict[str, Any], file: str) -> str:
    """The name of the file to fetch, after the repository's list; `file` is the name given, or ''.

    The list is asked for where a file is named, too: that shows near misses, and is answered at
    once where there is no network, which `hf_hub_download` tries again and again.
    """
    wanted = (file,) if file else HUGGING_FACE_FILES
    try:
        api = huggingface_hub.HfApi(endpoint=HUGGING_FACE_ADDRESS)
        info = api.model_info(**where, timeout=10)
    except Exception:  # perhaps offline, and the file was fetched before
        for name in wanted:
            if isinstance(huggingface_hub.try_to_load_from_cache(filename=name, **where), str):
                return name
        raise
    names = [entry.rfilename for entry in info.siblings or ()]
    for name in wanted:
        if name in names:
            return name
    repo = where['repo_id']
    if file:
        raise unknown_name(f'file of hf:{repo}', file, names)
    raise InputError(
        f'hf:{repo} has neither {" nor ".join(HUGGING_FACE_FILES)}; name a file: hf:{repo}/FILE, '
        f'of {_shown(names)}'
    )


def _shown(names: Iterable[str]) -> str:
    """The first few names, weights before others."""
    endings = ('.safetensors', '.bin', '.pth', '.pt', '.npz')
    names = sorted(names, key=lambda name: (not name.endswith(endings), name))
    return (', '.join(names[:5]) + (', ...' if len(names) > 5 else '')) or 'no files'


def _hugging_face_error(error: Exception, repo: str, file: str, revision: str) -> InputError:
    """What went wrong, and what to do, for an error of huggingface_hub."""
    from huggingface_hub import constants, errors

    address = (HUGGING_FACE_ADDRESS or constants.ENDPOINT).rstrip('/')
    match error:
        case errors.HFValidationError():
            return InputError(f'cannot read hf:{repo}: {first_line(error)}')
        case errors.GatedRepoError():
            return InputError(
                f'{address}/{repo} asks for consent: give it there, and log in with `hf auth login`'
            )
        case errors.RepositoryNotFoundError():
            return InputError(
                f'no repository {repo} at {address} for you: check the name, or log in with '
                '`hf auth login` if it is private'
            )
        case errors.RevisionNotFoundError():
            return InputError(
                f'{address}/{repo} has no revision {revision!r}: give a branch, tag or commit'
            )
    what = f'hf:{repo}/{file or HUGGING_FACE_FILES[0]} from {address}'
    return InputError(f'cannot fetch {what} ({_reason(error)}): try again, {BY_HAND}')


def _reason(error: BaseException) -> str:
    """What the system said, which network libraries wrap in errors of their own, else they."""
    cause: BaseException | None = error
    while cause and not getattr(cause, 'strerror', None):
        cause = cause.__cause__ or cause.__context__
    return first_line(cause or error.__cause__ or error)


SOURCES = {'hf': _from_hugging_face, 'torchvision': _from_torchvision}
