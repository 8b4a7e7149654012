"""`resnet-jax data bench`."""

import argparse
import json

import pytest
from running import STREAMED, TINY

from resnet_jax.commands.data_kinds import bench
from resnet_jax.errors import InputError


def call(*arguments, **fields):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    options = parser.parse_args(['--config', 'digits', *arguments])
    options.overrides = [(name, str(value)) for name, value in {**TINY, **fields}.items()]
    bench.run(options)


def test_figures_agree_with_each_other(capsys):
    crop = {'augment.transforms': 'random_resized_crop', **STREAMED}
    call('--seconds', '0.2', '--json', **crop)
    found = json.loads(capsys.readouterr().out)
    assert (found['data'], found['n'], found['batch_size']) == ('digits', 1437, 32)
    assert (found['image_size'], found['resident']) == (8, False)
    assert found['delivered'] == pytest.approx(32 / found['seconds_per_batch'])
    assert found['delivered'] == pytest.approx(1437 / found['seconds_per_epoch'])
    # Digits are not decoded, and cropping them takes a while.
    assert found['decoded'] > found['prepared'] > 0


def test_what_it_could_feed_in_words(capsys):
    call('--seconds', '0.1')
    out = capsys.readouterr().out
    assert 'digits train, 1,437 images, batches of 32 at 8 px' in out
    assert 'This feeds models that train up to' in ' '.join(out.split())
    assert 'keeps these images on the device' in ' '.join(out.split())


def test_a_time_of_nothing_is_refused():
    with pytest.raises(InputError, match='--seconds must be above 0'):
        call('--seconds', '0')
