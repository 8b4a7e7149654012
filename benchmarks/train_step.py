"""A whole training step, ours and what a user would run instead, side by side.

Forward, backward, SGD with momentum and weight decay, batch statistics; the same net, checked by
its number of parameters. Each program lives in its own process, because the threads of XLA and
PyTorch disturb each other; the processes wait idle and take turns, one repetition of some steps
each. Images a second are medians over the repetitions; a ratio is the median of the ratios within
each repetition.

    python benchmarks/train_step.py      # cifar_resnet20 and resnet18, as `make bench`
    python benchmarks/train_step.py --cases resnet18:32:64 --peers ours flax torch torch-compile
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 python benchmarks/train_step.py   # with huge pages, Linux

On a virtual machine huge pages made some repetitions faster by a tenth and others slower by a third
(results/train_step_huge_pages.json), so the command line does not ask for them.

Programs: `ours` is the step that `resnet-jax train` takes, its batch gathered from the data on the
device and normalised, with running sums of the figures, but without the crops and flips, which the
peers do not have either (`augmented` has them); `bare` is our model in a plain jax.jit, `flax` a
plain Flax net and `haiku` dm-haiku's (extra `bench`) in the same; `torch` is eager PyTorch,
channels_last (extra `torch`). Peers that are not installed or do not have the net are left out.
"""

import contextlib
import dataclasses
import importlib.util
import statistics
from collections.abc import Sequence
from typing import Any

import harness
from cases import Case
from programs import PEERS

CASES = ('cifar_resnet20:128:32', 'resnet18:32:64')  # model, batch, size
DEFAULT_PEERS = ('ours', 'augmented', 'bare', 'flax', 'haiku', 'torch')
NEEDS = {'haiku': 'haiku', 'torch': 'torch', 'torch-compile': 'torch'}
# What is divided by what: images a second of the first over those of the second.
RATIOS = (
    ('ours', 'flax'),
    ('ours', 'haiku'),
    ('ours', 'torch'),
    ('ours', 'torch-compile'),
    ('bare', 'flax'),
    ('augmented', 'ours'),
)


def main() -> None:
    parser = harness.parser(__doc__, repetitions=7)
    parser.add_argument('--cases', nargs='+', default=CASES, metavar='MODEL:BATCH:SIZE')
    parser.add_argument('--peers', nargs='+', default=DEFAULT_PEERS, choices=PEERS)
    parser.add_argument('--dtype', default='float32')
    parser.add_argument('--steps', type=int, default=2, help='steps in a repetition')
    options = parser.parse_args()
    figures = {}
    for text in options.cases:
        model, batch, size = text.split(':')
        case = Case(model, int(batch), int(size), dtype=options.dtype)
        peers = [peer for peer in options.peers if available(peer, case)]
        figures[text] = measure(case, peers, options.steps, options.repetitions)
        print(report(case, figures[text]), flush=True)
    harness.write_json(options.json, {'cases': figures})


def available(peer: str, case: Case) -> bool:
    """Whether a peer is installed and has the net."""
    if peer in NEEDS and importlib.util.find_spec(NEEDS[peer]) is None:
        print(f'{PEERS[peer][0]} is not installed and left out')
        return False
    return peer != 'haiku' or (case.model == 'resnet18' and case.dtype == 'float32')


def measure(
    case: Case,
    peers: list[str],
    steps: int | None,
    repetitions: int,
    mode: str = 'train',
    pairs: Sequence[tuple[str, str]] = RATIOS,
    seconds: float = 1.0,
) -> dict[str, Any]:
    """Figures of all peers: {peer: {'parameters', 'build_seconds', 'step_seconds', 'loss'}}.

    Args:
      case: what is computed.
      peers: keys of `PEERS`.
      steps: in a repetition; None: as many as each takes in about `seconds`.
      repetitions: of each peer.
      mode: 'train' or 'infer'.
      pairs: of peers, whose ratios are wanted.
      seconds: see `steps`.
    """
    found: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        workers = {}
        for peer in peers:
            worker = harness.start_worker([harness.WORKER])
            stack.callback(harness.stop_worker, worker)
            question = {'peer': peer, 'mode': mode, 'case': dataclasses.asdict(case)}
            found[peer], workers[peer] = ask(worker, question), worker
        counts = {peer: figures['parameters'] for peer, figures in found.items()}
        assert len(set(counts.values())) == 1, f'not the same net: {counts}'

        counted: dict[str, int | None] = dict.fromkeys(peers, steps)

        def program(peer: str) -> float:
            if counted[peer] is None:
                once = ask(workers[peer], {'steps': 1})['seconds']
                counted[peer] = max(1, round(seconds / once))
            answer = ask(workers[peer], {'steps': counted[peer]})
            found[peer]['loss'] = answer['loss']
            return answer['seconds'] / counted[peer]

        times = harness.in_turn(
            {peer: lambda peer=peer: program(peer) for peer in peers}, repetitions
        )
    for peer, values in times.items():
        found[peer]['step_seconds'] = harness.spread(values)
        found[peer]['images_per_second'] = case.batch / statistics.median(values)
    return {'programs': found, 'ratios': ratios(times, pairs)}


def ask(worker: Any, question: dict[str, Any]) -> dict[str, Any]:
    """The worker's answer; its error is ours."""
    answer = harness.ask(worker, question)
    if 'error' in answer:
        raise SystemExit(f'{question}: {answer["error"]}')
    return answer


def ratios(
    seconds: dict[str, list[float]], pairs: Sequence[tuple[str, str]] = RATIOS
) -> dict[str, Any]:
    """Speed over speed, repetition by repetition."""
    return {
        f'{one} / {other}': harness.spread(
            [b / a for a, b in zip(seconds[one], seconds[other], strict=True)]
        )
        for one, other in pairs
        if one in seconds and other in seconds
    }


def report(case: Case, figures: dict[str, Any], what: str = 'a training step') -> str:
    """The table of a case and its ratios."""
    parameters = next(iter(figures['programs'].values()))['parameters']
    head = (
        f'{case.model} ({parameters:,} parameters), batch {case.batch}, {case.size}x{case.size}, '
        f'{case.dtype}: {what}'
    )
    rows = []
    for peer, found in figures['programs'].items():
        seconds = found['step_seconds']
        rows.append(
            [
                PEERS[peer][0],
                *(f'{1e3 * seconds[k]:.1f}' for k in ('median', 'min', 'max')),
                f'{found["images_per_second"]:.0f}',
                f'{found["build_seconds"]:.1f}',
            ]
        )
    table = harness.table(
        ['program', 'ms, median', 'min', 'max', 'images/s', 'build and warm up, s'], rows
    )
    lines = [
        f'images/s, {name} = {r["median"]:.2f} ({r["min"]:.2f} to {r["max"]:.2f})'
        for name, r in figures['ratios'].items()
    ]
    return '\n'.join([head, table, *lines, ''])


if __name__ == '__main__':
    main()
