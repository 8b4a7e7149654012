"""Find published weights: in a folder, on Hugging Face or at torchvision's address.

This module fetches a file and verifies its hash; `files` reads it.
"""

import hashlib
import http.client
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, choose, first_line, near_names, unknown_name

# Where torchvision's files are published.
TORCHVISION_ADDRESS = 'https://download.pytorch.org/models'
# None: huggingface_hub's own address, which the environment variable HF_ENDPOINT changes.
HUGGING_FACE_ADDRESS: str | None = None

# Names of a repository's weights, best first: reading safetensors does not need PyTorch.
HUGGING_FACE_FILES = ('model.safetensors', 'pytorch_model.bin')

FORMS = 'a path, hf:OWNER/REPO[/FILE][@REVISION] or torchvision:NAME[:VARIANT]'
BY_HAND = 'or fetch the file by hand and give its path'


# Preprocessings: the shorter side resized to 256 or to 232, then the centre crop of 224.
V1, V2 = 'torchvision', 'torchvision_v2'

# Name -> variant -> (file, preprocessing), from torchvision/models/resnet.py (the `*_Weights`
# classes). The last variant of a row is torchvision's DEFAULT. The name of a file ends with the
# first 8 hexadecimal digits of its SHA-256.
TORCHVISION = {
    'resnet18': {'v1': ('resnet18-f37072fd.pth', V1)},
    'resnet34': {'v1': ('resnet34-b627a593.pth', V1)},
    'resnet50': {'v1': ('resnet50-0676ba61.pth', V1), 'v2': ('resnet50-11ad3fa6.pth', V2)},
    'resnet101': {'v1': ('resnet101-63fe2227.pth', V1), 'v2': ('resnet101-cd907fc2.pth', V2)},
    'resnet152': {'v1': ('resnet152-394f9c45.pth', V1), 'v2': ('resnet152-f82ba261.pth', V2)},
    'resnext50_32x4d': {
        'v1': ('resnext50_32x4d-7cdf4587.pth', V1),
        'v2': ('resnext50_32x4d-1a0047aa.pth', V2),
    },
    'resnext101_32x8d': {
        'v1': ('resnext101_32x8d-8ba56ff5.pth', V1),
        'v2': ('resnext101_32x8d-110c445d.pth', V2),
    },
    # Published only once, as IMAGENET1K_V1, but with the newer recipe and its preprocessing.
    'resnext101_64x4d': {'v1': ('resnext101_64x4d-173b62eb.pth', V2)},
    'wide_resnet50_2': {
        'v1': ('wide_resnet50_2-95faca4d.pth', V1),
        'v2': ('wide_resnet50_2-9ba9bcbe.pth', V2),
    },
    'wide_resnet101_2': {
        'v1': ('wide_resnet101_2-32ee1156.pth', V1),
        'v2': ('wide_resnet101_2-d733dc28.pth', V2),
    },
}


def fetch(spec: str | os.PathLike[str]) -> Path:
    """Finds a file of weights, and downloads it if it is not cached yet.

    Args:
      spec: one of
        a path;
        `hf:OWNER/REPO[/FILE][@REVISION]`; the default of FILE is the repository's
        model.safetensors, or pytorch_model.bin if there is none; cached by huggingface_hub;
        `torchvision:NAME[:VARIANT]`, VARIANT v1 or v2, by default the newest; cached in the folder
        resnet_jax of $XDG_CACHE_HOME or ~/.cache.

    Returns:
      The path of the file, or of a folder if the given path is one.

    Raises:
      InputError: if there is no such file, it cannot be fetched, its hash is wrong, or the package
        that fetches it is not installed.
    """
    if isinstance(spec, str):
        source, colon, name = spec.partition(':')
        if colon and source in SOURCES:
            return SOURCES[source](name)
        # A single letter may be a drive.
        if re.fullmatch(r'\w[\w+.-]+', source) and colon and not os.path.exists(spec):
            error = unknown_name('source of weights', source, SOURCES)
            raise InputError(f'{error}; weights are {FORMS}')
    return _local(spec)


def completed(spec: str | os.PathLike[str], name: str) -> str | os.PathLike[str]:
    """The same, with the model's name where only torchvision's variant is given.

    Args:
      spec: as for `fetch`, or 'torchvision:v2'.
      name: of the model.
    """
    if isinstance(spec, str) and re.fullmatch(r'torchvision:v\d+', spec):
        return f'torchvision:{name}:{spec.removeprefix("torchvision:")}'
    return spec


