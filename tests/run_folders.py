"""Folders of runs and sweeps written by hand, for tests of what reads them."""

import json

from resnet_jax.experiments.sweep import folder_name

STEPS = (10, 20, 30)
# Errors in % of five seeds: BETTER is 2 points better than BASE with little noise, SIMILAR is as
# good with much noise.
BASE = (10.0, 11.0, 12.0, 11.5, 10.5)
BETTER = (8.1, 8.9, 10.0, 9.4, 8.6)
SIMILAR = (12.0, 9.5, 13.0, 9.0, 12.0)


def write_run(folder, seed, error, config=None):
    """A run: an error in % if it has ended, else 'failed', 'unfinished'; None leaves no folder."""
    if error is None:
        return
    folder.mkdir(parents=True)
    config = config or {}
    content = {'seed': seed, 'model': {'name': 'm'}, 'data': {'name': 'digits'}, **config}
    (folder / 'config.json').write_text(json.dumps(content))
    final = error if isinstance(error, float) else 30.0
    lines = []
    for step in STEPS if isinstance(error, float) else STEPS[:2]:
        test = final * STEPS[-1] / step
        lines.append({'step': step, 'split': 'train', 'loss': 1.0, 'top1': 1 - test / 120})
        lines.append({'step': step, 'split': 'eval', 'loss': None, 'top1': 1 - test / 100})
    # A crash may cut the last line short.
    (folder / 'metrics.jsonl').write_text('\n'.join(map(json.dumps, lines)) + '\n{"step": 40, "sp')
    if error == 'failed':
        (folder / 'failed.json').write_text(json.dumps({'error': 'training diverged <at> step 21'}))
    elif error != 'unfinished':
        summary = {
            'steps': 30,
            'seconds': 2.5 + seed,
            'parameters': 1234567,
            'images_per_second': 1000.0 + seed,
            'eval': {'n': 360, 'top1': 1 - error / 100},
            'device': 'cpu',
        }
        (folder / 'summary.json').write_text(json.dumps(summary))


def write_sweep(folder, arms, **fields):
    """A sweep's workdir: arm -> its runs' errors, seed by seed, as in `write_run`."""
    sweep = {
        'title': 'which is better?',
        'base': 'configs/sweeps/../digits.py',
        'fields': {'train.epochs': 5},
        'arms': {arm: {'model.name': f'model of {arm}'} for arm in arms},
        'seeds': list(range(max(map(len, arms.values())))),
        'baseline': next(iter(arms)),
        'published': {},
        **fields,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'sweep.json').write_text(json.dumps(sweep))
    for arm, errors in arms.items():
        for seed, error in enumerate(errors):
            write_run(folder / 'runs' / folder_name(arm) / f'seed{seed}', seed, error)
    return folder
