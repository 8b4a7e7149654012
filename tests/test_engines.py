"""Engines: several processes or Ray train a sweep as one process does, through any death."""

import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import uuid

import pytest
from running import (
    ROOT,
    checkpoint_steps,
    command,
    complains,
    differing,
    free_port,
    load_state,
    start,
)
from sweep_files import ARMS, summaries, sweep_file

from resnet_jax.cli import main
from resnet_jax.errors import RunError
from resnet_jax.experiments.engines import ray_engine
from resnet_jax.experiments.engines.engine import run_sweep
from resnet_jax.experiments.engines.local_engine import visible_gpus
from resnet_jax.experiments.sweep import load_sweep

WORKERS = ('--workers', 2)
RAY = ('--engine', 'ray')
LONG = 60  # steps: long enough to be met on the way
ONE_ARM = {'plain': ARMS['plain']}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """A sweep of two runs as one process trains it: its file and workdir."""
    return reference(tmp_path_factory.mktemp('whole'), ONE_ARM, 8)


@pytest.fixture(scope='module')
def long(tmp_path_factory):
    """The same with twice as many, longer ones."""
    return reference(tmp_path_factory.mktemp('long'), ARMS, LONG)


def reference(folder, arms, steps):
    file = sweep_file(folder, arms, steps)
    assert run_sweep(load_sweep(str(file)), folder / 'out') == []
    return file, folder / 'out'


@pytest.fixture
def ray(monkeypatch):
    # Else it would leave a token in the user's home.
    monkeypatch.setenv('RAY_AUTH_MODE', 'token')
    monkeypatch.setenv('RAY_AUTH_TOKEN', uuid.uuid4().hex)
    return pytest.importorskip('ray', reason='needs the extra ray')


def arguments(file, out, *options):
    return 'sweep', '--config', file, '--workdir', out, *options


def same(out, expected):
    """Asserts the same figures and parameters, bit for bit, in all runs."""
    assert summaries(out) == summaries(expected[1])
    for name in summaries(out):
        states = [load_state(folder / 'runs' / name) for folder in (out, expected[1])]
        assert not differing(*(state.params for state in states)), name