def preprocessing_of(spec: str | os.PathLike[str]) -> str | None:
    """Finds the name of the preprocessing that weights were published with.

    Args:
      spec: as for `fetch`.

    Returns:
      A key of `resnet_jax.data.PREPROCESSINGS`; None for paths and Hugging Face, where it is not
      known from the name.

    Raises:
      InputError: for unknown weights of torchvision.
    """
    if isinstance(spec, str) and spec.startswith('torchvision:'):
        _, preprocessing = _torchvision_row(spec.partition(':')[-1])
        return preprocessing
    return None


def _torchvision_row(name: str) -> tuple[str, str]:
    """The file and preprocessing of torchvision's `NAME[:VARIANT]`."""
    name, colon, variant = name.partition(':')
    variants = choose('torchvision model', name, TORCHVISION)
    variant = variant if colon else list(variants)[-1]
    return choose(f'variant of torchvision:{name}', variant, variants)


def _local(spec: str | os.PathLike[str]) -> Path:
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
    near = ' or '.join(repr(name) for name in near_names(path.name, names))
    hint = f'; did you mean {near}?' if near else ''
    raise InputError(f'no file of weights {path.name!r} in {path.parent}{hint}')


def _from_torchvision(name: str) -> Path:
    """The file of `NAME[:VARIANT]`, from the cache if it is there and complete."""
    file, _ = _torchvision_row(name)
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
            'a writable folder'
        ) from error
    _download(f'{TORCHVISION_ADDRESS}/{file}', path, digits)
    return path


def _cache() -> Path:
    """The folder of this package in the user's cache, by the XDG base directory specification."""
    given = os.environ.get('XDG_CACHE_HOME', '')
    # The specification has relative paths ignored.
    base = given if os.path.isabs(given) else os.path.expanduser('~/.cache')
    return Path(base) / 'resnet_jax'


def _download(url: str, path: Path, digits: str) -> None:
    """Downloads a file whose SHA-256 begins with `digits`, atomically."""
    try:
        # Writes a temporary file beside the path, verifies the hash, renames; cleans up on errors.
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
            f'{url} returned another file than the published one: its SHA-256 does not begin with '
            f'{digits}: try again, {BY_HAND}'
        ) from error


def _from_hugging_face(name: str) -> Path:
    """The file of `OWNER/REPO[/FILE][@REVISION]`."""
    location, at, revision = name.partition('@')
    owner, *rest = location.split('/')
    parts = [owner, *rest, *(revision.split('/') if at else ())]
    # No part may lead outside the cache folder.
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
        file = _choose_file(where, file)
        return Path(
            huggingface_hub.hf_hub_download(filename=file, endpoint=HUGGING_FACE_ADDRESS, **where)
        )
    except InputError:
        raise
    except Exception as error:  # the types depend on the version's HTTP library
        raise _hugging_face_error(error, repo, file, revision) from error


def _choose_file(where: dict[str, Any], file: str) -> str:
    """The file to fetch from a Hugging Face repository; `file` is the name given, or ''.

    Always asks for the list of files, even if a file is named: to suggest near misses, and because
    without a network this fails at once, while `hf_hub_download` retries for long.
    """
    import huggingface_hub

    wanted = (file,) if file else HUGGING_FACE_FILES
    try:
        api = huggingface_hub.HfApi(endpoint=HUGGING_FACE_ADDRESS)
        info = api.model_info(**where, timeout=10)
    except Exception:  # perhaps offline; the file may be cached
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
        f'of {_some_names(names)}'
    )


def _some_names(names: Iterable[str]) -> str:
    """The first few names, files of weights before others."""
    endings = ('.safetensors', '.bin', '.pth', '.pt', '.npz')
    names = sorted(names, key=lambda name: (not name.endswith(endings), name))
    return (', '.join(names[:5]) + (', ...' if len(names) > 5 else '')) or 'no files'


def _hugging_face_error(error: Exception, repo: str, file: str, revision: str) -> InputError:
    """Translates an error of huggingface_hub: what is wrong and what to do."""
    from huggingface_hub import constants, errors

    address = (HUGGING_FACE_ADDRESS or constants.ENDPOINT).rstrip('/')
    match error:
        case errors.HFValidationError():
            return InputError(f'cannot read hf:{repo}: {first_line(error)}')
        case errors.GatedRepoError():
            return InputError(
                f'{address}/{repo} asks for consent: give it there and log in with `hf auth login`'
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
    """The message of the operating system, which network libraries wrap in their own errors."""
    cause: BaseException | None = error
    while cause and not getattr(cause, 'strerror', None):
        cause = cause.__cause__ or cause.__context__
    return first_line(cause or error.__cause__ or error)


SOURCES = {'hf': _from_hugging_face, 'torchvision': _from_torchvision}
