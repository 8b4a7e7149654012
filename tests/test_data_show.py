"""`resnet-jax data show`: what is drawn is what is trained on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from running import DIGITS, STREAMED, TINY, flags, tiny

from resnet_jax.cli import main
from resnet_jax.commands.data_kinds import show
from resnet_jax.training import build, step
from resnet_jax.training.inputs import open_inputs
from resnet_jax.training.preview import preview


class Caught(Exception):
    """The training step is about to give this to the model."""


@pytest.mark.slow
@pytest.mark.parametrize('fields', [{}, STREAMED], ids=['on the device', 'streamed'])
def test_the_examples_are_those_of_the_first_step(monkeypatch, fields):
    """Caught where the training step hands them to the model."""
    config = tiny({'augment.transforms': "('pad_crop', 'flip')", **fields})
    make = step.make_train_step

    def watched(model, optimizer, prepare, *rest, **options):
        def caught(*args):
            raise Caught(prepare(*args))

        return make(model, optimizer, caught, *rest, **options)

    monkeypatch.setattr(step, 'make_train_step', watched)
    run = build.build_run(config, open_inputs(config))
    (batch,) = run.inputs.train_batches(0, 1)
    batch = jax.tree.map(lambda x: x[None], batch)
    state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), run.template)
    with jax.disable_jit(), pytest.raises(Caught) as caught:
        run.steps(run.seed, state, run.no_totals(), run.inputs.arrays, batch)
    images, labels = caught.value.args[0]
    found, p = preview(config, 8), run.inputs.preprocessing
    pixels = 255 * (np.asarray(images[:8]) * np.asarray(p.std) + np.asarray(p.mean))
    np.testing.assert_allclose(found.seen, pixels, atol=0.51)
    assert found.classes == tuple(str(int(k)) for k in labels[:8])
    assert found.targets == tuple((name,) for name in found.classes)
    for stored, read in zip(found.stored, found.read, strict=True):
        np.testing.assert_array_equal(p.prepare(stored), read)
    assert (found.seen != found.read).any() and found.seen.shape == (8, 8, 8, 1)


def test_without_transforms_nothing_changes():
    found = preview(tiny({'augment.transforms': '()'}), 100)
    assert len(found.stored) == 32  # the batch
    np.testing.assert_array_equal(found.seen, found.read)


def test_the_command_draws_a_picture(tmp_path, capsys):
    out = tmp_path / 'examples.png'
    assert main(['data', 'show', *flags(), '--count=3', f'--out={out}']) == 0
    assert capsys.readouterr().out == f'written: {out}\n'
    with Image.open(out) as picture:
        assert picture.format == 'PNG' and picture.width > 300
        assert len(np.unique(np.asarray(picture.convert('L')))) > 10


def test_data_alone_are_shown_with_the_default_config(tmp_path, monkeypatch):
    """Of a folder with a single split, smaller than the default batch."""
    rng = np.random.default_rng(0)
    for label in ('cat', 'dog'):
        folder = tmp_path / 'pets' / 'mine' / label
        folder.mkdir(parents=True)
        for i in range(3):
            pixels = rng.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f'{i}.png')
    seen = []
    monkeypatch.setattr(show, 'draw', lambda *given: seen.append(given) or b'')
    data = [f'--data=folder:{tmp_path}/pets', '--split=mine', '--count=4']
    assert main(['data', 'show', *data, f'--out={tmp_path}/x.png']) == 0
    ((found, title),) = seen
    assert len(found.stored) == 4 and found.seen.shape == (4, 32, 32, 3)
    assert {image.shape for image in found.stored} == {(40, 48, 3)}
    assert set(found.classes) <= {'cat', 'dog'} and 'pad_crop, flip' in title
    # Of data that are streamed, statistics would have to be given.
    crop = '--config.augment.transforms=random_resized_crop'
    assert main(['data', 'show', *data, f'--out={tmp_path}/x.png', crop]) == 0
    assert seen[1][0].read.shape == (4, 32, 32, 3)


def test_nothing_to_show(capsys):
    assert main(['data', 'show']) == 2
    assert 'give --data SPEC, or --config' in capsys.readouterr().err


def test_mixed_labels_and_odd_names_are_drawn(tmp_path):
    found = preview(tiny({'augment.transforms': '()'}), 2)
    odd = show.draw(
        type(found)(
            [image.repeat(2, axis=2) for image in found.stored],
            found.read,
            found.seen,
            ('a$b_\x1b' * 9, '猫'),
            (('a$b, c 70 %', '猫 30 %'), ('猫',)),
        ),
        '$' * 500,
    )
    assert odd.startswith(b'\x89PNG')


@pytest.mark.parametrize(
    ('option', 'said'),
    [
        ('--count=0', '--count must be'),
        ('--count=1000', '--count must be at most 128'),
        ('--out=a.jpg', 'the picture is a PNG'),
        ('--out=nowhere/a.png', 'cannot write --out'),
        ('--config.augment.transforms=flop', "did you mean 'flip'"),
        ('--config.data.name=folder:nowhere', 'no such folder'),
        ('--config=nothing', 'nothing'),
        ('--config.train.batch_size=9999', 'batch'),
    ],
)
def test_bad_options(tmp_path, monkeypatch, capsys, option, said):
    monkeypatch.chdir(tmp_path)
    fields = [f'--config.{name}={value}' for name, value in TINY.items()]
    assert main(['data', 'show', f'--config={DIGITS}', *fields, option]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
