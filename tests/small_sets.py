"""Small folders of texts and sounds that a net learns in seconds."""

import numpy as np

WORDS = {'bird': 'tweet chirp peep ', 'cow': 'moo ruminate low ', 'fox': 'ring-ding-ding höh '}


def texts(folder, per_class=8):
    """Texts of three classes, by words that only one of them has; some shorter than others."""
    rng = np.random.default_rng(0)
    for split, count in (('train', per_class), ('test', 4)):
        for name, words in WORDS.items():
            inside = folder / 'texts' / split / name
            inside.mkdir(parents=True)
            for i in range(count):
                chosen = rng.choice(words.split(), 3 + i)
                (inside / f'{i}.txt').write_text(' '.join(chosen), encoding='utf-8')
    return f'text:{folder / "texts"}'


RATE = 8000
PITCHES = {'high': 2000, 'low': 400, 'middle': 900}


def tone(pitch, seconds=0.25, rate=RATE, seed=0):
    """A sine in a little noise, with another phase and loudness for each seed."""
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * rate)) / rate
    wave = rng.uniform(0.2, 0.8) * np.sin(2 * np.pi * pitch * times + rng.uniform(0, 6))
    return wave + 0.01 * rng.standard_normal(len(times))


def tones(folder):
    """A folder of tones of three pitches; some stereo, of another rate, short, or flac."""
    import soundfile

    for split, count in (('train', 8), ('test', 4)):
        for number, (name, pitch) in enumerate(PITCHES.items()):
            inside = folder / split / name
            inside.mkdir(parents=True)
            for i in range(count):
                rate = 16_000 if i == 1 else RATE
                wave = tone(pitch, 0.2 if i == 2 else 0.25, rate, seed=100 * number + i)
                both = np.stack([wave, wave], 1) if i == 3 else wave
                suffix = 'flac' if i == 0 else 'wav'
                soundfile.write(inside / f'{i}.{suffix}', both, rate)
    return folder
