"""The temperature of a model, kept in a file beside it, for predictions that are calibrated."""

import dataclasses
from pathlib import Path
from typing import Any

from resnet_jax.errors import InputError, Range, check_number
from resnet_jax.inference.trained import TrainedModel
from resnet_jax.json_files import json_text, read_json, unreadable
from resnet_jax.records.writers import write_atomically

FILE = 'calibration.json'  # in a workdir
_AGAIN = 'write it again with `resnet-jax analyze calibration --store`'


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A fitted temperature, as stored.

    Attributes:
      temperature: divides the logits, above 0.
      data: that it was fitted on.
      split: of the data.
      n: number of examples.
      origin: of the model, see `TrainedModel`.
      weights_digest: of the model, see `TrainedModel.weights_digest`.
    """

    temperature: float
    data: str
    split: str
    n: int
    origin: dict[str, Any]
    weights_digest: str

    @property
    def words(self) -> str:
        """The temperature and where it comes from."""
        return f'{self.temperature:.4g}, fitted on {self.n:,} images of {self.data} {self.split}'


def calibration_file(trained: TrainedModel, path: Path | None) -> Path:
    """The file that a path gives, or that of the model's workdir.

    Raises:
      InputError: if there is neither.
    """
    if path is not None:
        return path
    if 'workdir' not in trained.origin:
        raise InputError(
            'a published model has no workdir that holds its temperature; name a file with '
            '--calibration FILE.json'
        )
    return Path(trained.origin['workdir']) / FILE


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Writes a temperature.

    Raises:
      InputError: if the file cannot be written.
    """
    try:
        write_atomically(path, json_text(dataclasses.asdict(calibration), indent=1) + '\n')
    except OSError as error:
        raise InputError(f'cannot write {path}: {error.strerror}') from error


def read_calibration(path: Path, trained: TrainedModel) -> Calibration:
    """Reads the temperature of a model.

    Args:
      path: the file.
      trained: the model.

    Raises:
      InputError: if there is no such file, it cannot be read, or belongs to other weights, such as
        those of an earlier step.
    """
    if not path.exists():
        raise InputError(
            f'there is no {path}; fit a temperature first: `resnet-jax analyze calibration --store`'
        )
    found = read_json(path, _AGAIN)
    try:
        calibration = Calibration(
            **{f.name: found[f.name] for f in dataclasses.fields(Calibration)}
        )
        check_number('temperature', calibration.temperature, Range(0, open='low'))
        check_number('n', calibration.n, Range(1, whole=True))
    except KeyError as error:
        raise unreadable(path, f'it lacks {error}', _AGAIN) from None
    except InputError as error:
        raise unreadable(path, error, _AGAIN) from error
    if not isinstance(calibration.origin, dict):
        raise unreadable(path, 'its origin is no object', _AGAIN)
    if calibration.weights_digest != trained.weights_digest():
        fitted = ', '.join(f'{key} {value}' for key, value in calibration.origin.items())
        here = ', '.join(f'{key} {value}' for key, value in trained.origin.items())
        raise InputError(
            f'{path} holds the temperature of other weights ({fitted}) than these ({here}); '
            f'{_AGAIN}'
        )
    return calibration
