"""Checkpoints: whole, exact, and never lost to what goes wrong beside them."""

import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from running import ROOT, checkpoint_steps, differing
from states import make_state, settings

from resnet_jax.models import InputError
from resnet_jax.training.checkpoint import Checkpoints
from resnet_jax.training.step import TrainState

# Orbax closes its event loop while reads of other files are under way.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


def template() -> TrainState:
    return jax.eval_shape(lambda: make_state(0))


@pytest.fixture
def opened(tmp_path):
    """Opens the checkpoints of tmp_path; closes them at the end."""
    everything = []

    def open_checkpoints(read_only=False, **fields):
        everything.append(Checkpoints(tmp_path, settings(**fields), read_only))
        return everything[-1]

    yield open_checkpoints
    for checkpoints in everything:
        checkpoints.close()


def save(checkpoints, step, **figures):
    checkpoints.save(make_state(step), float(step), figures or None)
    checkpoints.wait()


def test_restored_equals_saved_bit_for_bit(opened):
    save(opened(), 3)
    state, seconds = opened(read_only=True).restore(template(), 3)
    assert differing(state, make_state(3)) == []
    assert seconds == 3.0
    assert jax.tree.map(lambda x: x.dtype, state) == jax.tree.map(lambda x: x.dtype, template())


def test_state_may_be_donated_as_soon_as_save_returns(opened):
    """Writing goes on in the background while the next steps overwrite the buffers."""

    @jax.jit
    def copy(state):
        return jax.tree.map(jnp.copy, state)

    step = jax.jit(
        lambda state: jax.tree.map(lambda x: (x * 0 + 9).astype(x.dtype), state), donate_argnums=0
    )
    checkpoints = opened(keep=5)
    expected = {}
    for number in range(1, 6):
        state = copy(make_state(number))
        expected[number] = jax.tree.map(np.array, state)
        checkpoints.save(state, 0.0)
        for _ in range(20):
            state = step(state)
        jax.block_until_ready(state)
    checkpoints.wait()
    for number, before in expected.items():
        restored, _ = checkpoints.restore(template(), number)
        assert differing(restored, before) == []


def test_keeps_the_last_ones(opened, tmp_path):
    checkpoints = opened(keep=2)
    for step in (1, 2, 3, 4, 5):
        save(checkpoints, step)
    assert checkpoints.steps() == [4, 5] == checkpoint_steps(tmp_path)


@pytest.mark.parametrize(('best', 'which'), [('top1', 2), ('loss', 1)])
def test_keeps_the_best_besides(opened, tmp_path, best, which):
    """The highest accuracy, or the lowest loss."""
    checkpoints = opened(keep=1, best=best)
    for step, top1, loss in ((1, 0.3, 0.5), (2, 0.9, 0.9), (3, 0.6, 0.7), (4, 0.5, 0.8)):
        save(checkpoints, step, top1=top1, loss=loss)
    save(checkpoints, 5)  # without an evaluation
    assert checkpoint_steps(tmp_path) == [which, 5]
    assert checkpoints.find('best') == which
    assert checkpoints.find('latest') == 5
    # So also for a process that comes later, as `eval --checkpoint best` does.
    assert opened(read_only=True, best=best).find('best') == which


def test_best_is_kept_by_a_run_that_was_continued(opened, tmp_path):
    first = opened(keep=1)
    for step, top1 in ((1, 0.9), (2, 0.1)):
        save(first, step, top1=top1, loss=1.0)
    second = opened(keep=1)
    for step, top1 in ((3, 0.2), (4, 0.3)):
        save(second, step, top1=top1, loss=1.0)
    assert checkpoint_steps(tmp_path) == [1, 4]


def test_without_evaluation_the_best_is_the_latest(opened):
    checkpoints = opened()
    save(checkpoints, 1)
    save(checkpoints, 2)
    assert checkpoints.find('best') == 2


def test_find(opened):
    checkpoints = opened(keep=2)
    with pytest.raises(InputError, match='holds no complete checkpoint'):
        checkpoints.find('latest')
    for step in (1, 2, 3):
        save(checkpoints, step)
    assert checkpoints.find('2') == 2
    for which in ('1', 'lates', '-3'):
        with pytest.raises(InputError, match=f"unknown checkpoint '{which}'"):
            checkpoints.find(which)


def test_unknown_best():
    with pytest.raises(InputError, match=r"unknown checkpoint\.best 'top2'; did you mean"):
        Checkpoints(pathlib.Path('nowhere'), settings(best='top2'))
    assert not pathlib.Path('nowhere').exists()


def test_reading_makes_no_folder(tmp_path):
    with pytest.raises(InputError, match='train the run first'):
        Checkpoints(tmp_path, settings(), read_only=True)
    assert list(tmp_path.iterdir()) == []


