"""A training step of RetinaNet with ResNet-50 and FPN, ours and torchvision's, side by side.

Forward, matching of anchors, focal and box losses, backward, SGD with momentum and weight decay;
the same network, checked by its number of parameters. Processes and turns are those of
train_step.py.

    python benchmarks/detector.py        # needs the extra torchvision
    python benchmarks/detector.py --batch 2 --sizes 320 --json benchmarks/results/detector_cpu.json

`ours` is the step that `resnet-jax train` takes, on scenes of digits enlarged to the size, with its
running sums; `torchvision` is eager PyTorch, channels_last, with three objects in each image. A CPU
computes ours in forms that suit it, see docs/devices.md.
"""

import harness
from cases import Case
from programs import PEERS
from train_step import measure, report

RATIOS = (('detector', 'torch-detector'),)


def main() -> None:
    parser = harness.parser(__doc__, repetitions=7)
    parser.add_argument('--sizes', nargs='+', type=int, default=[320], metavar='PIXELS')
    parser.add_argument('--batch', type=int, default=2)
    parser.add_argument('--steps', type=int, default=1, help='steps in a repetition')
    parser.add_argument('--peers', nargs='+', default=RATIOS[0], choices=PEERS)
    options = parser.parse_args()
    figures = {}
    for size in options.sizes:
        case = Case('retinanet_resnet50_fpn', options.batch, size, classes=11)
        found = measure(case, list(options.peers), options.steps, options.repetitions, pairs=RATIOS)
        figures[f'{options.batch}:{size}'] = found
        print(report(case, found), flush=True)
    harness.write_json(options.json, {'cases': figures})


if __name__ == '__main__':
    main()
