"""The published nets at full size in PyTorch and here, with the same random weights.

Each weight file is written with PyTorch's names, read by `load_weights`, and both nets get the same
images. The PyTorch nets are those of tests/torch_models.py. Differences are relative to the largest
logit or feature; gradients are not compared here (tests/test_torch_parity.py does, in float64).

    python benchmarks/weight_parity.py    # about 5 minutes on 2 cores; needs the extra torch
"""

import functools
import sys
import tempfile
from pathlib import Path

import harness
import jax
import jax.numpy as jnp
import numpy as np

from resnet_jax import create_model, load_weights
from resnet_jax.interop.files import read_tensors
from resnet_jax.interop.weights import describe
from resnet_jax.models.registry import model_row

sys.path.insert(0, str(harness.ROOT / 'tests'))

MODELS = (
    'resnet18',
    'resnet50',
    'resnet50_v1',
    'resnet50d',
    'se_resnet50',
    'resnext50_32x4d',
    'wide_resnet50_2',
    'resnetv2_50',
    'cifar_resnet20',
    'cifar_resnet110',
)


def largest(actual, expected):
    """The largest difference, relative to the largest expected entry."""
    return float(np.abs(np.asarray(actual) - expected).max() / np.abs(expected).max())


def nhwc(array):
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def compare(name, folder, size, images_number):
    """Figures of one model at one image size."""
    import torch
    import torch_models

    net = torch_models.randomise(torch_models.torch_net(name), seed=1).eval()
    path = folder / f'{name}.pth'
    torch.save({'state_dict': net.state_dict()}, path)
    model = create_model(name)
    variables = load_weights(path, model)
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(images_number, 3, size, size, generator=generator, dtype=torch.float64)
    result = {'layout': describe(read_tensors(path).arrays, model)[0], 'size': size}
    for dtype in ('float32', 'float64'):
        net.to(getattr(torch, dtype))
        inputs = images.to(getattr(torch, dtype))
        with torch.no_grad():
            expected = {k: nhwc(v.numpy()) for k, v in net.features(inputs).items()}
            expected['logits'] = net(inputs).numpy()
        with jax.enable_x64(dtype == 'float64'), jax.numpy_dtype_promotion('standard'):
            typed = create_model(name, dtype=jnp.dtype(dtype))

            @functools.partial(jax.jit, static_argnums=0)
            def run(typed, variables, x):
                features = typed.apply(variables, x, train=False, method='features')
                return {**features, 'logits': typed.apply(variables, x, train=False)}

            cast = functools.partial(jnp.asarray, dtype=dtype)
            found = run(typed, jax.tree.map(cast, variables), cast(nhwc(inputs.numpy())))
        result[dtype] = largest(found['logits'], expected['logits'])
        result[f'{dtype}_features'] = max(largest(found[k], expected[k]) for k in expected)
        same = np.argmax(found['logits'], 1) == expected['logits'].argmax(1)
        result[f'{dtype}_top1'] = float(same.mean())
    return result


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument('--models', nargs='*', default=MODELS)
    parser.add_argument('--images', type=int, default=4)
    options = parser.parse_args()
    print('largest relative difference of logits (of any stage), share of equal top-1')
    widths = (17, 13, 5, 22, 22, 8)
    print(harness.line(['model', 'layout', 'size', 'float32', 'float64', 'top-1'], widths))
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            usual = model_row(name).image_size
            for size in (usual, usual + 1):
                r = compare(name, Path(folder), size, options.images)
                results[f'{name} {size}'] = r
                cells = [f'{r[d]:.1e} ({r[f"{d}_features"]:.1e})' for d in ('float32', 'float64')]
                top1 = min(r['float32_top1'], r['float64_top1'])
                row = [name, r['layout'], size, *cells, f'{100 * top1:.0f} %']
                print(harness.line(row, widths), flush=True)
    harness.write_json(options.json, {'images': options.images, 'figures': results})


if __name__ == '__main__':
    main()
