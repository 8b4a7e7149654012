"""Python files that describe runs: reading them."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, unknown_name


def call(spec: str, function: str) -> Any:
    """Runs a file and calls a function that it defines.

    Args:
      spec: path of the file; `path.py:variant` passes the variant to the function. While the file
        is read, its own folder comes first on the import path, as when Python runs a script.
      function: its name.

    Raises:
      InputError: for a file that cannot be read, or whatever it does wrong.
    """
    name, separator, variant = spec.partition('.py:')
    path = Path(name + '.py' if separator else name)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob('*.py')) if path.parent.is_dir() else []
        if near:
            raise unknown_name(f'config file in {path.parent}/:', path.name, near)
        raise InputError(f'no config file {path}')
    folder = str(path.parent.resolve())
    # A neighbour such as `default` is this folder's, never another's, and is not kept.
    neighbours = {p.stem for p in path.parent.glob('*.py')}
    hidden = {n: sys.modules.pop(n) for n in neighbours if n in sys.modules}
    sys.path.insert(0, folder)
    try:
        module_spec = importlib.util.spec_from_file_location(f'config_{path.stem}', path)
        if module_spec is None or module_spec.loader is None:
            raise InputError(f'config file {path} is not a Python file (.py)')
        module = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
        if not hasattr(module, function):
            raise InputError(f'config file {path} does not define {function}()')
        get = getattr(module, function)
        return get(variant) if separator else get()
    except InputError:
        raise
    except Exception as error:  # whatever the file does wrong is the caller's to mend
        reason = ' '.join(str(error).split())
        raise InputError(f'config file {spec}: {type(error).__name__}: {reason}') from error
    finally:
        sys.path.remove(folder)
        for neighbour in neighbours:
            sys.modules.pop(neighbour, None)
        sys.modules.update(hidden)
