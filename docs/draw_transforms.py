"""Draws what each transform makes of a photograph, a few times.

The photographs are scikit-learn's; of those that mix, the second is the partner.

    python docs/draw_transforms.py    # writes docs/transforms.png
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_image

from resnet_jax.data import TRANSFORMS, Preprocessing, augment, read_transforms

SIZE, DRAWS, BLOCKS = 96, 5, 3
PREPROCESSING = Preprocessing(SIZE, 3, None, (0.5,) * 3, (0.25,) * 3, ('temple', 'flower'))
# Settings that show more on a photograph of this size than the default; of the rest the default.
SHOWN = {
    'random_scale_crop': 'random_scale_crop(sides=(100, 190))',
    'pad_crop': 'pad_crop(pad=12)',
    'lighting': 'lighting(std=1.0)',
    'grey': 'grey(probability=0.5)',
    'random_erasing': 'random_erasing(probability=1.0)',
    'color_jitter': 'color_jitter(hue=0.1)',
    'cutout': 'cutout(size=32)',
    'mixup': 'mixup(alpha=1.0)',
    'multi_crop': 'multi_crop(count=4, size=48, scale=(0.05, 0.3))',
    'mixup_or_cutmix': 'mixup_or_cutmix(mixup_alpha=1.0)',
}


def photographs():
    """Two squares, uint8 [2, SIZE, SIZE, 3], and the first one whole."""
    whole = [load_sample_image(f'{name}.jpg') for name in ('china', 'flower')]
    return np.stack([PREPROCESSING.prepare(image) for image in whole]), whole[0]


def drawn(text, squares, whole):
    """The images that a transform makes, uint8 [DRAWS, SIZE, SIZE, 3]."""
    (chosen,) = read_transforms([text])
    if chosen.transform.where == 'host':
        whole = np.asarray(Image.fromarray(whole).resize((240, 160)))
        rngs = map(np.random.default_rng, range(DRAWS))
        return [chosen.apply(rng, whole, SIZE) for rng in rngs]

    def one(step, squares):
        images, _ = augment(
            *((text,), jax.random.key(0), squares, jnp.arange(2)),
            *(step, jnp.arange(2)),
            normalize=PREPROCESSING.normalize,
            classes=2,
        )
        if not isinstance(images, tuple):
            return images[0]
        rows = jnp.split(images[1][0], 2)  # four crops as a square
        return jnp.concatenate([jnp.concatenate(list(row), axis=1) for row in rows])

    draw = jax.jit(jax.vmap(one, (0, None)))
    pixels = 255 * (0.25 * np.asarray(draw(jnp.arange(1, DRAWS + 1), squares)) + 0.5)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def main():
    """Writes the picture beside this script."""
    squares, whole = photographs()
    names = [name for name, row in TRANSFORMS.items() if 2 in row.dimensions]
    rows = -(-len(names) // BLOCKS)
    figure = Figure(figsize=(4.9 * BLOCKS, 1.05 * rows), layout='constrained')
    blocks = figure.subplots(rows, BLOCKS).T.ravel()
    for axes in blocks:
        axes.axis('off')
    for axes, name in zip(blocks, names, strict=False):
        gap = np.full((SIZE, 4, 3), 255, np.uint8)
        parts = [squares[0], gap, gap]
        for image in drawn(SHOWN.get(name, name), squares, whole):
            parts += [image, gap]
        axes.imshow(np.concatenate(parts, axis=1))
        axes.set_title(SHOWN.get(name, name), size=8, family='monospace', loc='left', pad=2)
    path = Path(__file__).with_name('transforms.png')
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert('RGB')
    picture.quantize(256).save(path, optimize=True)
    print(path)


if __name__ == '__main__':
    main()
