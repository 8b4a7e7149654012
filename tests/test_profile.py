"""`train --profile`: a trace of some steps, and what it says."""

import json

import pytest
from running import STREAMED, flags, tiny

from resnet_jax.cli import main
from resnet_jax.errors import InputError, Stopped
from resnet_jax.training import loop
from resnet_jax.training.profile import Event, figures_of, peak_flops, read_events

# The tiny net on 8x8 digits: a 3x3 convolution from 1 to 4 channels, two from 4 to 4, the head.
MULTIPLY_ADDS = 64 * 9 * (1 * 4 + 2 * 4 * 4) + 4 * 10


def test_a_run_says_where_its_time_went(tmp_path, capsys):
    folder = tmp_path / 'run'
    assert main(['train', *flags(), '--workdir', str(folder), '--profile', '6']) == 0
    said = capsys.readouterr().err
    assert 'profile of 6 steps: ' in said and '0.0 % waiting for data' in said
    found = json.loads((folder / 'summary.json').read_text())['profile']
    assert json.loads((folder / 'profile' / 'profile.json').read_text()) == found
    assert found['steps'] == 6 and found['seconds_per_step'] > 0
    assert found['device'] > 0 and found['data'] == 0  # the images lie on the device
    assert found['device'] + found['data'] + found['host'] == pytest.approx(1)
    assert found['model_flops'] == 32 * 3 * 2 * MULTIPLY_ADDS
    speed = found['model_flops'] / found['seconds_per_step']
    assert found['flop_utilisation'] == pytest.approx(speed / found['peak_flops'])
    assert 0 < found['flop_utilisation'] < 1
    assert found['device_peak_bytes'] is None and found['process_peak_bytes'] > 2**27
    # Each of the convolutions is there, forward and backward, under whatever name XLA gives it.
    assert sum(each['calls'] for each in found['operations']) > 8
    assert sum(each['share'] for each in found['operations']) <= 1 + 1e-9
    (trace,) = (folder / 'profile').rglob('*.xplane.pb')
    assert next(trace.parent.glob('*.trace.json.gz')).stat().st_size
    assert {event.name for event in read_events(trace)} >= {
        each['name'] for each in found['operations']
    }


@pytest.mark.slow
def test_the_figures_of_the_run_are_those_without_a_profile(tmp_path):
    """Also of data that is streamed."""
    summaries = [
        loop.train(tiny(STREAMED), tmp_path / str(steps), profile=steps) for steps in (0, 4)
    ]
    assert [set(s) for s in summaries] == [set(summaries[0]), {*summaries[0], 'profile'}]
    assert summaries[0]['eval'] == summaries[1]['eval']
    found = summaries[1]['profile']
    assert found['data'] >= 0
    assert found['device'] + found['data'] + found['host'] == pytest.approx(1)


def test_shares_and_operations_of_events_made_by_hand():
    """Two devices for 100 ns: one computes for 60 of them, on two lines; the other for 20."""
    events = [
        Event('a', '1', 'loop', 0, 40),
        Event('a', '1', 'conv', 10, 30),  # inside the loop
        Event('a', '2', 'conv', 20, 50),  # beside it, until 10 after its end
        Event('a', '1', 'add', 60, 70),
        Event('b', '1', 'conv', 0, 20),
    ]
    found = figures_of(events, 2, 100e-9, 25e-9)
    assert found['seconds_per_step'] == pytest.approx(50e-9)
    assert found['device'] == pytest.approx(0.4) and found['data'] == pytest.approx(0.25)
    assert found['host'] == pytest.approx(0.35)
    names = [(each['name'], each['calls']) for each in found['operations']]
    assert names == [('conv', 1.5), ('loop', 0.5), ('add', 0.5)]
    assert [each['share'] for each in found['operations']] == pytest.approx([0.7, 0.2, 0.1])


def test_a_trace_without_operations_says_so_and_fails_nothing():
    found = figures_of([], 1, 1.0, 2.0)
    assert (found['device'], found['data'], found['host']) == (0, 1, 0)
    assert found['operations'] == []


@pytest.mark.parametrize('steps', [-1, 12, 1000])
def test_more_steps_than_are_left_are_refused_before_anything_is_written(tmp_path, steps):
    with pytest.raises(InputError, match='choose 1 to 11 steps'):
        loop.train(tiny(), tmp_path / 'run', profile=steps)
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_run_that_stops_meanwhile_ends_its_trace(tmp_path):
    """A later run in the same process can trace; the resumed run is profiled again."""
    with pytest.raises(Stopped):
        loop.train(tiny(), tmp_path, profile=9, on_evaluation=lambda step, figures: False)
    assert loop.train(tiny(), tmp_path, profile=3)['profile']['steps'] == 3


def test_the_peak_is_measured_once():
    assert peak_flops('float32') == peak_flops('float32') > 1e8
