"""Inference on a CPU: XLA, onnxruntime on our exports, and PyTorch, side by side.

The same net with random weights, checked by its number of parameters; one batch, again and again.
Each program lives in its own process; the processes wait idle and take turns, one repetition of
about `--seconds` each. Images a second are medians over the repetitions; a ratio is the median of
the ratios within each repetition.

    python benchmarks/inference.py --json benchmarks/results/inference_cpu.json
    python benchmarks/inference.py --cases resnet50:1:224 --peers bare onnx onnx-int8

Programs: `bare` is our model in `jax.jit`, as `resnet-jax eval` runs it on a CPU, and `flax` a
plain Flax net; `onnx` and `onnx-int8` are `resnet-jax export` run by onnxruntime (extra `onnx`);
`torch` is eager PyTorch, channels_last, `torch-compile` the same compiled, and `onnx-torch`
PyTorch's own export run by onnxruntime (extra `torch`). What is not installed is left out.
"""

import importlib.util

import harness
from cases import Case
from programs import PEERS
from train_step import measure, report

CASES = tuple(
    f'{model}:{batch}:{size}'
    for model in ('resnet18', 'resnet50')
    for size in (64, 224)
    for batch in (1, 16)
)
DEFAULT_PEERS = ('bare', 'flax', 'onnx', 'onnx-int8', 'torch', 'torch-compile', 'onnx-torch')
NEEDS = {
    **dict.fromkeys(('onnx', 'onnx-int8'), ('onnx', 'onnxruntime')),
    **dict.fromkeys(('torch', 'torch-compile'), ('torch',)),
    'onnx-torch': ('torch', 'onnx', 'onnxruntime'),
}
# Images a second of the first over those of the second.
RATIOS = (
    ('bare', 'flax'),
    ('onnx', 'bare'),
    ('onnx', 'onnx-torch'),
    ('onnx', 'torch'),
    ('onnx', 'torch-compile'),
    ('onnx-int8', 'onnx'),
)


def main() -> None:
    parser = harness.parser(__doc__, repetitions=7)
    parser.add_argument('--cases', nargs='+', default=CASES, metavar='MODEL:BATCH:SIZE')
    parser.add_argument('--peers', nargs='+', default=DEFAULT_PEERS, choices=PEERS)
    parser.add_argument('--seconds', type=float, default=1.0, help='of a repetition, about')
    options = parser.parse_args()
    peers = [peer for peer in options.peers if _installed(peer)]
    figures = {}
    for text in options.cases:
        model, batch, size = text.split(':')
        case = Case(model, int(batch), int(size), classes=1000)
        figures[text] = measure(
            case, peers, None, options.repetitions, 'infer', RATIOS, options.seconds
        )
        print(report(case, figures[text], 'inference'), flush=True)
    harness.write_json(options.json, {'cases': figures})


def _installed(peer: str) -> bool:
    missing = [name for name in NEEDS.get(peer, ()) if importlib.util.find_spec(name) is None]
    if missing:
        print(f'{peer} is left out: {missing[0]} is not installed')
    return not missing


if __name__ == '__main__':
    main()
