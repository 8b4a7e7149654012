"""Sounds: files, spectrograms on the device, masks of them, and what a run makes of them."""

import builtins
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from running import tiny
from small_sets import PITCHES, RATE, tone, tones

from resnet_jax import data
from resnet_jax.cli import main
from resnet_jax.data.preprocessing import Preprocessing
from resnet_jax.data.sounds import read_sound
from resnet_jax.data.spectrograms import mel_bands, read_spectrogram, spectrogram_shape
from resnet_jax.data.transforms.regions import spec_augment
from resnet_jax.errors import InputError
from resnet_jax.training.inputs import open_inputs


@pytest.fixture(scope='module')
def sounds(tmp_path_factory):
    """A folder of tones."""
    pytest.importorskip('soundfile')
    return tones(tmp_path_factory.mktemp('sounds'))


# Files


def test_a_sound_is_read_in_one_channel_at_one_rate(tmp_path):
    soundfile = pytest.importorskip('soundfile')
    file = tmp_path / 'a.wav'
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.9, 0.9, (1000, 2))
    soundfile.write(file, wave, RATE, subtype='PCM_16')
    mean = wave.mean(1)
    whole = read_sound(file, 1200, RATE)
    assert whole.shape == (1200, 1) and whole.dtype == np.float32
    np.testing.assert_allclose(whole[:1000, 0], mean, atol=2**-14)
    assert not whole[1000:].any()
    np.testing.assert_array_equal(read_sound(file, 300, RATE), whole[:300])

    # At twice the rate a tone is the same tone.
    soundfile.write(file, tone(440, 0.5, 16_000), 16_000, subtype='FLOAT')
    halved = read_sound(file, 2000, RATE)[:, 0]
    peak = np.argmax(np.abs(np.fft.rfft(halved[:1000] * np.hanning(1000)))) * RATE / 1000
    assert abs(peak - 440) <= RATE / 1000
    expected = scipy.signal.resample_poly(soundfile.read(file)[0], 1, 2)
    np.testing.assert_allclose(halved[:1900], expected[:1900], atol=1e-5)


def test_sounds_that_cannot_be_read(tmp_path, monkeypatch):
    soundfile = pytest.importorskip('soundfile')
    file = tmp_path / 'a.wav'
    with pytest.raises(InputError, match=r'a\.wav: no such file'):
        read_sound(file, 100, RATE)
    file.write_bytes(b'RIFF, no')
    with pytest.raises(InputError, match=r'a\.wav: not a sound that can be read'):
        read_sound(file, 100, RATE)
    soundfile.write(file, np.zeros(0), RATE)
    with pytest.raises(InputError, match=r'a\.wav: holds no sound'):
        read_sound(file, 100, RATE)
    soundfile.write(file, np.full(8, np.nan), RATE, subtype='FLOAT')
    with pytest.raises(InputError, match='numbers that are not finite'):
        read_sound(file, 100, RATE)

    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == 'soundfile':
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, '__import__', without)
    with pytest.raises(InputError, match=r"pip install 'resnet-jax\[audio\]'"):
        read_sound(file, 100, RATE)


def test_a_folder_of_sounds(sounds):
    source = data.open_source(f'audio:{sounds}', 'train', length=2000, sample_rate=RATE)
    assert (len(source), source.space, source.noun) == (24, (2000,), 'sounds')
    assert source.class_names == tuple(sorted(PITCHES))
    assert source[1]['image'].shape == (2000, 1)
    assert data.fingerprint(source)['classes']['low']['images'] == 8
    for field, given in (('sample_rate', {'length': 8}), ('length', {'sample_rate': 8})):
        with pytest.raises(InputError, match=rf'needs data\.{field}.* such as'):
            data.open_source(f'audio:{sounds}', 'train', **given)


# Spectrograms


