import contextlib
import itertools
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import jax.numpy as jnp
import numpy as np
import pytest
from members import members
from PIL import Image
from running import STREAMED, checkpoint_steps, complains, flags, start

from resnet_jax.data import (
    TRANSFORMS,
    Parameter,
    Preprocessing,
    Transform,
    batch_indices,
    batch_positions,
    default_workers,
    epoch_order,
    eval_batches,
    load_arrays,
    open_source,
    read_ahead,
    train_batches,
)
from resnet_jax.data.pictures import random_resized_crop
from resnet_jax.data.transforms.geometry import random_scale_crop
from resnet_jax.errors import InputError, Range

DIGITS = Preprocessing(8, 1, None, (0.5,), (1.0,), tuple('0123456789'))
COLOUR = Preprocessing(12, 3, None, (0.5,) * 3, (1.0,) * 3, ())
STREAM = {'seed': 3, 'batch_size': 7}
CROP = {'transforms': ('random_resized_crop',)}


def stream(first: int, last: int, workers: int, crop: bool) -> list[dict[str, np.ndarray]]:
    """Batches of a stream over 20 synthetic images, several epochs long."""
    source = open_source('synthetic', 'train[:20]')
    return list(
        train_batches(
            source,
            COLOUR,
            **STREAM,
            first_step=first,
            last_step=last,
            workers=workers,
            **(CROP if crop else {}),
        )
    )


def assert_same(batches, others) -> None:
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], other[name], strict=True)


def test_each_epoch_has_its_own_permutation():
    orders = {(s, e): tuple(epoch_order(s, e, 100)) for s in range(3) for e in range(4)}
    assert len(set(orders.values())) == 12
    for order in orders.values():
        assert sorted(order) == list(range(100))
    assert tuple(epoch_order(1, 2, 100)) == orders[1, 2]


def test_the_stream_is_one_epoch_after_another():
    n, batch, seed = 10, 4, 5
    stream = np.concatenate([batch_indices(seed, s, batch, n) for s in range(10)])
    expected = np.concatenate([epoch_order(seed, e, n) for e in range(4)])
    np.testing.assert_array_equal(stream, expected)
    assert stream.dtype == np.int32
    positions = np.concatenate([batch_positions(s, batch) for s in range(10)])
    np.testing.assert_array_equal(positions, np.arange(40))


def test_a_late_step_needs_no_earlier_one():
    n = 50_000
    step = 10**6
    indices = batch_indices(0, step, 128, n)
    epoch, place = divmod(step * 128, n)
    np.testing.assert_array_equal(indices[:10], epoch_order(0, epoch, n)[place : place + 10])


@pytest.mark.parametrize('batch_size', [0, 21])
def test_a_batch_that_does_not_fit_is_refused(batch_size):
    words = f'batch of {batch_size} must be between 1 and the 20 examples'
    with pytest.raises(InputError, match=words):
        batch_indices(0, 0, batch_size, 20)
    source = open_source('synthetic', 'train[:20]')
    with pytest.raises(InputError, match=words):
        train_batches(source, COLOUR, seed=0, batch_size=batch_size, first_step=0, last_step=1)


def test_load_arrays_keeps_the_order():
    source = open_source('digits', 'train')
    arrays = load_arrays(source, DIGITS)
    examples = source.take(range(len(source)))
    np.testing.assert_array_equal(arrays['image'], [e['image'] for e in examples])
    np.testing.assert_array_equal(arrays['label'], [e['label'] for e in examples])
    assert (arrays['image'].dtype, arrays['label'].dtype) == (np.uint8, np.int32)


def test_load_arrays_gives_the_size_and_channels():
    arrays = load_arrays(open_source('digits', 'test[:5]'), COLOUR)
    assert arrays['image'].shape == (5, 12, 12, 3)


@pytest.mark.parametrize('workers', members([0, 1, 2], (1, 2)))
def test_batches_are_those_of_batch_indices(workers):
    source = open_source('synthetic', 'train[:20]')
    images = np.stack([COLOUR.prepare(source[i]['image']) for i in range(20)])
    labels = np.asarray([source[i]['label'] for i in range(20)], np.int32)
    rows = [batch_indices(3, step, 7, 20) for step in range(9)]
    expected = [{'image': images[r], 'label': labels[r]} for r in rows]
    assert_same(stream(0, 9, workers, crop=False), expected)


