"""Changes the code in random places, one at a time, and lists the changes that no test notices.

    python tests/mutants.py optim --number 40 --seed 0

cosmic-ray makes the changes in a copy of the checkout: another number, operator or comparison, a
condition turned round, a loop that is left out. A sample of them is tried, since each runs the
quick tests of its group, which takes seconds to a minute; another seed tries others.
"""

import argparse
import json
import os
import pathlib
import random
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[1]
# Name -> (files of the package, test files that should notice a change in them).
GROUPS = {
    'models': (
        [f'models/{name}.py' for name in ('block', 'norms', 'layers', 'stages', 'stem', 'resnet')],
        [
            *('blocks', 'norms', 'designs', 'dimensions', 'registry', 'resnet', 'depth'),
            *('cpu_switch', 'fold', 'prune'),
        ],
    ),
    'metrics': (['training/metrics.py'], ['metrics', 'distributions']),
    'optim': (['training/optim.py'], ['optim', 'groups', 'rate_range']),
    'statistics': (['statistics.py'], ['statistics']),
    'transforms': (
        [
            f'data/transforms/{name}.py'
            for name in ('apply', 'colour', 'geometry', 'mixing', 'operations', 'policies')
        ]
        + ['data/transforms/regions.py'],
        ['augment', 'mixing', 'distributions', 'operations', 'multi_crop', 'sounds', 'volumes'],
    ),
}
# Others make code that means nothing, or change annotations, `X | None` among them.
OPERATORS = re.compile(
    r'core/('
    r'ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|Mod_Mul|Pow_Mul)'
    r'|ReplaceComparisonOperator_(Eq_NotEq|NotEq_Eq|Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Is_IsNot|IsNot_Is)'
    r'|ReplaceUnaryOperator_Delete_(USub|Not)|AddNot|ReplaceTrueWithFalse|ReplaceFalseWithTrue'
    r'|ReplaceAndWithOr|ReplaceOrWithAnd|NumberReplacer|ZeroIterationForLoop)'
)


def prepare(group, number, seed, folder):
    """Copies the checkout and chooses the changes; returns the session's file."""
    files, tests = GROUPS[group]
    for name in ('resnet_jax', 'tests', 'configs', 'docs', 'pyproject.toml'):
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    command = [sys.executable, '-m', 'pytest', '-q', '-x', '-p', 'no:cacheprovider']
    command += ['-m', 'not slow']
    command += [f'tests/test_{name}.py' for name in tests]
    (folder / 'session.toml').write_text(
        '[cosmic-ray]\n'
        f'module-path = {json.dumps([f"resnet_jax/{name}" for name in files])}\n'
        'timeout = 900.0\n'
        f'test-command = {json.dumps(shlex.join(command))}\n'
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    session = folder / 'session.sqlite'
    ray(folder, 'init', 'session.toml', session.name)
    with sqlite3.connect(session) as found:
        every = found.execute('SELECT job_id, operator_name FROM mutation_specs').fetchall()
        jobs = sorted(job for job, operator in every if OPERATORS.fullmatch(operator))
        # Job numbers are random; the places are not.
        order = 'SELECT job_id FROM mutation_specs ORDER BY module_path, start_pos_row,'
        order += ' start_pos_col, operator_name, occurrence, operator_args'
        jobs = [job for (job,) in found.execute(order) if job in set(jobs)]
        chosen = set(random.Random(seed).sample(jobs, min(number, len(jobs))))
        for job, _ in every:
            if job not in chosen:
                found.execute('DELETE FROM mutation_specs WHERE job_id = ?', (job,))
                found.execute('DELETE FROM work_items WHERE job_id = ?', (job,))
    print(f'{group}: {len(chosen)} of {len(jobs)} changes', flush=True)
    return session


def ray(folder, *arguments):
    """Runs cosmic-ray in the copy, whose package the tests then import."""
    command = [str(pathlib.Path(sys.executable).parent / 'cosmic-ray'), *arguments]
    environment = {**os.environ, 'PYTHONPATH': str(folder)}
    subprocess.run(command, cwd=folder, check=True, env=environment)


def report(session):
    """Prints each change that survived; returns how many there are."""
    with sqlite3.connect(session) as found:
        rows = found.execute(
            'SELECT test_outcome, diff FROM work_results ORDER BY test_outcome, diff'
        ).fetchall()
    survived = [diff for outcome, diff in rows if outcome == 'SURVIVED']
    for diff in survived:
        print(diff, end='\n\n')
    print(f'{len(rows)} tried, {len(survived)} not noticed')
    return len(survived)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('groups', nargs='+', choices=GROUPS)
    parser.add_argument('--number', type=int, default=40, help='of changes of each group')
    parser.add_argument('--seed', type=int, default=0, help='of the choice')
    options = parser.parse_args()
    for group in options.groups:
        with tempfile.TemporaryDirectory() as folder:
            session = prepare(group, options.number, options.seed, pathlib.Path(folder))
            # Tests that fail in the copy anyway would seem to notice every change.
            ray(folder, 'baseline', 'session.toml')
            ray(folder, 'exec', 'session.toml', session.name)
            report(session)


if __name__ == '__main__':
    main()
