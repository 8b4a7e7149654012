"""A search of a function instead of a net."""

import math

from resnet_jax.experiments.search import study
from resnet_jax.experiments.search.search import Choices, Range, Search

SPACE = {'a': Range('log', 1e-3, 1.0), 'n': Range('int', 4, 16), 'c': Choices(('x', 'y'))}
STUDY = Search('a test', 'no base', {}, SPACE, trials=16, seed=3)


def search_a_function(search, workdir):
    """Proposes, reports and completes the trials that are left."""
    while len(study.proposals(workdir)) < search.trials or any(
        trial.state == 'running' for trial in study.proposals(workdir)
    ):
        trial = study.propose(search, workdir)
        if trial.number == 2:
            study.fail(workdir, trial.number, 'of bad luck')
            continue
        value = abs(math.log(trial.values['a'] / 0.1)) + trial.values['n'] / 16
        if study.report(search, workdir, trial.number, 10, 1, 2 * value):
            study.complete(workdir, trial.number, 2, value)
        else:
            study.prune(workdir, trial.number)