def test_random_crops_do_not_depend_on_workers_or_on_where_the_stream_began():
    whole = stream(0, 9, workers=0, crop=True)
    assert_same(stream(0, 9, workers=2, crop=True), whole)
    assert_same(stream(5, 9, workers=0, crop=True), whole[5:])
    assert_same(stream(8, 9, workers=2, crop=True), whole[8:])  # fewer batches than workers
    # The same image is cut differently in the next epoch.
    source_of = np.concatenate([batch_indices(3, s, 7, 20) for s in range(9)])
    first, second = np.flatnonzero(source_of == 0)[:2]
    images = np.concatenate([batch['image'] for batch in whole])
    assert (images[first] != images[second]).any()


def test_random_crops_are_those_of_earlier_versions():
    """The same computation as before transforms had names, written out."""
    source = open_source('synthetic', 'train[:20]')
    indices = np.concatenate([batch_indices(3, s, 7, 20) for s in range(9)])
    expected = [
        random_resized_crop(
            source[int(i)]['image'], 12, np.random.default_rng([3, 2, position]), (0.08, 1.0)
        )
        for position, i in enumerate(indices)
    ]
    images = np.concatenate([b['image'] for b in stream(0, 9, workers=0, crop=True)])
    np.testing.assert_array_equal(images, expected)


def invert(rng, image, size, most):
    return rng.integers(2, dtype=np.uint8) * most - image


@pytest.mark.slow
def test_host_transforms_follow_one_another(monkeypatch):
    """Also in worker processes, which lack the rows that a program adds to the table."""
    most = {'most': Parameter(200, Range(0, 255, whole=True), 'of the result')}
    monkeypatch.setitem(TRANSFORMS, 'invert', Transform('host', 'example', 99, invert, most))
    options = {'seed': 3, 'batch_size': 7, 'first_step': 0, 'last_step': 3}
    names = ('random_resized_crop', 'invert(most=255)', 'flip')
    source = open_source('synthetic', 'train[:20]')
    both = [
        list(train_batches(source, COLOUR, workers=n, transforms=names, **options)) for n in (0, 1)
    ]
    assert_same(*both)
    crops = np.concatenate([batch['image'] for batch in stream(0, 3, workers=0, crop=True)])
    expected = [
        invert(np.random.default_rng([3, 99, position]), crop, 12, 255)
        for position, crop in enumerate(crops)
    ]
    np.testing.assert_array_equal(np.concatenate([b['image'] for b in both[0]]), expected)


def test_settings_reach_the_crops_of_the_host():
    source = open_source('synthetic', 'train[:20]')
    settings = {'scale': (0.5, 0.9), 'ratio': (1.0, 1.0), 'interpolation': 'bicubic'}
    text = 'random_resized_crop(scale=(0.5, 0.9), ratio=(1, 1), interpolation=bicubic)'
    (batch,) = train_batches(
        *(source, COLOUR), **STREAM, first_step=0, last_step=1, transforms=(text,), repeats=2
    )
    indices = batch_indices(3, 0, 7, 20, repeats=2)
    assert indices[0] == indices[1]
    for position, (found, i) in enumerate(zip(batch['image'], indices, strict=True)):
        rng = np.random.default_rng([3, 2, position])
        expected = random_resized_crop(source[int(i)]['image'], 12, rng, **settings)
        np.testing.assert_array_equal(found, expected)


def test_random_scale_crops_are_windows_of_the_resized_image():
    """he2015, section 3.4: Pillow's whole image at each length of the shorter side, 12 to 15."""
    picture = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    windows = {}
    for side in range(12, 16):
        width = 41 * side // 30
        whole = np.asarray(Image.fromarray(picture).resize((width, side), Image.BILINEAR))
        for top, left in itertools.product(range(side - 11), range(width - 11)):
            windows[whole[top : top + 12, left : left + 12].tobytes()] = side
    rngs = map(np.random.default_rng, range(60))
    crops = [random_scale_crop(rng, picture, 12, (12, 15), 'bilinear') for rng in rngs]
    assert {windows[crop.tobytes()] for crop in crops} == {12, 13, 14, 15}
    assert len({crop.tobytes() for crop in crops}) > 25


