"""torchvision's networks for segmentation and detection at full size, there and here.

Each is made by torchvision, with random weights, norms and statistics; its tensors are read by
their names, and both nets get the same images, of even and of odd sides. Differences are relative
to the largest value of an output: `out` and `aux` of segmentation, logits and box offsets of
detection.

    python benchmarks/dense_parity.py    # needs the extras torch and torchvision
"""

import functools
import sys
from typing import Any

import harness
import numpy as np

sys.path.insert(0, str(harness.ROOT / 'tests'))

NETS = (
    'fcn_resnet50',
    'fcn_resnet101',
    'deeplabv3_resnet50',
    'deeplabv3_resnet101',
    'retinanet_resnet50_fpn',
)
SIZES = ((128, 160), (129, 161))


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument('--nets', nargs='+', default=NETS, choices=NETS)
    options = parser.parse_args()
    print('largest difference of an output, relative to its largest value')
    widths = (24, 12, 12, 10, 10)
    print(harness.line(['net', 'parameters', 'size', 'float32', 'float64'], widths))
    figures: dict[str, Any] = {}
    for name in options.nets:
        net = theirs(name)
        parameters = sum(p.numel() for p in net.parameters())
        for size in SIZES:
            found = {dtype: compare(name, net, size, dtype) for dtype in ('float32', 'float64')}
            title = 'x'.join(map(str, size))
            figures[f'{name} {title}'] = {'parameters': parameters, **found}
            cells = [f'{max(each.values()):.1e}' for each in found.values()]
            print(harness.line([name, f'{parameters:,}', title, *cells], widths), flush=True)
    harness.write_json(options.json, {'figures': figures})


def theirs(name: str) -> Any:
    """The network of torchvision with random values, in float64."""
    from torchvision_cpu import import_torchvision, randomized

    import_torchvision()
    from torchvision.models import detection, segmentation

    none = {'weights': None, 'weights_backbone': None}
    if name.startswith('retinanet'):
        return randomized(getattr(detection, name)(**none))
    return randomized(getattr(segmentation, name)(**none, aux_loss=True))


def compare(name: str, net: Any, size: tuple[int, int], dtype: str) -> dict[str, float]:
    """The differences of the outputs by name."""
    import jax
    import jax.numpy as jnp
    import torch

    from resnet_jax import create_model
    from resnet_jax.interop import dense_weights

    images = np.random.default_rng(0).normal(size=(1, *size, 3))
    net.to(getattr(torch, dtype))
    with torch.no_grad():
        expected = outputs_of(net, torch.tensor(images.transpose(0, 3, 1, 2), dtype=net_type(net)))
    tensors = {key: x.numpy() for key, x in net.state_dict().items()}
    with jax.enable_x64(dtype == 'float64'), jax.numpy_dtype_promotion('standard'):
        model = create_model(name, dtype=jnp.dtype(dtype))
        variables = dense_weights.variables_from_tensors(tensors, create_model(name))
        cast = functools.partial(jnp.asarray, dtype=dtype)
        run = jax.jit(lambda v, x: model.apply(v, x, train=False))
        found = flat(run(jax.tree.map(cast, variables), cast(images)))
    return {
        key: float(np.abs(found[key] - x).max() / np.abs(x).max()) for key, x in expected.items()
    }


def net_type(net: Any) -> Any:
    return next(net.parameters()).dtype


def outputs_of(net: Any, images: Any) -> dict[str, np.ndarray]:
    """What the network gives before boxes are made of it, maps as [N, H, W, C]."""
    if not hasattr(net, 'head'):
        return {key: x.permute(0, 2, 3, 1).numpy() for key, x in net(images).items()}
    found = net.head(list(net.backbone(images).values()))
    return {'logits': found['cls_logits'].numpy(), 'offsets': found['bbox_regression'].numpy()}


def flat(found: Any) -> dict[str, np.ndarray]:
    """The same of ours."""
    from resnet_jax.export.outputs import OUTPUTS

    if isinstance(found, dict):
        return {key: np.asarray(x) for key, x in found.items()}
    joined = OUTPUTS['detection'].of_model(found)
    return {key: np.asarray(x) for key, x in joined.items()}


if __name__ == '__main__':
    main()
