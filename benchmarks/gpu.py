"""How fast training and inference are on whatever accelerator is here, and what it could do.

Sections, in this order; the JSON is written after every figure, because a run may be cut off:

  roofline   measured rates of matrix products and of copying
  resnet     ResNet-50 at 224 in bfloat16: ours, plain Flax, PyTorch (eager and compiled,
             channels_last, autocast; torchvision's net where that is installed); batch 256 of all
             comes first, then the others
  cifar      epochs of 50,000 images that lie on the device, the step of `resnet-jax train`
  dispatch   the same, 1, 10 and 50 steps in one call of the host
  seeds      the same, 1, 4 and 16 seeds in one program
  variants   the training step of ours at batch 256 under other flags of XLA, `VARIANTS`

    python benchmarks/gpu.py --json benchmarks/results/gpu.json              # about 8 minutes
    python benchmarks/gpu.py --json benchmarks/results/gpu.json --resume     # what is left
    python benchmarks/gpu.py --quick                                         # tiny, for a CPU

Each program has the device for itself, in its own process, and its repetitions follow one another.
Achieved FLOP/s count two for a multiply-add of the forward pass (`resnet-jax models`), three times
that in training, and are compared with the measured rate of bfloat16 products. A batch that does
not fit is marked so. This benchmark has been tested on a CPU alone so far, with --quick.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import harness
from cases import Case
from gpu_plan import QUICK, VARIANTS, Plan
from programs import PEERS
from roofline import ROOFLINE


@dataclasses.dataclass(frozen=True)
class Session:
    """One call of this program.

    Attributes:
      plan: what is measured.
      found: all figures, by section and name.
      save: writes them.
      deadline: by time.monotonic, when nothing new is begun and what runs is stopped.
    """

    plan: Plan
    found: dict[str, dict[str, Any]]
    save: Callable[[], None]
    deadline: float

    def missing(self, section: str, name: str) -> bool:
        """Whether a figure is still to be measured, and there is time."""
        return name not in self.found.get(section, {}) and time.monotonic() < self.deadline

    def add(self, section: str, name: str, figures: dict[str, Any]) -> None:
        """Keeps, writes and prints a figure."""
        self.found.setdefault(section, {})[name] = figures
        self.save()
        speed = figures.get('images_per_second')
        print(f'{section}: {name}: {f"{speed:.0f} images/s" if speed else figures}', flush=True)


def measure(session: Session, worker: Any, peer: str, mode: str, case: Case) -> dict[str, Any]:
    """Images a second of one program, or why there are none."""

    def ask(question: dict[str, Any]) -> dict[str, Any]:
        answer = harness.ask(worker, question, max(1.0, session.deadline - time.monotonic()))
        if 'error' in answer:
            raise ValueError(answer['error'])
        return answer

    plan = session.plan
    try:
        built = ask({'peer': peer, 'mode': mode, 'case': dataclasses.asdict(case)})
        once = ask({'steps': 2 * case.dispatch})['seconds'] / 2
        steps = case.dispatch * max(1, min(200, round(plan.seconds / once)))
        times = [ask({'steps': steps})['seconds'] / steps for _ in range(plan.repetitions)]
    except ValueError as error:
        text = str(error)
        full = 'RESOURCE_EXHAUSTED' in text or 'out of memory' in text.lower()
        return {'error': 'does not fit' if full else text}
    return {
        'images_per_second': case.seeds * case.batch / statistics.median(times),
        'step_seconds': harness.spread(times),
        'steps_in_a_repetition': steps,
        'build_seconds': built['build_seconds'],
        'parameters': built['parameters'],
    }


def fill(session: Session, section: str, points: list[Any], flags: str = '') -> None:
    """Measures (name, peer, mode, case)s that are missing, in one process as long as it lives."""
    worker = None
    for name, peer, mode, case in points:
        if not session.missing(section, name):
            continue
        if worker is None:
            joined = f'{os.environ.get("XLA_FLAGS", "")} {flags}'.strip()
            worker = harness.start_worker(
                [harness.WORKER], {'XLA_FLAGS': joined} if joined else None
            )
        try:
            session.add(section, name, measure(session, worker, peer, mode, case))
        except RuntimeError as error:  # it ended: out of time, a wrong flag, a crash
            harness.stop_worker(worker)
            worker = None
            if time.monotonic() < session.deadline:
                session.add(section, name, {'error': str(error)})
    if worker is not None:
        harness.stop_worker(worker)


def roofline(session: Session) -> None:
    """What the device does at most, and what the nets ask of it."""
    if not session.missing('roofline', 'rates'):
        return
    worker = harness.start_worker([ROOFLINE])
    plan = session.plan
    models = [(plan.model, plan.size), *((name, 32) for name, _ in plan.cifar)]
    question = {'products': plan.products, 'copied': plan.copied, 'models': models}
    session.add('roofline', 'rates', harness.ask(worker, question))
    harness.stop_worker(worker)


def resnet(session: Session) -> None:
    """Training and inference of one net by all peers; the first batch size comes first."""
    plan = session.plan
    for batches in (plan.batches[:1], plan.batches[1:]):
        for peer in plan.peers:
            if peer.startswith('torch') and importlib.util.find_spec('torch') is None:
                continue
            fill(
                session,
                'resnet',
                [
                    (f'{mode} {batch} {peer}', peer, mode, case_of(plan, batch))
                    for batch in batches
                    for mode in ('train', 'infer')
                ],
            )


def case_of(plan: Plan, batch: int) -> Case:
    """Of the sections resnet and variants."""
    return Case(plan.model, batch, plan.size, plan.classes, plan.dtype)


def cifar(session: Session) -> None:
    """Epochs of our own pipeline; a process each."""
    plan = session.plan
    for model, dtype in plan.cifar:
        case = Case(model, plan.batch, 32, dtype=dtype)
        fill(session, 'cifar', [(f'{model} {dtype}', 'cifar', 'train', case)])


def dispatch(session: Session) -> None:
    """The same net with more or fewer steps in one call."""
    small = small_case(session.plan)
    for count in session.plan.dispatches:
        case = dataclasses.replace(small, dispatch=count)
        fill(session, 'dispatch', [(f'{count}', 'cifar', 'train', case)])


def seeds(session: Session) -> None:
    """More or fewer runs of the same net in one program."""
    small = small_case(session.plan)
    for count in session.plan.seeds:
        case = dataclasses.replace(small, seeds=count)
        fill(session, 'seeds', [(f'{count}', 'cifar', 'train', case)])


def small_case(plan: Plan) -> Case:
    """The first of the section cifar."""
    model, dtype = plan.cifar[0]
    return Case(model, plan.batch, 32, dtype=dtype)


def variants(session: Session) -> None:
    """The same step under other flags; a process each."""
    plan = session.plan
    case = case_of(plan, plan.batches[0])
    for name in plan.variants:
        fill(session, 'variants', [(name, 'bare', 'train', case)], VARIANTS[name])


SECTIONS = {
    'roofline': roofline,
    'resnet': resnet,
    'cifar': cifar,
    'dispatch': dispatch,
    'seeds': seeds,
    'variants': variants,
}


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument('--sections', nargs='+', choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument('--minutes', type=float, default=8.0, help='nothing is begun after these')
    parser.add_argument('--resume', action='store_true', help='keep what the JSON file holds')
    parser.add_argument('--quick', action='store_true', help='tiny: whether all of it works')
    options = parser.parse_args()
    if options.resume and options.json is None:
        parser.error('--resume needs --json')
    session = begin(options)
    for name in options.sections:
        SECTIONS[name](session)
    print(report(session))


def begin(options: argparse.Namespace) -> Session:
    """A session, with the figures of an earlier one where it is resumed."""
    found: dict[str, dict[str, Any]] = {}
    earlier: list[Any] = []
    if options.resume and options.json.exists():
        stored = json.loads(options.json.read_text())
        found = stored.pop('figures')
        earlier = [*stored.pop('earlier'), stored]
    plan = QUICK if options.quick else Plan()

    def save() -> None:
        device = found.get('roofline', {}).get('rates', {}).get('device', 'unknown')
        figures = {'plan': dataclasses.asdict(plan), 'figures': found, 'earlier': earlier}
        harness.write_json(options.json, figures, device)

    return Session(plan, found, save, time.monotonic() + 60 * options.minutes)


def report(session: Session) -> str:
    """All tables."""
    from gpu_report import tables

    return tables(session.plan, session.found, PEERS)


if __name__ == '__main__':
    main()