def test_transforms_that_do_not_fit_are_refused():
    source = open_source('synthetic', 'train[:20]')
    with pytest.raises(InputError, match="did you mean 'random_resized_crop'"):
        train_batches(
            source, COLOUR, **STREAM, first_step=0, last_step=1, transforms=('random_resize_crop',)
        )


def test_the_stream_does_not_depend_on_how_it_is_cut_into_batches():
    source = open_source('synthetic', 'train[:20]')
    options = {'seed': 3, 'first_step': 0, **CROP}
    streams = []
    for size in (6, 12):
        steps = 48 // size
        batches = train_batches(source, COLOUR, batch_size=size, last_step=steps, **options)
        streams.append(np.concatenate([batch['image'] for batch in batches]))
    np.testing.assert_array_equal(streams[0], streams[1])


def test_no_steps_left():
    assert stream(4, 4, workers=0, crop=False) == []
    assert stream(4, 4, workers=2, crop=False) == []


@pytest.mark.parametrize(
    ('workers', 'n'), [(0, 20), (0, 21), (2, 21), pytest.param(2, 20, marks=pytest.mark.slow)]
)
def test_evaluation_sees_each_example_once_in_order(workers, n):
    source = open_source('synthetic', f'test[:{n}]')
    batches = list(eval_batches(source, COLOUR, 5, workers))
    assert len(batches) == -(-n // 5)
    assert all(b['image'].shape == (5, 12, 12, 3) and b['mask'].shape == (5,) for b in batches)
    mask = np.concatenate([b['mask'] for b in batches])
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < n)
    arrays = load_arrays(source, COLOUR)
    for name in ('image', 'label'):
        whole = np.concatenate([b[name] for b in batches])
        np.testing.assert_array_equal(whole[mask], arrays[name])
        assert not whole[~mask].any()


@pytest.fixture
def broken_folder(tmp_path: pathlib.Path) -> pathlib.Path:
    for i in range(8):
        (tmp_path / f'train/class{i % 2}').mkdir(parents=True, exist_ok=True)
        name = tmp_path / f'train/class{i % 2}/{i}.png'
        Image.fromarray(np.full((16, 16, 3), i, np.uint8)).save(name)
    (tmp_path / 'train/class1/5.png').write_text('not a picture')
    return tmp_path


@pytest.mark.parametrize('workers', [0, 2])
def test_a_bad_image_ends_the_stream_and_is_named(broken_folder, workers):
    source = open_source(f'folder:{broken_folder}', 'train')
    batches = train_batches(
        source, COLOUR, seed=0, batch_size=2, first_step=0, last_step=4, workers=workers
    )
    with pytest.raises(InputError, match=r'5\.png: not an image') as caught:
        list(batches)
    assert '\n' not in str(caught.value)
    assert not multiprocessing.active_children()


def test_a_bad_image_ends_loading_and_is_named(broken_folder):
    with pytest.raises(InputError, match=r'5\.png: not an image'):
        load_arrays(open_source(f'folder:{broken_folder}', 'train'), COLOUR)


def test_dropping_the_stream_ends_its_processes():
    jnp.ones(3).block_until_ready()  # JAX's threads run, so forking would be unsafe
    source = open_source('synthetic', 'train')
    batches = train_batches(
        source, COLOUR, seed=0, batch_size=8, first_step=0, last_step=10**6, workers=2
    )
    assert len(list(itertools.islice(batches, 3))) == 3
    assert len(multiprocessing.active_children()) == 2
    del batches
    assert not multiprocessing.active_children()


