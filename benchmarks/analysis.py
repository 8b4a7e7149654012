"""Time and memory of a lesion study and of a loss surface, beside the obvious loops.

lesion: the error of ResNet-110 with each of its 54 blocks removed, one by one. `ours` is
`resnet_jax.analysis.lesion`. The obvious loop runs the whole network for every lesion: `jax` in one
compiled program that takes the edited weights, `torch` eagerly, with the branch's last norm set to
zero.

landscape: the loss of ResNet-20 at 51x51 points around its weights. `ours` is
`resnet_jax.analysis.landscape`. The obvious loop computes the weights of every point and runs the
network with them: `jax` compiled, `torch` eagerly with the weights changed in place.

All compute the same numbers, which are compared. Each way is its own process: seconds with
compilation and the first pass, and how much the process's peak memory grew; medians of the
repetitions, taken in turn.

    python benchmarks/analysis.py lesion
    python benchmarks/analysis.py landscape --images 50
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import numpy as np

NETS = {'lesion': 'cifar_resnet110', 'landscape': 'cifar_resnet20'}
CLASSES, SIZE = 10, 32
BATCH = 100
POINTS = 51  # of each side of the surface


def start(task: str, images: int) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """The model, its variables (random, with statistics of the images), images and labels."""
    import jax
    import jax.numpy as jnp

    from resnet_jax import create_model

    model = create_model(NETS[task], CLASSES)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, SIZE, SIZE, 3)).astype(np.float32)
    labels = rng.integers(0, CLASSES, images)
    variables = jax.jit(model.init, static_argnames='train')(
        jax.random.key(0), jnp.asarray(x[:1]), train=False
    )
    rescaled = jax.jit(lambda v, x: _own_statistics(model, v, x))(variables, jnp.asarray(x[:BATCH]))
    return model, rescaled, x, labels


def _own_statistics(model: Any, variables: Any, images: Any) -> Any:
    """Running statistics that are those of a batch, as after training."""
    fresh = model.clone(bn_momentum=0.0)
    _, new = fresh.apply(variables, images, train=True, mutable=['batch_stats'])
    return {**variables, **new}


def lesion_ours(model: Any, variables: Any, x: np.ndarray, labels: np.ndarray) -> list[float]:
    from resnet_jax.analysis import lesion
    from resnet_jax.analysis.parts import chain

    parts = chain(model, SIZE)
    lesions = [lesion.Lesion(removed=(name,)) for name in parts.names]
    return lesion.errors(parts, variables, list(_batches(x, labels)), lesions)


def lesion_jax(model: Any, variables: Any, x: np.ndarray, labels: np.ndarray) -> list[float]:
    import jax
    import jax.numpy as jnp

    @jax.jit
    def wrong(variables, images, labels):
        return jnp.sum(model.apply(variables, images, train=False).argmax(-1) != labels)

    found = []
    for stage, blocks in enumerate(model.stage_sizes, 1):
        for block in range(1, blocks + 1):
            damaged = jax.tree.map(lambda leaf: leaf, variables)
            norm = damaged['params'][f'stage{stage}'][f'block{block}']['norm2']
            norm['scale'], norm['bias'] = map(jnp.zeros_like, (norm['scale'], norm['bias']))
            counts = [wrong(damaged, b.images, b.labels) for b in _batches(x, labels)]
            found.append(int(sum(map(int, counts))) / len(x))
    return found


def lesion_torch(model: Any, variables: Any, x: np.ndarray, labels: np.ndarray) -> list[float]:
    import torch

    net, images = _torch_net('lesion', model, variables), torch.from_numpy(x).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)
    answers, found = torch.from_numpy(labels), []
    blocks = [block for stage in net.ordered_stages() for block in stage]
    with torch.inference_mode():
        for block in blocks:
            norm = block.bn2
            kept = norm.weight.clone(), norm.bias.clone()
            norm.weight.zero_(), norm.bias.zero_()
            wrong = 0
            for i in range(0, len(x), BATCH):
                logits = net(images[i : i + BATCH])
                wrong += int((logits.argmax(1) != answers[i : i + BATCH]).sum())
            norm.weight.copy_(kept[0]), norm.bias.copy_(kept[1])
            found.append(wrong / len(x))
    return found


def surface(variables: Any) -> Any:
    """Where the loss is measured: a grid along two directions."""
    from resnet_jax.analysis.directions import random_grid

    return random_grid(variables['params'], 2, POINTS, 1.0)


def landscape_ours(model: Any, variables: Any, x: np.ndarray, labels: np.ndarray) -> list[float]:
    from resnet_jax.analysis import landscape

    grid = surface(variables)
    batches = list(_batches(x, labels))
    found = landscape.measure(model, variables, grid.directions, grid.points, batches)
    return found.loss.tolist()


def landscape_jax(model: Any, variables: Any, x: np.ndarray, labels: np.ndarray) -> list[float]:
    import jax
    import jax.numpy as jnp
    import optax

    @jax.jit
    def loss(params, images, labels):
        logits = model.apply({**variables, 'params': params}, images, train=False)
        return jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    grid, found = surface(variables), []
    for a, b in grid.points:
        params = jax.tree.map(
            lambda w, u, v, a=a, b=b: w + a * u + b * v, variables['params'], *grid.directions
        )
        losses = [loss(params, batch.images, batch.labels) for batch in _batches(x, labels)]
        found.append(sum(map(float, losses)) / len(x))
    return found


def landscape_torch(model: Any, variables: Any, x: np.ndarray, labels: np.ndarray) -> list[float]:
    import torch

    net, images = _torch_net('landscape', model, variables), torch.from_numpy(x).permute(0, 3, 1, 2)
    images = images.contiguous(memory_format=torch.channels_last)
    grid, answers, found = surface(variables), torch.from_numpy(labels), []
    first, second = (
        _torch_state(model, {**variables, 'params': direction}) for direction in grid.directions
    )
    weights = {name: w.detach().clone() for name, w in net.named_parameters()}
    with torch.inference_mode():
        for a, b in grid.points.tolist():
            for name, parameter in net.named_parameters():
                parameter.copy_(weights[name] + a * first[name] + b * second[name])
            total = 0.0
            for i in range(0, len(x), BATCH):
                logits = net(images[i : i + BATCH])
                total += torch.nn.functional.cross_entropy(
                    logits, answers[i : i + BATCH], reduction='sum'
                ).item()
            found.append(total / len(x))
    return found


def _torch_net(task: str, model: Any, variables: Any) -> Any:
    """The same net in PyTorch, with our weights."""
    import peers
    import torch

    net = peers.torch_net(NETS[task], CLASSES).eval()
    net.load_state_dict(_torch_state(model, variables), strict=False)
    return net.to(memory_format=torch.channels_last)


def _torch_state(model: Any, variables: Any) -> dict[str, Any]:
    """Our variables under PyTorch's names."""
    import tempfile

    from safetensors.torch import load_file

    from resnet_jax.interop import save_weights

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'net.safetensors'
        save_weights(path, variables, model, layout='cifar')
        state: dict[str, Any] = load_file(path)
    return state