def test_half_written_checkpoints_are_ignored_and_cleaned(opened, tmp_path):
    save(opened(), 1)
    whole = tmp_path / 'checkpoints' / '1'
    # What a killed Orbax leaves.
    half = tmp_path / 'checkpoints' / '2.orbax-checkpoint-tmp'
    shutil.copytree(whole, half)
    (half / 'commit_success.txt').unlink()
    (half / 'state' / 'manifest.ocdbt').unlink()
    reader = opened(read_only=True)
    assert reader.steps() == [1]
    assert half.exists()  # a reader beside a running training must not touch it
    writer = opened()
    assert writer.steps() == [1]
    save(writer, 2)
    assert not half.exists()
    assert differing(writer.restore(template(), 2)[0], make_state(2)) == []


@pytest.mark.parametrize(
    'missing', ['state/_METADATA', 'state/manifest.ocdbt', 'state/d', 'progress/metadata', 'state']
)
def test_missing_file(opened, tmp_path, missing):
    """One line names the folder and what else there is; nothing is deleted."""
    writer = opened(keep=2)
    save(writer, 1)
    save(writer, 2)
    broken = tmp_path / 'checkpoints' / '2'
    victim = broken / missing
    shutil.rmtree(victim) if victim.is_dir() else victim.unlink()
    before = sorted((tmp_path / 'checkpoints').rglob('*'))
    checkpoints = opened(keep=2)
    with pytest.raises(InputError) as error:
        checkpoints.restore(template(), 2)
    assert str(broken) in str(error.value)
    assert 'move that folder away to continue from step 1' in str(error.value)
    assert '\n' not in str(error.value)
    assert sorted((tmp_path / 'checkpoints').rglob('*')) == before
    assert differing(checkpoints.restore(template(), 1)[0], make_state(1)) == []
    with pytest.raises(InputError, match='there is no other checkpoint'):
        shutil.rmtree(tmp_path / 'checkpoints' / '1')
        opened(read_only=True).restore(template(), 2)


def test_other_numbers_than_were_saved_are_refused(opened, tmp_path):
    """As after flipped bits, which Orbax does not notice: whole files of another state."""
    checkpoints = opened(keep=2)
    save(checkpoints, 1)
    save(checkpoints, 2)
    folder = tmp_path / 'checkpoints'
    shutil.rmtree(folder / '2' / 'state')
    shutil.copytree(folder / '1' / 'state', folder / '2' / 'state')
    with pytest.raises(InputError, match=r'checkpoints/2 cannot be read: .*checksum of .*params'):
        opened(read_only=True, keep=2).restore(template(), 2)
    progress = folder / '2' / 'progress' / 'metadata'
    progress.write_text('{"seconds": 2.0}')  # as earlier versions wrote it
    state, seconds = opened(read_only=True, keep=2).restore(template(), 2)
    assert differing(state, make_state(1)) == [] and seconds == 2.0


def test_checkpoint_of_another_model(opened):
    checkpoints = opened()
    save(checkpoints, 1)
    other = template().replace(params={'head': {'kernel': jnp.zeros(5), 'bias': jnp.zeros(5)}})
    with pytest.raises(InputError, match='cannot be read'):
        checkpoints.restore(other, 1)


FULL_DISK = """
import pathlib, resource, signal, sys
sys.path.insert(0, {tests!r})
from states import make_state, settings
from resnet_jax.errors import RunError
from resnet_jax.training.checkpoint import Checkpoints

folder = pathlib.Path({folder!r})
checkpoints = Checkpoints(folder, settings(keep=2))
checkpoints.save(make_state(1), 1.0)
checkpoints.wait()
{fault}
try:
    checkpoints.save(make_state(2), 2.0)
    checkpoints.wait()
except RunError as error:
    print(error)
"""
# Writing fails, as on a full disk.
NO_ROOM = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
"""
# Not even a folder can be made.
NO_FOLDER = """
(folder / 'checkpoints').rename(folder / 'away')
(folder / 'checkpoints').write_text('a file where the folder was')
"""


def fail_to_save(folder, fault):
    """What a process prints that saves step 1, meets a fault, and tries to save step 2."""
    script = FULL_DISK.format(tests=str(ROOT / 'tests'), folder=str(folder), fault=fault)
    # A thread that waits in vain would keep the process from ending.
    result = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, timeout=60
    )
    assert 'cannot write a checkpoint' in result.stdout, result.stderr
    assert len(result.stdout.splitlines()) == 1
    return result.stdout


def test_full_disk(opened, tmp_path):
    """Saving fails with a message, the checkpoint before stays, and the next start saves again."""
    said = fail_to_save(tmp_path, NO_ROOM)
    assert 'the last complete one is of step 1; make room' in said
    checkpoints = opened(keep=2)
    assert checkpoints.steps() == [1]
    assert differing(checkpoints.restore(template(), 1)[0], make_state(1)) == []
    save(checkpoints, 2)
    assert differing(checkpoints.restore(template(), 2)[0], make_state(2)) == []


def test_folder_that_cannot_be_written(tmp_path):
    """The failure comes out of `save` at once, and the process ends."""
    assert 'there is none yet' in fail_to_save(tmp_path, NO_FOLDER)
    assert [p.name for p in (tmp_path / 'away').iterdir()] == ['1']
