"""Runs recorded by MLflow and Weights & Biases: the real libraries, a folder or offline files."""

import json
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest
from running import checkpoint_steps, flags, free_port, start, tiny

from resnet_jax.cli import main, process_settings
from resnet_jax.errors import InputError, RunError
from resnet_jax.inference.trained import load_trained
from resnet_jax.training import config as configs
from resnet_jax.training import loop
from resnet_jax.training.build import build_run
from resnet_jax.training.checks import resolve
from resnet_jax.training.inputs import open_inputs
from resnet_jax.training.session import open_session

mlflow = pytest.importorskip('mlflow', reason='needs the extra resnet-jax[mlflow]')
pytest.importorskip('wandb', reason='needs the extra resnet-jax[wandb]')

TESTS = pathlib.Path(__file__).parent
MLFLOW = {'log.trackers': 'mlflow'}
AS_USERS = {'XLA_FLAGS': ''}  # not slower code that compiles sooner
# Some thousand steps, so that it still goes on when the trackers are connected.
LONG = {'log.trackers': 'wandb,mlflow', 'train.steps': 5000, 'train.log_every': 100,
        'train.eval_every': 1000, 'checkpoint.every': 1500}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(monkeypatch):
    for name in ('MLFLOW_TRACKING_URI', 'MLFLOW_EXPERIMENT_NAME', 'WANDB_API_KEY', 'WANDB_PROJECT'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('MLFLOW_DISABLE_TELEMETRY', 'true')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')  # for the reading here
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('WANDB_ERROR_REPORTING', 'false')


@pytest.fixture(autouse=True)
def as_in_a_command():
    with process_settings():
        yield


@pytest.fixture(scope='module')
def compiled():
    """A run whose compiled programs serve the others."""
    return build_run(tiny(), open_inputs(tiny()))


def lines(folder, split, without=()):
    """{step: {'loss': ...}} of metrics.jsonl."""
    found = map(json.loads, (folder / 'metrics.jsonl').read_text().splitlines())
    return {
        line['step']: {k: v for k, v in line.items() if k not in ('step', 'split', *without)}
        for line in found
        if line['split'] == split
    }


def client_of(store):
    return mlflow.MlflowClient(store.as_uri())


def mlflow_runs(store, project='resnet-jax'):
    client = client_of(store)
    return client.search_runs([client.get_experiment_by_name(project).experiment_id])


def mlflow_figures(store, run, split, without=()):
    """The same as `lines`, read by MLflow's own client; a step recorded twice fails."""
    found = {}
    for key in run.data.metrics:
        part, _, name = key.partition('/')
        if part == split and name not in without:
            history = client_of(store).get_metric_history(run.info.run_id, key)
            assert len({m.step for m in history}) == len(history), key
            for metric in history:
                found.setdefault(metric.step, {})[name] = metric.value
    return found


def wandb_records(path):
    """The records in a .wandb file, by its format: LevelDB's log after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, block, at, whole = path.read_bytes(), 32768, 7, b''
    while at + 7 <= len(content):
        if block - at % block < 7:  # too short for a head: padding
            at += block - at % block
            continue
        length, kind = struct.unpack('<HB', content[at + 4 : at + 7])
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # all of a record, or its last part
            yield Record.FromString(whole)
            whole = b''


def wandb_run(path):
    """(figures by split as `lines` gives them, summary, exit code or None) of a .wandb file."""
    figures, summary, code = {'train': {}, 'eval': {}}, {}, None
    for record in wandb_records(path):
        if record.HasField('history'):
            row = {i.key or i.nested_key[0]: json.loads(i.value_json) for i in record.history.item}
            for key, value in row.items():
                split, _, name = key.partition('/')
                if split in figures:
                    at = figures[split].setdefault(row['step'], {})
                    assert name not in at
                    at[name] = value
        elif record.HasField('summary'):
            updates = record.summary.update
            summary.update({(u.key or u.nested_key[0]): json.loads(u.value_json) for u in updates})
        elif record.HasField('exit'):
            code = record.exit.exit_code
    return figures, summary, code


def wandb_files(folder):
    """Of each process that trained in the folder, in order."""
    return sorted(folder.glob('wandb/*run-*/*.wandb'), key=lambda p: p.parent.name)


def test_mlflow_holds_what_the_workdir_holds(tmp_path, compiled, capfd):
    folder = tmp_path / 'a run, 50 %'
    summary = loop.train(tiny({**MLFLOW, 'log.project': 'digits'}), folder, like=compiled)
    err = capfd.readouterr().err
    assert re.search(r'recorded by MLflow: file:.*/mlruns, experiment digits, run a run, 50 %', err)
    assert 'WARN' not in err.upper()
    (run,) = mlflow_runs(folder / 'mlruns', 'digits')
    assert (run.info.status, run.info.run_name) == ('FINISHED', 'a run, 50 %')
    for split, steps in (('train', [4, 8, 12]), ('eval', [6, 12])):
        assert list(lines(folder, split)) == steps
        assert mlflow_figures(folder / 'mlruns', run, split) == lines(folder, split)
    assert run.data.params['optim.learning_rate'] == '0.2'
    assert run.data.params['model.stage_sizes'] == '(1,)'
    assert run.data.metrics['summary/eval.top1'] == summary['eval']['top1']
    assert run.data.metrics['summary/parameters'] == summary['parameters']
    assert run.data.tags['summary/versions.jax'] == summary['versions']['jax']


def test_switched_on_late_it_gets_all_and_off_nothing(tmp_path, compiled):
    """Also of a workdir whose config.json is older than the fields."""
    folder = tmp_path / 'run'
    with pytest.raises(loop.Stopped):
        loop.train(tiny(), folder, like=compiled, on_evaluation=lambda step, figures: False)
    assert not (folder / 'tracking_id').exists()
    old = json.loads((folder / 'config.json').read_text())
    del old['log']
    (folder / 'config.json').write_text(json.dumps(old))
    loop.train(tiny(MLFLOW), folder, like=compiled)
    (run,) = mlflow_runs(folder / 'mlruns')
    assert run.info.status == 'FINISHED'
    assert sorted(mlflow_figures(folder / 'mlruns', run, 'train')) == [4, 8, 12]
    assert load_trained(folder).origin['step'] == 12


def test_status_of_a_run_that_fails_or_is_stopped(tmp_path, compiled):
    folder = tmp_path / 'run'
    ends = []
    prepared = loop.prepare(tiny(MLFLOW), folder, compiled)
    with pytest.raises(RunError), open_session(prepared[0], folder, prepared[1]):
        raise RunError('the loss is not finite')
    ends.append(mlflow_runs(folder / 'mlruns'))
    with pytest.raises(loop.Stopped):
        loop.train(tiny(MLFLOW), folder, like=compiled, on_evaluation=lambda step, figures: False)
    ends.append(mlflow_runs(folder / 'mlruns'))
    assert [run.info.status for (run,) in ends] == ['FAILED', 'KILLED']
    assert ends[0][0].info.run_id == ends[1][0].info.run_id


# In a process of their own: Weights & Biases starts a service that later processes would share.
SEVERAL = """
import pathlib, sys
from running import tiny
from resnet_jax.training import loop
from resnet_jax.experiments.seeds import train_seeds

folder, config = pathlib.Path(sys.argv[1]), tiny({'log.trackers': 'wandb,mlflow'})
try:
    loop.train(config, folder / 'seed0', on_evaluation=lambda step, figures: False)
except loop.Stopped:
    loop.train(config, folder / 'seed0')
train_seeds(config, (1, 2), [folder / 'seed1', folder / 'seed2'], 'vmapped')
"""


@pytest.mark.slow
def test_runs_in_one_process_are_apart_and_a_continued_one_is_one(tmp_path, monkeypatch):
    """One run that is stopped and continued, then two seeds trained together, all of one arm."""
    store, folder = tmp_path / 'store', tmp_path / 'runs' / 'wide=2'
    monkeypatch.setenv('MLFLOW_TRACKING_URI', store.as_uri())
    monkeypatch.setenv('MLFLOW_EXPERIMENT_NAME', 'mine')
    result = subprocess.run(
        [sys.executable, '-c', SEVERAL, folder], cwd=TESTS, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert 'wandb:' not in result.stdout + result.stderr
    runs = {run.info.run_name: run for run in mlflow_runs(store, 'mine')}
    assert set(runs) == {f'wide=2/seed{seed}' for seed in (0, 1, 2)}
    for seed, ends in ((0, [(1, 'killed'), (0, 'finished')]), (1, [(0, 'finished')])):
        workdir, run = folder / f'seed{seed}', runs[f'wide=2/seed{seed}']
        assert (run.data.tags['group'], run.info.status) == ('wide=2', 'FINISHED')
        files = [wandb_run(path) for path in wandb_files(workdir)]
        assert [(code, summary['status']) for _, summary, code in files] == ends
        figures, summary, _ = files[-1]
        for split in ('train', 'eval'):
            assert figures[split] == lines(workdir, split)
            assert mlflow_figures(store, run, split) == lines(workdir, split)
        assert summary['summary/eval.top1'] == lines(workdir, 'eval')[12]['top1']
        started = next(r.run for r in wandb_records(wandb_files(workdir)[-1]) if r.HasField('run'))
        assert (started.project, started.run_group) == ('resnet-jax', 'wide=2')
        assert started.run_id == (workdir / 'tracking_id').read_text().strip()
        assert started.display_name == f'wide=2/seed{seed}'


def test_steps_that_are_trained_again_are_recorded_once(tmp_path, compiled):
    """As after a crash: the last checkpoint is not there."""
    folder = tmp_path / 'run'
    loop.train(tiny(MLFLOW), folder, like=compiled)
    before = mlflow_runs(folder / 'mlruns')
    shutil.rmtree(folder / 'checkpoints' / '12')
    loop.train(tiny(MLFLOW), folder, like=compiled)
    (run,) = mlflow_runs(folder / 'mlruns')
    for split in ('train', 'eval'):
        again = mlflow_figures(folder / 'mlruns', run, split)  # fails where a step stands twice
        assert again == mlflow_figures(folder / 'mlruns', before[0], split)
        assert list(again) == list(lines(folder, split))


@pytest.mark.parametrize(
    'broken', ['file', 'closed port', pytest.param('silent port', marks=pytest.mark.slow)]
)
def test_a_store_that_fails_stops_nothing(tmp_path, compiled, monkeypatch, capfd, caplog, broken):
    """Nobody listens, or somebody who never answers: one line, and no long wait."""
    monkeypatch.setenv('MLFLOW_HTTP_REQUEST_MAX_RETRIES', '1')
    monkeypatch.setenv('MLFLOW_HTTP_REQUEST_TIMEOUT', '1')
    with socket.create_server(('127.0.0.1', 0)) as silent:
        port = free_port() if broken == 'closed port' else silent.getsockname()[1]
        uri = f'http://me:secret@127.0.0.1:{port}'
        if broken == 'file':
            (tmp_path / 'store').write_text('')
            uri = (tmp_path / 'store').as_uri()
        monkeypatch.setenv('MLFLOW_TRACKING_URI', uri)
        began = time.monotonic()
        summary = loop.train(tiny(MLFLOW), tmp_path / 'run', like=compiled)
        assert time.monotonic() - began < 30
    assert summary['steps'] == 12
    err = capfd.readouterr().err
    assert 'secret' not in err
    assert not [r for r in caplog.records if r.name.startswith(('urllib3', 'mlflow'))]
    said = [line for line in err.splitlines() if 'MLflow' in line]
    assert len(said) == 1
    assert 'MLflow does not record the run' in said[0] and 'training goes on' in said[0]
    assert str(tmp_path / 'run') in said[0]


def test_a_store_that_comes_back_gets_what_it_missed(tmp_path, compiled, monkeypatch):
    """At the next continuation."""
    store, folder = tmp_path / 'store', tmp_path / 'run'
    store.write_text('')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', store.as_uri())
    with pytest.raises(loop.Stopped):
        loop.train(tiny(MLFLOW), folder, like=compiled, on_evaluation=lambda step, figures: False)
    store.unlink()
    loop.train(tiny(MLFLOW), folder, like=compiled)
    (run,) = mlflow_runs(store)
    for split in ('train', 'eval'):
        assert mlflow_figures(store, run, split) == lines(folder, split)


def recorded_step(folder):
    """The last step that MLflow's folder holds."""
    for path in folder.glob('mlruns/*/*/metrics/train/loss'):
        whole = path.read_text().rpartition('\n')[0]
        if whole:
            return int(whole.splitlines()[-1].split()[2])
    return 0


def wait_for(process, condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_killed_and_continued_it_is_one_run(tmp_path):
    """kill -9 with figures recorded beyond the last checkpoint, then SIGTERM, then to the end."""
    folder = tmp_path / 'run'
    arguments = ('train', *flags(LONG), '--workdir', folder)

    process = start(*arguments, env=AS_USERS)
    wait_for(process, lambda: recorded_step(folder) > max(checkpoints(folder), default=10**9))
    process.kill()
    process.communicate()
    lost, saved = recorded_step(folder), max(checkpoints(folder))
    assert lost > saved
    assert [run.info.status for run in mlflow_runs(folder / 'mlruns')] == ['RUNNING']

    process = start(*arguments, env=AS_USERS)
    wait_for(process, lambda: recorded_step(folder) > lost)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143, err
    assert f'continues after step {saved},' in err
    assert [run.info.status for run in mlflow_runs(folder / 'mlruns')] == ['KILLED']

    process = start(*arguments, env=AS_USERS)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert 'wandb' not in out and 'wandb:' not in err and 'Traceback' not in err
    assert err.count('recorded by') == 2
    (run,) = mlflow_runs(folder / 'mlruns')
    assert run.info.status == 'FINISHED'
    # What the killed process had recorded stays: the same figures, but for the clock's.
    clock = ('images_per_second', 'data_wait', 'data_read', 'data_send')
    for split in ('train', 'eval'):
        found = mlflow_figures(folder / 'mlruns', run, split, clock)
        assert found == lines(folder, split, clock)

    first, second, last = wandb_files(folder)
    assert len({path.name for path in (first, second, last)}) == 1  # one id
    assert wandb_run(first)[2] is None
    _, summary, code = wandb_run(second)
    assert (code, summary['status']) == (1, 'killed')
    # Sent last, it replaces the others: it holds all, once.
    figures, summary, code = wandb_run(last)
    assert (code, summary['status']) == (0, 'finished')
    for split in ('train', 'eval'):
        assert figures[split] == lines(folder, split)
    written = json.loads((folder / 'summary.json').read_text())
    assert summary['summary/eval.top1'] == written['eval']['top1']


def checkpoints(folder):
    return checkpoint_steps(folder) if (folder / 'checkpoints').is_dir() else []


@pytest.mark.slow
def test_without_an_account_it_says_what_to_do(tmp_path):
    home = {'HOME': str(tmp_path / 'home'), 'NETRC': str(tmp_path / 'none'), 'WANDB_MODE': 'online'}
    process = start(
        'train', *flags({'log.trackers': 'wandb'}), '--workdir', tmp_path / 'run', env=home
    )
    _, err = process.communicate()
    assert process.returncode == 2
    message = err.splitlines()[-1]
    assert message.startswith('resnet-jax: ') and 'WANDB_MODE=offline' in message
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize('name', ['wandb', 'mlflow'])
def test_without_the_package_it_names_the_extra(tmp_path, monkeypatch, capfd, name):
    monkeypatch.setitem(sys.modules, name, None)
    code = main(['train', *flags({'log.trackers': name}), '--workdir', str(tmp_path / 'run')])
    assert code == 2
    assert f'pip install "resnet-jax[{name}]"' in capfd.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_names():
    config = tiny({'log.trackers': 'wandb, mlflow'})
    assert config.log.trackers == ('wandb', 'mlflow')
    assert tiny({'log.trackers': "('mlflow',)"}).log.trackers == ('mlflow',)
    assert tiny({'log.trackers': '()'}).log.trackers == ()
    assert configs.differences(config, tiny({'log.trackers': 'mlflow', 'log.project': 'x'})) == []
    with pytest.raises(InputError, match=r"unknown tracker .* 'mlfow'; did you mean 'mlflow'"):
        resolve(tiny({'log.trackers': 'mlfow'}))
