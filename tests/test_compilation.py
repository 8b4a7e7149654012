"""Compiled programs are kept on disk, give the same numbers from there, and bother nobody."""

import logging
import os
import shutil

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from running import command, differing, flags, load_state, tiny

from resnet_jax.training import compilation, loop
from resnet_jax.training.build import build_run

FIELDS = (
    'jax_enable_compilation_cache',
    'jax_compilation_cache_dir',
    'jax_persistent_cache_min_compile_time_secs',
)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder in which JAX would keep what is compiled, once `keep_compiled` was called."""
    old = {field: getattr(jax.config, field) for field in FIELDS}
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
    jax.config.update('jax_enable_compilation_cache', True)
    jax.config.update('jax_compilation_cache_dir', None)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    compilation_cache.reset_cache()
    jax.clear_caches()
    yield compilation.cache_folder()
    for field, value in old.items():
        jax.config.update(field, value)
    compilation_cache.reset_cache()


@pytest.mark.slow
def test_a_run_and_its_continuation_are_the_same_from_the_disk(cache, tmp_path, caplog):
    """Bit for bit, with the donated buffers and the compiler's options of a run."""
    compilation.keep_compiled()
    config = tiny({'model.dropout': 0.3, 'checkpoint.keep': 3})
    whole, half = tmp_path / 'whole', tmp_path / 'half'
    loop.train(config, whole)
    shutil.copytree(whole, half)  # as it was after 4 of 12 steps
    (half / 'summary.json').unlink()
    for step in (8, 12):
        shutil.rmtree(half / 'checkpoints' / str(step))
    # What continues is compiled once more, for where its state lies.
    for name, from_disk in (('whole', True), ('half', False), ('half', True)):
        folder = tmp_path / f'{name}_{from_disk}'
        if name == 'half':
            shutil.copytree(half, folder)
        jax.clear_caches()
        caplog.clear()
        with caplog.at_level(logging.DEBUG, 'jax._src.compiler'):
            loop.train(config, folder)
        assert 'cache hit for' in caplog.text
        if from_disk:
            assert 'CACHE MISS' not in caplog.text
        assert differing(load_state(folder), load_state(whole)) == []


@pytest.mark.slow
def test_what_the_user_says_counts(cache):
    jax.config.update('jax_compilation_cache_dir', '')
    compilation.keep_compiled()
    assert jax.config.jax_compilation_cache_dir == ''
    jax.config.update('jax_compilation_cache_dir', None)
    jax.config.update('jax_enable_compilation_cache', False)
    compilation.keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
    assert not cache.exists()


def test_the_folder_is_in_the_users_cache(cache, monkeypatch, tmp_path):
    compilation.keep_compiled()
    assert jax.config.jax_compilation_cache_dir == str(cache)
    assert cache.is_dir()
    assert cache.parent == tmp_path / 'caches' / 'resnet_jax' / 'compiled'
    assert cache.stat().st_mode & 0o777 == 0o700  # what it holds is run
    monkeypatch.setenv('XDG_CACHE_HOME', 'relative')  # to be ignored, says the specification
    monkeypatch.setenv('HOME', '/home/someone')
    assert str(compilation.cache_folder()).startswith('/home/someone/.cache/resnet_jax/compiled/')


def test_a_folder_that_cannot_be_written_costs_a_line(cache, monkeypatch, tmp_path, capsys):
    (tmp_path / 'file').touch()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    compilation.keep_compiled()
    assert jax.config.jax_compilation_cache_dir is None
    err = capsys.readouterr().err
    assert err.startswith('compiled programs are not kept: ')
    assert len(err.splitlines()) == 1
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'caches'))
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    compilation.keep_compiled()
    assert 'Permission denied' in capsys.readouterr().err
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.slow
def test_commands_keep_what_they_compile_and_say_nothing_of_it(tmp_path):
    env = {
        **dict.fromkeys(('JAX_COMPILATION_CACHE_DIR', 'TF_CPP_MIN_LOG_LEVEL')),
        'XDG_CACHE_HOME': str(tmp_path),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }
    run = ['--workdir', tmp_path / 'run']
    trained = command('train', *flags({'train.steps': 2}), *run, env=env)
    assert trained.returncode == 0, trained.stderr
    kept = {path.name for path in tmp_path.glob('resnet_jax/compiled/*/*-cache')}
    assert any('eval_step' in name for name in kept)
    first, again = (command('eval', *run, env=env) for _ in range(2))
    assert first.stdout == again.stdout
    assert (first.stderr, again.stderr) == ('', '')


@pytest.mark.parametrize('level', [None, 0])
def test_a_run_compiles_at_the_optimisation_level_of_its_config(level, monkeypatch):
    """The initial state, a training step and a step of evaluation."""
    options, jit = [], jax.jit

    def recording_jit(function, **settings):
        options.append(settings.get('compiler_options'))
        return jit(function, **settings)

    monkeypatch.setattr(jax, 'jit', recording_jit)
    build_run(tiny({'train.xla_optimization_level': level}))
    found = [each.get('xla_backend_optimization_level') for each in options if each is not None]
    assert found == 3 * [level if level is None else str(level)]
