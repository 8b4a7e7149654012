"""What the scales of `reproduce` make of a paper's recipe."""

from typing import Any

from resnet_jax.models.registry import model_row
from resnet_jax.papers.table import Row, Table

# full   the recipe
# short  the recipe, its length divided by SHORTER
# smoke  two steps on synthetic images
SCALES = ('smoke', 'short', 'full')
SHORTER = 16
SHORT_SEEDS = 3
# The fields that grow with the length of a run.
LENGTHS = ('train.steps', 'train.epochs', 'optim.boundaries', 'optim.warmup')

_SMOKE: dict[str, Any] = {
    'data.name': 'synthetic',  # of 10 classes
    'data.train_split': 'train[:64]',
    'data.eval_split': 'test[:4]',
    'data.image_size': 32,  # what remains of it in the last stage of an ImageNet net is one pixel
    'data.workers': 0,
    'train.batch_size': 4,
    'train.steps': 2,
    'train.log_every': 1,
    'train.eval_every': 0,
    'train.eval_batch_size': 4,
    'optim.learning_rate': 1e-3,
    'optim.scale_by_batch': 0,
    'optim.warmup': 0.0,  # often longer than the two steps
    'model.dtype': 'float32',
    'model.scan_blocks': True,  # compiles in less time
    'checkpoint.keep': 1,
}
# A CPU takes minutes for grouped convolutions of 32x32 images, above all in a scan.
_SMOKE_GROUPED: dict[str, Any] = {'train.batch_size': 2, 'model.scan_blocks': False}


def smoke_fields(table: Table) -> dict[str, Any]:
    """What scale smoke sets in all rows of a table."""
    # As 256 is to 224, for the central crop.
    return {**_SMOKE, **({'data.resize': 36} if table.data == 'imagenet' else {})}


def smoke_fields_of(table: Table, row: Row) -> dict[str, Any]:
    """What scale smoke sets in one row, over what it sets in all."""
    if model_row(row.model).settings['block'].groups == 1:
        return {}
    return {**_SMOKE_GROUPED, **({} if table.data == 'imagenet' else {'data.image_size': 8})}


def shorter(length: Any, divisor: int) -> Any:
    """A length divided: a float, a whole number rounded up, or a tuple of either."""
    if isinstance(length, tuple):
        return tuple(shorter(part, divisor) for part in length)
    return -(-length // divisor) if isinstance(length, int) else length / divisor