def twin(waves, rate, bands, window, hop, lowest, floor):
    """In float64, by SciPy's transform and one triangle after another."""
    width, step = round(window * rate), round(hop * rate)
    fft = 1
    while fft < width:
        fft *= 2
    hann = scipy.signal.get_window('hann', width)
    frames = [waves[:, i : i + width] * hann for i in range(0, waves.shape[1] - width + 1, step)]
    power = np.abs(np.fft.rfft(np.stack(frames, 1), fft) / hann.sum()) ** 2

    def mel(f):
        return 2595 * np.log10(1 + f / 700)

    edges = np.interp(
        np.linspace(mel(lowest), mel(rate / 2), bands + 2),
        mel(np.linspace(0, rate / 2, 200_001)),
        np.linspace(0, rate / 2, 200_001),
    )
    found = np.zeros((*power.shape[:2], bands))
    for band in range(bands):
        corners = edges[band : band + 3]
        weights = np.interp(np.arange(fft // 2 + 1) * rate / fft, corners, [0, 1, 0], 0, 0)
        found[..., band] = power @ weights
    return np.log(found + floor)


@pytest.mark.parametrize(
    'text', ['log_mel', 'log_mel(bands=20, window=0.032, hop=0.016, lowest=0, floor=0.001)']
)
def test_a_spectrogram_is_that_of_its_definition(text):
    chosen = read_spectrogram(text)
    waves = np.random.default_rng(0).uniform(-1, 1, (2, 3000)).astype(np.float32)
    found = np.asarray(chosen.apply(RATE, jnp.asarray(waves)))
    expected = twin(waves.astype(np.float64), RATE, **chosen.settings)
    assert found.shape[1:] == spectrogram_shape(text, RATE, 3000)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize('pitch', [300, 1000, 2500])
def test_a_tone_is_in_its_band(pitch):
    """The band whose middle is nearest on the mel scale."""
    waves = tone(pitch, 0.5)[None].astype(np.float32)
    found = np.asarray(read_spectrogram('log_mel(bands=30)').apply(RATE, waves))[0]
    mels = 2595 * np.log10(1 + np.asarray([20, RATE / 2, pitch]) / 700)
    nearest = round(31 * (mels[2] - mels[0]) / (mels[1] - mels[0])) - 1
    assert (np.abs(found.argmax(axis=1) - nearest) <= 1).all()


def test_the_triangles_of_the_mel_scale_add_up_to_one():
    """Between the middles of the first and last band."""
    sums = mel_bands(RATE, 4096, 16, 20.0).sum(axis=1)
    mels = np.linspace(*(2595 * np.log10(1 + np.asarray([20, RATE / 2]) / 700)), 18)
    middles = 700 * (10 ** (mels[[1, -2]] / 2595) - 1)
    frequencies = np.arange(2049) * RATE / 4096
    inside = (frequencies > middles[0]) & (frequencies < middles[1])
    np.testing.assert_allclose(sums[inside], 1, atol=1e-5)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('log_mell', "unknown spectrogram 'log_mell'; did you mean 'log_mel'"),
        ('log_mel(band=3)', "parameter of the spectrogram 'log_mel': 'band'; did you mean 'bands'"),
        ('log_mel(bands=0)', 'spectrogram log_mel: bands must be at least 1, got 0'),
        ('log_mel(window=2)', 'a window of 16000 samples is longer than the sounds of 2000'),
        ('log_mel(lowest=5000)', 'lowest must be below half the sample rate 8000'),
        ('log_mel(', 'cannot be read'),
    ],
)
def test_spectrograms_that_are_refused(text, message):
    with pytest.raises(InputError) as error:
        spectrogram_shape(text, RATE, 2000)
    assert message in str(error.value)


def audio(**changes):
    about = {'dimensions': 1, 'sample_rate': RATE, 'spectrogram': 'log_mel(bands=10)'}
    return Preprocessing(2000, 1, None, (0.0,), (1.0,), ('a', 'b'), **{**about, **changes})


@pytest.mark.slow
def test_what_a_model_sees_of_a_sound():
    found = audio()
    assert found.input_shape == (2000, 1) and found.model_shape == (23, 10, 1)
    assert Preprocessing.from_json(found.to_json()) == found
    waves = np.random.default_rng(0).uniform(-1, 1, (3, 2000, 1)).astype(np.float32)
    seen = found.normalize(jnp.asarray(waves))
    assert seen.shape == (3, 23, 10, 1)
    alone = np.asarray(audio(standardize=True).normalize(jnp.asarray(waves)))
    np.testing.assert_allclose(alone.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(alone.std(axis=(1, 2)), 1, atol=1e-4)
    silence = np.asarray(audio(standardize=True).normalize(jnp.zeros((1, 2000, 1))))
    assert np.isfinite(silence).all()
    with pytest.raises(InputError, match='spectrogram needs the sample_rate'):
        audio(sample_rate=0)


def test_masks_of_a_spectrogram():
    image = jnp.ones((40, 20, 1))
    settings = {'times': 2, 'time_share': 0.25, 'frequencies': 1, 'frequency_share': 0.5}
    draw = jax.jit(jax.vmap(lambda key: spec_augment(key, image, **settings)))
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))[..., 0]
    times, bands = (found == 0).all(axis=2), (found == 0).all(axis=1)
    # Erased are whole rows and columns, and nothing else.
    full = ~times.all(axis=1) & ~bands.all(axis=1)
    np.testing.assert_array_equal(found[full] == 0, (times[:, :, None] | bands[:, None])[full])
    assert times.sum(axis=1).max() <= 20 and bands.sum(axis=1).max() <= 10
    widths = bands.sum(axis=1)
    np.testing.assert_allclose(np.bincount(widths) / 4000, 1 / 11, atol=0.02)  # 0 to 10, each
    runs = np.diff(bands.astype(int), axis=1, prepend=0) == 1
    assert (runs.sum(axis=1) <= 1).all()
    firsts = runs[widths == 10].argmax(axis=1)
    np.testing.assert_allclose(np.bincount(firsts, minlength=11).mean(), len(firsts) / 11)
    assert np.bincount(firsts).min() > 10  # any place


