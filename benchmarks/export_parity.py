"""How far exported files are from their nets, each run by its own runtime.

One net of every family in the registry, dense ones included, with random weights and the batch
statistics of random images, in every format whose writer and runtime are installed. The difference
is that of `resnet-jax export`: the largest of an output, divided by its largest value, on random
images.

    python benchmarks/export_parity.py --json benchmarks/results/export_parity.json
    python benchmarks/export_parity.py --nets resnet50 --formats onnx

LiteRT needs RESNET_JAX_LITERT_PYTHON, see docs/export.md.
"""

import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np

from resnet_jax.training import compilation

NETS = {
    'cifar_resnet20': 32,
    'cifar_preact_resnet20': 32,
    'wrn16_4': 32,
    'resnet18': 64,
    'resnet50': 64,
    'preact_resnet50': 64,
    'resnetv2_50': 64,
    'resnet50d': 64,
    'resnext50_32x4d': 64,
    'wide_resnet50_2': 64,
    'se_resnet18': 64,
    'ecaresnet50d': 64,
    'resnetblur50': 64,
    'resnetaa50d': 64,
    'resnet50_gn': 64,
    'bit_resnet50x1': 64,
    'fcn_resnet50': 64,
    'deeplabv3_resnet50': 64,
    'pspnet_resnet50': 64,
    'unet_resnet18': 64,
    'retinanet_resnet50_fpn': 64,
}
FORMATS = ('stablehlo', 'onnx', 'litert', 'savedmodel')
IMAGES = 16


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument('--nets', nargs='+', default=list(NETS), choices=NETS)
    parser.add_argument('--formats', nargs='+', default=FORMATS, choices=FORMATS)
    options = parser.parse_args()
    compilation.keep_compiled()  # the original of each net is compiled once for all formats
    found: dict[str, Any] = {}
    widths = (24, *(22 for _ in options.formats))
    print(harness.line(['net', *(f'{f}, MiB' for f in options.formats)], widths))
    for name in options.nets:
        found[name] = {f: export(name, f) for f in options.formats}
        cells = [
            f'{each["relative"]:.1e}, {each["bytes"] / 2**20:.1f}' if each else '-'
            for each in found[name].values()
        ]
        print(harness.line([name, *cells], widths), flush=True)
    harness.write_json(options.json, {'nets': found})


def export(name: str, kind: str) -> dict[str, Any] | None:
    """The difference and the size of a file; None if the format cannot be written here."""
    from resnet_jax.errors import InputError
    from resnet_jax.export.formats import FORMATS as ROWS
    from resnet_jax.export.program import make_program
    from resnet_jax.export.writing import write_exported

    row, trained = ROWS[kind], net(name)
    size = trained.preprocessing.image_size
    pixels = np.random.default_rng(1).integers(0, 256, (IMAGES, size, size, 3)).astype(np.uint8)
    program = make_program(
        trained,
        channels_last=row.layouts[0] == 'NHWC',
        batch=1 if row.fixed_batch else None,
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            about = write_exported(program, kind, Path(folder) / f'net{row.suffix}', pixels)
        except InputError as error:
            print(f'{kind} is left out: {error}')
            return None
    difference: dict[str, Any] = about['difference']
    return {'relative': difference['relative'], 'bytes': about['bytes']}


def net(name: str) -> Any:
    """A net with random weights and the statistics of random images."""
    import jax

    from resnet_jax import create_model
    from resnet_jax.data import Preprocessing
    from resnet_jax.dense.registry import task_of, with_net_fields
    from resnet_jax.inference.trained import TrainedModel

    model = create_model(name, 10)
    task = task_of(name)
    images = jax.random.normal(jax.random.key(0), (8, NETS[name], NETS[name], 3))

    @jax.jit
    def make() -> Any:
        variables = model.init(jax.random.key(1), images, train=False)
        measured = with_net_fields(model, bn_momentum=0.0)
        _, new = measured.apply(
            variables,
            images,
            train=True,
            mutable=['batch_stats'],
            rngs={'dropout': jax.random.key(3)},
        )
        if task == 'classification':
            head = jax.random.normal(jax.random.key(2), variables['params']['head']['kernel'].shape)
            variables['params']['head']['kernel'] = head / len(head) ** 0.5  # BiT's starts at zero
        return {**variables, **new}

    half = (0.5,) * 3
    preprocessing = Preprocessing(NETS[name], 3, None, half, half, tuple('0123456789'))
    return TrainedModel(model, make(), preprocessing, {'model': name}, name, task=task)


if __name__ == '__main__':
    main()
