"""Facts of the ResNet papers that a small budget can show, on the embedded digits.

Each fact trains a few designs for the same number of steps with several seeds and prints the error
on the training digits (running, over the last steps) and on the held-out ones.

    python benchmarks/known_facts.py depth        # he2015, figure 6: plain nets degrade with depth
    python benchmarks/known_facts.py shortcuts    # he2016, table 1: the identity is best
    python benchmarks/known_facts.py no_norm      # Fixup, SkipInit: deep nets without normalisation
"""

import contextlib
import io
import statistics
import tempfile
from pathlib import Path

import harness
import jax

from resnet_jax.errors import RunError
from resnet_jax.records.writers import read_metrics
from resnet_jax.training import config as configs
from resnet_jax.training import loop

CONFIG = harness.ROOT / 'configs' / 'digits.py'
NO_NORM = {'model.norm': 'none'}

# fact -> arm -> (model, overrides)
FACTS = {
    'depth': {
        f'{kind}-{depth}': (f'cifar_{name}{depth}', {})
        for kind, name in (('plain', 'plain'), ('residual', 'resnet'))
        for depth in (20, 56, 110)
    },
    'shortcuts': {
        'identity': ('cifar_resnet110', {}),
        'scaling 0.5, 0.5': (
            'cifar_resnet110',
            {'model.shortcut_scale': 0.5, 'model.branch_scale': 0.5},
        ),
        '1x1 convolution': ('cifar_resnet110', {'model.shortcut': 'conv1x1'}),
        'dropout 0.5': ('cifar_resnet110', {'model.shortcut_dropout': 0.5}),
    },
    'no_norm': {
        'batch norm': ('cifar_resnet110', {}),
        'none, He': ('cifar_resnet110', NO_NORM),
        'none, Fixup': ('cifar_resnet110', NO_NORM | {'model.init_scheme': 'fixup'}),
        'none, SkipInit': (
            'cifar_resnet110',
            NO_NORM
            | {
                'model.learn_branch_scale': True,
                'model.branch_scale': 0.0,
                'optim.learning_rate': 0.05,
            },
        ),
    },
}
# Of one-cycle SGD: at 0.1 some seeds of the net of 110 layers are still lost after 200 steps.
LEARNING_RATE = 0.02


def run(model, overrides, *, seed, steps):
    """(training error, test error) in %, or None where training diverged."""
    fields = {
        'model.name': model,
        'model.scan_blocks': True,
        'seed': seed,
        'train.steps': steps,
        'train.log_every': min(50, steps),
        'train.eval_every': 0,
        'checkpoint.every': steps,
        'optim.learning_rate': LEARNING_RATE,
        **overrides,
    }
    config = configs.load_config(str(CONFIG), [(k, str(v)) for k, v in fields.items()])
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        try:
            loop.train(config, Path(folder) / 'run')
        except RunError:
            return None
        lines = list(read_metrics(Path(folder) / 'run'))
    by_split = {line['split']: line for line in lines}
    return tuple(100 * (1 - by_split[split]['top1']) for split in ('train', 'eval'))


def summary(errors):
    """'mean +- deviation' of the seeds, or how many diverged."""
    good = [e for e in errors if e is not None]
    if len(good) < len(errors):
        return f'{len(errors) - len(good)} of {len(errors)} diverged'
    deviation = statistics.stdev(good) if len(good) > 1 else 0.0
    return f'{statistics.mean(good):6.2f} +- {deviation:.2f}'


def main() -> None:
    parser = harness.parser(__doc__)
    parser.add_argument('fact', choices=FACTS)
    parser.add_argument('--steps', type=int, default=300)
    parser.add_argument('--seeds', type=int, default=3)
    options = parser.parse_args()
    print(
        f'digits, {options.steps} steps of 64, one-cycle SGD at {LEARNING_RATE}, {options.seeds} '
        f'seeds, {jax.devices()[0].device_kind}'
    )
    widths = (20, 22, 22)
    print(harness.line(['design', 'training error, %', 'test error, %'], widths))
    results = {}
    for arm, (model, overrides) in FACTS[options.fact].items():
        runs = [
            run(model, overrides, seed=seed, steps=options.steps) for seed in range(options.seeds)
        ]
        results[arm] = runs
        columns = [[r and r[i] for r in runs] for i in (0, 1)]
        print(harness.line([arm, *map(summary, columns)], widths), flush=True)
    harness.write_json(options.json, {'error_percent_train_test_by_seed': results})


if __name__ == '__main__':
    main()