def assert_displayed(done):
    """A line for each of two runs, signs of life between them, and where they are at the end."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith('training ')]
    assert len(lines) == 2, done.stderr
    assert 'runs: ended' in done.stdout and 'resnet-jax report --workdir' in done.stdout
    for number, line in enumerate(lines, 1):
        assert line.startswith(f'[{number}/2] plain seed') and line.endswith(' left')
    assert lines[1].endswith('; 00:00 left')


def wait_for(condition, process=None):
    """Waits until something is so, while a process is at it."""
    until = time.monotonic() + 100
    while not (found := condition()):
        assert time.monotonic() < until
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found


def below(pid, name):
    """Processes that a process started, directly or not, with this in their command line."""
    found = []
    for path in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
        for child in path.read_text().split():
            found += below(child, name)
            try:
                line = pathlib.Path(f'/proc/{child}/cmdline').read_text().replace('\0', ' ')
            except OSError:  # it has just ended
                continue
            if name in line:
                found.append(int(child))
    return found


def checkpoints(out):
    return len(list(out.glob('runs/*/*/checkpoints/[0-9]*')))


def alive(pid):
    try:
        return 'Z (zombie)' not in pathlib.Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return False


# Several processes


@pytest.mark.slow
def test_processes_give_what_one_gives(whole, tmp_path):
    out = tmp_path / 'out'
    done = command(*arguments(whole[0], out, *WORKERS))
    assert done.returncode == 0, done.stderr
    same(out, whole)
    assert_displayed(done)
    # Nothing else is there than one process leaves.
    assert {p.name for p in out.iterdir()} == {p.name for p in whole[1].iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize('victim', ['worker', 'parent'])
@pytest.mark.parametrize(
    ('options', 'name'),
    [(WORKERS, 'experiments.engines.worker'), (RAY, 'ray::train')],
    ids=['workers', 'ray'],
)
def test_a_process_that_is_killed(options, name, victim, long, tmp_path, request):
    """Another continues what a worker was at; nobody outlives the parent."""
    if options is RAY:
        request.getfixturevalue('ray')
    out = tmp_path / 'out'
    process = start(*arguments(long[0], out, *options))
    wait_for(lambda: checkpoints(out), process)
    workers = below(process.pid, name)
    assert workers and (options is RAY or len(workers) == 2)
    os.kill(workers[0] if victim == 'worker' else process.pid, signal.SIGKILL)
    _, err = process.communicate()
    if victim == 'parent':
        wait_for(lambda: not any(map(alive, workers)))
        process = start(*arguments(long[0], out, *options))
        _, err = process.communicate()
    assert process.returncode == 0, err
    same(out, long)


@pytest.mark.slow
def test_a_process_that_dies_too_often(long, tmp_path):
    out = tmp_path / 'out'
    process = start(*arguments(long[0], out, *WORKERS, '--retries', 0))
    wait_for(lambda: checkpoints(out), process)
    os.kill(below(process.pid, 'experiments.engines.worker')[0], signal.SIGKILL)
    _, err = process.communicate()
    result = subprocess.CompletedProcess([], process.returncode, '', err)
    complains(result, 1, 'runs failed', 'failed.json')
    assert 'its process was killed by SIGKILL, 1 times' in err
    failures = list(out.glob('runs/*/*/failed.json'))
    assert failures and 'SIGKILL' in json.loads(failures[0].read_text())['error']
    again = command(*arguments(long[0], out, *WORKERS))
    assert again.returncode == 0, again.stderr
    same(out, long)


@pytest.mark.slow
@pytest.mark.parametrize('options', [WORKERS, RAY], ids=['workers', 'ray'])
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_they_save(signum, options, long, tmp_path, request):
    if options is RAY:
        request.getfixturevalue('ray')
    out = tmp_path / 'out'
    process = start(*arguments(long[0], out, *options))
    wait_for(lambda: checkpoints(out), process)
    process.send_signal(signum)
    _, err = process.communicate()
    result = subprocess.CompletedProcess([], process.returncode, '', err)
    last = complains(result, 128 + signum, f'stopped by {signum.name}', 'to continue')
    assert not below(process.pid, '')
    left = 4 - len(summaries(out))
    assert f'{left} runs are left' in last
    # Those on their way stopped between two of the checkpoints that are due every 4 steps.
    steps = [checkpoint_steps(path.parent)[-1] for path in out.glob('runs/*/*/checkpoints')]
    assert 1 <= sum(step < LONG for step in steps) <= 2
    again = command(*arguments(long[0], out, *options))
    assert again.returncode == 0, again.stderr
    same(out, long)


@pytest.mark.slow
@pytest.mark.parametrize('options', [WORKERS, RAY], ids=['workers', 'ray'])
def test_one_failure_does_not_stop_the_others(options, tmp_path, request):
    if options is RAY:
        request.getfixturevalue('ray')
    file = sweep_file(tmp_path, {'good': {}, 'bad': {'optim.learning_rate': 1e30}})
    out = tmp_path / 'out'
    result = command(*arguments(file, out, *options))
    complains(result, 1, '2 of 4 runs failed', 'bad seed 0', 'bad seed 1', 'failed.json')
    assert list(summaries(out)) == ['good/seed0', 'good/seed1']
    why = json.loads((out / 'runs' / 'bad' / 'seed1' / 'failed.json').read_text())
    assert why['diverged'] and 'diverged' in why['error']
    # It is a result: nobody began it again.
    assert len([line for line in result.stderr.splitlines() if 'bad seed1' in line]) == 1


@pytest.mark.slow
@pytest.mark.parametrize('options', [WORKERS, RAY], ids=['workers', 'ray'])
def test_data_that_cannot_be_read_end_it(options, tmp_path, request):
    if options is RAY:
        request.getfixturevalue('ray')
    file = sweep_file(tmp_path)
    wrong = '--config.data.train_split=nowhere'
    result = command(*arguments(file, tmp_path / 'out', *options, wrong))
    complains(result, 2, "'nowhere'")


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """What a machine with two GPUs says of them; there are none."""
    tool = tmp_path / 'bin' / 'nvidia-smi'
    tool.parent.mkdir()
    tool.write_text(
        '#!/bin/sh\necho "GPU 0: NVIDIA H (UUID: GPU-aa)"\necho "GPU 1: NVIDIA H (UUID: GPU-bb)"\n'
    )
    tool.chmod(0o755)
    described = tmp_path / 'site' / 'fake_cuda-1.dist-info'
    described.mkdir(parents=True)
    (described / 'METADATA').write_text('Name: fake-cuda\nVersion: 1\n')
    (described / 'entry_points.txt').write_text('[jax_plugins]\nxla_cuda12 = fake_cuda\n')
    (tmp_path / 'site' / 'fake_cuda.py').write_text(
        'import os, sys\n'
        "print('sees', os.environ.get('CUDA_VISIBLE_DEVICES'), file=sys.stderr, flush=True)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / 'site')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'site'))
    monkeypatch.setenv('PATH', f'{tool.parent}:{os.environ["PATH"]}')
    monkeypatch.setenv('JAX_PLATFORMS', '')
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    return tmp_path


def test_gpus_are_counted_without_jax(two_gpus, monkeypatch):
    assert visible_gpus() == ['GPU-aa', 'GPU-bb']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3, 5,-1,6')  # CUDA stops at what is none
    assert visible_gpus() == ['3', '5']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    assert visible_gpus() == []
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    assert visible_gpus() == []
    monkeypatch.setenv('JAX_PLATFORMS', 'cuda,cpu')
    assert len(visible_gpus()) == 2
    (two_gpus / 'site' / 'fake_cuda-1.dist-info' / 'entry_points.txt').unlink()
    assert visible_gpus() == []  # JAX would not use them


@pytest.mark.slow
def test_each_gpu_gets_a_process(two_gpus, whole, tmp_path):
    out = tmp_path / 'out'
    done = command(*arguments(whole[0], out), env={'JAX_PLATFORMS': ''})
    assert done.returncode == 0, done.stderr
    same(out, whole)
    logs = [log.read_text() for log in sorted((out / 'logs').iterdir())]
    assert ['sees GPU-aa' in logs[0], 'sees GPU-bb' in logs[1]] == [True, True]


# Ray


@pytest.mark.slow
def test_ray_gives_what_one_process_gives(ray, whole, tmp_path):
    """Started here, with what it prints kept out of sight. One run at a time, in one process."""
    out = tmp_path / 'out'
    done = command(*arguments(whole[0], out, *RAY, '--cpus-per-run', os.cpu_count()))
    assert done.returncode == 0, done.stderr
    same(out, whole)
    assert_displayed(done)
    assert {p.name for p in out.iterdir()} == {p.name for p in whole[1].iterdir()}


@pytest.fixture
def apart(ray, tmp_path):
    """A Ray cluster that does not see what lies in a folder here; gives the folder and address."""
    hidden, port = tmp_path / 'hidden', free_port()
    hidden.mkdir()
    cluster = (
        f'mount -t tmpfs none {hidden} && exec {sys.executable} -m ray.scripts.scripts start '
        f'--head --port {port} --num-cpus 2 --include-dashboard false --block'
    )
    unshare = ['unshare', '--user', '--map-root-user', '--mount', '--propagation', 'private']
    if not shutil.which('unshare') or subprocess.run([*unshare, 'true']).returncode:
        pytest.skip('no file systems of its own may be given to a process here')
    process = subprocess.Popen(
        [*unshare, 'sh', '-c', cluster],
        env={
            **os.environ,
            'XDG_CACHE_HOME': str(tmp_path / 'cache'),
            'RAY_USAGE_STATS_ENABLED': '0',
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield hidden, f'127.0.0.1:{port}'
    process.terminate()
    process.wait(60)


@pytest.mark.slow
def test_without_common_files_the_runs_come_back(apart, long, tmp_path):
    """Stopped on the way and continued: what was saved travels there and back."""
    hidden, address = apart
    out, options = hidden / 'out', (*RAY, '--ray-address', address)
    there = tmp_path / 'cache' / 'resnet_jax' / 'runs'
    process = start(*arguments(long[0], out, *options))
    wait_for(lambda: list(there.glob('*/checkpoints/[0-9]*')), process)
    assert not list(out.glob('runs/*/*/checkpoints/*'))
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, err
    assert checkpoints(out) and not list(there.iterdir())
    again = command(*arguments(long[0], out, *options))
    assert again.returncode == 0, again.stderr
    same(out, long)
    assert not list(there.iterdir())


@pytest.mark.parametrize('address', ['127.0.0.1:{port}', 'somewhere'])
def test_no_cluster_there(address, ray, whole, tmp_path, capsys):
    out, address = tmp_path / 'out', address.format(port=free_port())
    assert main([*map(str, arguments(whole[0], out, *RAY, '--ray-address', address))]) == 2
    err = capsys.readouterr().err
    assert f'no Ray cluster at {address}: ' in err or 'HOST:PORT or auto' in err
    assert len(err.splitlines()) == 1 and not out.exists()


@pytest.mark.slow
def test_no_such_machine(ray, whole, tmp_path):
    out = tmp_path / 'out'
    result = command(*arguments(whole[0], out, *RAY, '--cpus-per-run', 5000))
    complains(result, 2, 'no machine', '5000 CPUs', 'lower --cpus-per-run')
    assert not out.exists()


# Folders that travel


def test_a_folder_travels_but_for_its_lock(tmp_path):
    there, here = tmp_path / 'there', tmp_path / 'here'
    (there / 'checkpoints' / '4').mkdir(parents=True)
    (there / 'checkpoints' / '4' / 'data').write_bytes(b'\0\1')
    (there / '.lock').touch()
    here.mkdir()
    (here / 'old').touch()
    ray_engine.unpack(ray_engine.pack(there), here)
    assert (here / 'checkpoints' / '4' / 'data').read_bytes() == b'\0\1'
    assert {p.name for p in here.iterdir()} == {'checkpoints'}
    assert {p.name for p in tmp_path.iterdir()} == {'there', 'here'}


def archive_of(name, kind=tarfile.REGTYPE):
    """An archive of one member."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as archive:
        member = tarfile.TarInfo()
        member.name, member.type, member.linkname = name, kind, '/etc/passwd'
        archive.addfile(member)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('../outside', tarfile.REGTYPE),
        ('a/../../outside', tarfile.REGTYPE),
        ('link', tarfile.SYMTYPE),
        ('link', tarfile.LNKTYPE),
        ('device', tarfile.CHRTYPE),
    ],
)
def test_nothing_lands_outside_a_folder(name, kind, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    (folder / 'config.json').write_text('{}')
    with pytest.raises(RunError, match='cannot be unpacked'):
        ray_engine.unpack(archive_of(name, kind), folder)
    with pytest.raises(RunError, match='cannot be unpacked'):
        ray_engine.unpack(b'no archive', folder)
    assert (folder / 'config.json').read_text() == '{}'
    assert [p.name for p in tmp_path.iterdir()] == ['run']


def test_an_absolute_path_lands_inside(tmp_path):
    ray_engine.unpack(archive_of(f'{tmp_path}/outside'), tmp_path / 'run')
    assert [p.name for p in tmp_path.iterdir()] == ['run']


# Options


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (('--engine', 'slurm'), "unknown engine 'slurm'"),
        (('--engine', 'ray', '--workers', '2'), '--workers goes with --engine local'),
        (('--ray-address', 'auto'), '--ray-address goes with --engine ray'),
        (('--gpus-per-run', '1'), '--gpus-per-run goes with --engine ray'),
        (('--workers', '0'), '--workers must be at least 1, got 0'),
        (('--retries', '-1'), '--retries must be at least 0, got -1'),
        ((*RAY, '--cpus-per-run', 'nan'), '--cpus-per-run must be a finite number, got nan'),
        ((*RAY, '--gpus-per-run', '1.5'), '--gpus-per-run above 1 must be whole, got 1.5'),
    ],
)
@pytest.mark.parametrize('name', ['sweep', 'reproduce'])
def test_bad_options(name, options, message, tmp_path, capsys):
    out = tmp_path / 'out'
    sweep = ('--config', str(sweep_file(tmp_path, {'a': ARMS['plain']})))
    table = ('he2015_table6', '--scale', 'short')
    what = sweep if name == 'sweep' else table
    assert main([name, *what, '--workdir', str(out), *options]) == 2
    assert capsys.readouterr().err.startswith(f'resnet-jax: {message}')
    assert not out.exists()


