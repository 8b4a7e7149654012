"""A tiny sweep file, and what its runs ended with."""

import json

from running import ROOT

FILE = """
def get_sweep():
    return {{
        'title': 'a test', 'base': {base!r}, 'seeds': 2,
        'fields': {{'model.stage_sizes': (1,), 'model.width': 4, 'model.stem_width': 4,
                   'train.batch_size': 32, 'train.steps': {steps}, 'train.log_every': 4,
                   'train.eval_every': 0, 'checkpoint.every': 4}},
        'arms': {arms},
    }}
"""
ARMS = {'plain': {'optim.momentum': 0.0}, 'fast, 2x': {'optim.momentum': 0.9}}


def sweep_file(folder, arms=ARMS, steps=8):
    path = folder / 'sweep.py'
    path.write_text(FILE.format(base=str(ROOT / 'configs' / 'digits.py'), arms=arms, steps=steps))
    return path


def summaries(workdir):
    found = sorted(workdir.glob('runs/*/*/summary.json'))
    return {'/'.join(p.parts[-3:-1]): json.loads(p.read_text())['eval'] for p in found}
