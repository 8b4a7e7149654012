"""Patterns over the paths of parameters and modules, with shell wildcards."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from resnet_jax.errors import unknown_name


def matches(path: str, pattern: str) -> bool:
    """Whether a pattern means a parameter, or a module.

    Args:
      path: such as 'stage1/block1/conv1/kernel'.
      pattern: shell wildcards over the path or one of its beginnings: 'stem', 'stage[12]*',
        'stage1/block1', '*/norm*'. 'all' means everything; 'all but head stage4' what none of the
        patterns after it means.
    """
    words = pattern.split()
    if words == ['all']:
        return True
    if _is_exception(words):
        return not any(matches(path, word) for word in words[2:])
    parts, pattern = path.split('/'), pattern.strip().strip('/')
    return any(fnmatchcase('/'.join(parts[:n]), pattern) for n in range(1, len(parts) + 1))


def _is_exception(words: Sequence[str]) -> bool:
    return words[:2] == ['all', 'but'] and len(words) > 2


def check_patterns(patterns: Iterable[str], paths: Iterable[str], field: str) -> None:
    """Refuses patterns that mean none of some paths.

    Args:
      patterns: as `matches` takes them.
      paths: of parameters or of modules.
      field: whose patterns they are, for the message: 'parameters in train.freeze'.

    Raises:
      InputError: with the nearest paths and beginnings of paths.
    """
    paths = list(paths)
    for pattern in patterns:
        words = pattern.split()
        for word in words[2:] if _is_exception(words) else [pattern]:
            if not any(matches(path, word) for path in paths):
                parts = [path.split('/') for path in paths]
                known = {'/'.join(p[:n]) for p in parts for n in range(1, max(len(p), 2))}
                raise unknown_name(field, word, known)