def test_what_a_ray_worker_runs_is_found_by_name():
    """It is pickled by reference, so a worker imports it; importing it does not need Ray."""
    code = (
        'import pickle, sys; sys.modules["ray"] = None\n'
        'from resnet_jax.experiments.engines import ray_engine\n'
        'assert pickle.loads(pickle.dumps(ray_engine.train_task)) is ray_engine.train_task'
    )
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_variables_that_ray_needs_to_start_are_unset_afterwards(monkeypatch):
    monkeypatch.setenv('RAY_USAGE_STATS_ENABLED', '1')
    monkeypatch.delenv('RAY_ENABLE_UV_RUN_RUNTIME_ENV', raising=False)
    before = dict(os.environ)
    with ray_engine._default_environment(ray_engine._RAY_ENVIRONMENT):
        assert os.environ['RAY_USAGE_STATS_ENABLED'] == '1'
        assert os.environ['RAY_ENABLE_UV_RUN_RUNTIME_ENV'] == '0'
    assert dict(os.environ) == before


def test_without_ray(whole, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'ray', None)
    out = tmp_path / 'out'
    assert main([*map(str, arguments(whole[0], out, *RAY))]) == 2
    assert 'pip install "resnet-jax[ray]"' in capsys.readouterr().err
    assert not out.exists()