def _batches(x: np.ndarray, labels: np.ndarray) -> Any:
    import jax.numpy as jnp

    from resnet_jax.analysis.examples import Batch

    for i in range(0, len(x), BATCH):
        part = labels[i : i + BATCH]
        yield Batch(jnp.asarray(x[i : i + BATCH]), part, np.ones(len(part), bool))


WAYS: dict[str, dict[str, Callable[..., list[float]]]] = {
    'lesion': {'ours': lesion_ours, 'jax': lesion_jax, 'torch': lesion_torch},
    'landscape': {'ours': landscape_ours, 'jax': landscape_jax, 'torch': landscape_torch},
}


def memory_kib(field: str) -> int:
    """Of this process (Linux): 'VmRSS' now, 'VmHWM' at its peak since that was reset."""
    status = Path('/proc/self/status').read_text()
    found = re.search(rf'{field}:\s+(\d+) kB', status)
    assert found is not None
    return int(found[1])


def measure(task: str, way: str, images: int) -> dict[str, Any]:
    """In this process: {'seconds', 'mib', 'values'}."""
    model, variables, x, labels = start(task, images)
    if way == 'torch':
        import torch  # noqa: F401
    Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before, began = memory_kib('VmRSS'), time.perf_counter()
    values = WAYS[task][way](model, variables, x, labels)
    seconds = time.perf_counter() - began
    return {'seconds': seconds, 'mib': (memory_kib('VmHWM') - before) / 1024, 'values': values}


def main() -> None:
    parser = harness.parser(__doc__, repetitions=3)
    parser.add_argument('task', choices=WAYS)
    parser.add_argument('--ways', nargs='+', help='default: all')
    parser.add_argument('--images', type=int, default=200)
    parser.add_argument('--one', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.task, options.one, options.images)))
        return
    ways = options.ways or list(WAYS[options.task])
    arguments = [options.task, '--images', str(options.images)]

    def run(way: str) -> dict[str, Any]:
        command = [sys.executable, __file__, *arguments, '--one', way]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return json.loads(out.splitlines()[-1])

    programs = {way: lambda way=way: run(way) for way in ways}
    found = harness.in_turn(programs, options.repetitions)
    first = found[ways[0]][0]['values']
    rows, figures = [], {}
    for way, times in found.items():
        apart = max(np.abs(np.subtract(each['values'], first)).max() for each in times)
        seconds = harness.spread([each['seconds'] for each in times])
        mib = statistics.median(each['mib'] for each in times)
        figures[way] = {'seconds': seconds, 'mib': mib, 'apart_from_first': float(apart)}
        ratio = seconds['median'] / figures[ways[0]]['seconds']['median']
        rows.append([way, f'{seconds["median"]:.1f}', f'{mib:.0f}', f'{ratio:.2f}', f'{apart:.4f}'])
    print(f'{options.task} of {NETS[options.task]}, {options.images} images')
    header = ['way', 'seconds', 'peak memory, MiB', f'times {ways[0]}', 'largest difference']
    print(harness.table(header, rows))
    harness.write_json(
        options.json, {'task': options.task, 'images': options.images, 'ways': figures}
    )


if __name__ == '__main__':
    main()