# Runs

FIELDS = {
    'data.channels': 1, 'data.length': 2000, 'data.sample_rate': RATE, 'train.batch_size': 8,
    'data.spectrogram': 'log_mel(bands=10, hop=0.02)',
    'augment.transforms': '("spec_augment(frequencies=0)",)',
    'train.steps': 60, 'train.eval_every': 60, 'checkpoint.every': 60, 'optim.learning_rate': 0.1,
}  # fmt: skip


def settings(folder, **changes):
    return tiny({'data.name': f'audio:{folder}', **FIELDS, **changes})


def test_mean_and_deviation_are_those_of_the_spectrograms(sounds):
    inputs = open_inputs(settings(sounds))
    found = inputs.preprocessing
    waves = np.stack([example['image'] for example in inputs.train.take(range(24))])[..., 0]
    chosen = read_spectrogram(FIELDS['data.spectrogram'])
    expected = twin(waves.astype(np.float64), RATE, **chosen.settings)
    assert found.mean == pytest.approx([expected.mean()], rel=1e-6)
    assert found.std == pytest.approx([expected.std()], rel=1e-6)
    given = {'data.mean': '(-3.0,)', 'data.std': '(2.0,)'}
    assert open_inputs(settings(sounds, **given)).preprocessing.mean == (-3.0,)


def test_a_run_learns_tones_and_predicts_files(sounds, tmp_path, ask):
    from resnet_jax.training import loop

    loop.train(settings(sounds), tmp_path / 'run')
    assert ask('eval', '--workdir', tmp_path / 'run')['top1'] == 1.0
    found = ask('predict', '--workdir', tmp_path / 'run', sounds / 'test' / 'low')['predictions']
    assert [item['top'][0]['class'] for item in found] == ['low'] * 4
    assert ask('eval', '--workdir', tmp_path / 'run', '--data', f'audio:{sounds}')['top1'] == 1.0


def test_a_network_of_waveforms(sounds):
    """Without a spectrogram a model of one dimension takes the samples."""
    fields = {'data.spectrogram': None, 'model.dimensions': 1, 'augment.transforms': '("scaling",)'}
    found = open_inputs(settings(sounds, **fields)).preprocessing
    assert found.model_shape == (2000, 1) and found.std != (1.0,)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'data.sample_rate': None}, 'data.spectrogram needs data.sample_rate and data.length'),
        ({'model.dimensions': 1}, 'model.dimensions must be 2 for data.spectrogram'),
        ({'data.spectrogram': None, 'augment.transforms': '()'}, 'holds sounds, and cifar_resnet8'),
        ({'augment.transforms': '("flip",)'}, "transform 'flip' takes pictures, and the model"),
        ({'augment.transforms': '("jitter",)'}, "transform 'jitter' takes series, and the model"),
        ({'data.normalize': 'pixel'}, 'data.normalize takes channel or series'),
        ({'data.name': 'digits'}, 'data.length has no effect without data.name'),
    ],
)
def test_settings_that_do_not_go_with_sounds(sounds, fields, message):
    with pytest.raises(InputError) as error:
        open_inputs(settings(sounds, **fields))
    assert message in str(error.value) and '\n' not in str(error.value)


def test_a_rate_other_than_the_models_is_refused(sounds, tmp_path, capsys):
    """The samples would be those of another pitch."""
    from resnet_jax.training import loop

    loop.train(settings(sounds, **{'train.steps': 1}), tmp_path / 'run')
    arguments = ['eval', '--workdir', str(tmp_path / 'run'), '--data', f'audio:{sounds}']
    assert main([*arguments, '--sample-rate', '16000']) == 2
    assert '--sample-rate 16000: the model was trained with 8000' in capsys.readouterr().err
    assert main([*arguments, '--sample-rate', '8000']) == 0


def test_a_sound_that_cannot_be_read_stops_a_run_or_is_replaced(sounds, tmp_path):
    folder = tmp_path / 'sounds'
    shutil.copytree(sounds, folder)
    (folder / 'train' / 'low' / '2.wav').write_bytes(b'RIFF')
    with pytest.raises(InputError, match=r'low/2\.wav: not a sound that can be read'):
        open_inputs(settings(folder))
    skip = {'data.bad_images': 'skip', 'data.bad_images_share': 0.1}
    assert open_inputs(settings(folder, **skip)).bad.count == 1
    (folder / 'test' / 'low' / '2.wav').write_bytes(b'RIFF')
    with pytest.raises(InputError, match=r'test/low/2\.wav: not a sound that can be read'):
        open_inputs(settings(folder, **skip))


@pytest.mark.parametrize(
    'damage', [{'spectrogram': 5}, {'sample_rate': 'fast'}, {'vocabulary': 1.5}, {'vocabulary': -1}]
)
def test_damaged_descriptions_are_refused(damage):
    fields = {**json.loads(audio().to_json()), **damage}
    with pytest.raises(InputError):
        Preprocessing.from_json(json.dumps(fields))