PROGRAM = """
    import multiprocessing, signal, time
    import jax.numpy as jnp
    from resnet_jax.data import Preprocessing, open_source, train_batches

    if __name__ == '__main__':
        # A shell that starts the tests in the background makes them ignore it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        jnp.ones(3).block_until_ready()
        batches = train_batches(
            open_source('synthetic', 'train'), Preprocessing(12, 3, None, (0,) * 3, (1,) * 3, ()),
            seed=0, batch_size=8, first_step=0, last_step=10**6, workers=2)
        next(batches), next(batches)
        print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        while True:
            next(batches)
            time.sleep(0.01)
"""  # `batches` is a global: it lives until the interpreter exits


def semaphores(pid: int) -> list[pathlib.Path]:
    """The files of the named semaphores that a process holds."""
    maps = pathlib.Path(f'/proc/{pid}/maps').read_text()
    inodes = {int(line.split()[4]) for line in maps.splitlines() if '/dev/shm/sem.' in line}
    return [p for p in pathlib.Path('/dev/shm').glob('sem.*') if p.stat().st_ino in inodes]


def running(pid: int) -> bool:
    try:
        return pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not pathlib.Path('/proc/self').exists(), reason='looks processes up in /proc')
@pytest.mark.parametrize(
    'kill', members(['SIGINT to all', 'SIGKILL', 'SIGKILL to all'], ('SIGINT to all', 'SIGKILL'))
)
def test_workers_end_with_the_program(tmp_path, kill):
    (tmp_path / 'program.py').write_text(textwrap.dedent(PROGRAM))
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / 'program.py')],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        assert all(running(pid) for pid in workers)
        files = semaphores(process.pid)
        assert files and all(file.exists() for file in files)
        if kill == 'SIGKILL':
            process.kill()
        else:  # as Ctrl-C or a scheduler does, to the workers too
            os.killpg(process.pid, getattr(signal, kill.split()[0]))
        process.wait(timeout=60)  # a machine may be busy
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and (
            any(running(pid) for pid in workers) or any(file.exists() for file in files)
        ):
            time.sleep(0.05)
        assert not any(running(pid) for pid in workers)
        assert not any(file.exists() for file in files)
        errors = process.stderr.read()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if kill == 'SIGINT to all':  # the program's own, and nothing from the workers or from Grain
        assert errors.count('Traceback') == 1, errors
        assert 'leaked' not in errors


def devices_of_worker(number):
    """Whether this process has started a backend of JAX, which ones it may, and who it is."""
    import jax
    from jax._src import xla_bridge

    return xla_bridge.backends_are_initialized(), jax.config.jax_platforms, os.getpid()


@pytest.mark.slow
def test_workers_touch_no_device():
    jnp.ones(3).block_until_ready()
    assert devices_of_worker(0)[0]
    stream(0, 1, workers=1, crop=True)  # what a worker does starts no backend, as its own ...
    ((started, platforms, process),) = read_ahead(devices_of_worker, 0, 1, workers=1)
    assert process != os.getpid()
    assert not started
    assert platforms == 'cpu'  # ... and one that is started all the same takes no accelerator


def test_default_workers_is_small():
    assert 0 <= default_workers() <= 8


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_in_one_line(tmp_path):
    """As when the machine has no memory left; the run says what is kept, and leaves no process."""
    fields = {**STREAMED, 'data.workers': 2, 'train.steps': 100_000, 'train.log_every': 100,
              'train.eval_every': 0, 'checkpoint.every': 20}  # fmt: skip
    folder = tmp_path / 'run'
    process = start('train', *flags(fields), '--workdir', folder)
    deadline = time.monotonic() + 120
    while not ((folder / 'checkpoints').is_dir() and checkpoint_steps(folder)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    listed = subprocess.run(
        ['ps', '-ww', '--ppid', str(process.pid), '-o', 'pid=,args='],
        capture_output=True,
        text=True,
    )
    workers = [line.split()[0] for line in listed.stdout.splitlines() if 'spawn_main' in line]
    assert len(workers) == 2
    os.kill(int(workers[0]), signal.SIGKILL)
    out, err = process.communicate(timeout=120)
    result = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    complains(result, 1, 'exit code -9', 'the last good checkpoint is of step', 'run the same')
    assert out == ''
