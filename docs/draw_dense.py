"""Draws what trained networks find in scenes of digits: segments, objects and depth, side by side.

python docs/draw_dense.py runs/scenes runs/boxes runs/depth    # writes docs/dense.png
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from resnet_jax import data, figures
from resnet_jax.data.image_search import ImageFile
from resnet_jax.inference.dense import predict_dense
from resnet_jax.inference.overlays import show_found, show_image
from resnet_jax.inference.trained import load_trained

SCENES = (0, 16, 2, 42)  # of the test split
SCORE = 0.4  # of an object that is shown
INCHES = 1.9  # of a picture


def main() -> None:
    """Draws the picture."""
    if not sys.argv[1:]:
        raise SystemExit(__doc__)
    runs = [load_trained(folder) for folder in sys.argv[1:]]
    source = data.open_source('digits_scenes', 'test')
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i in SCENES:
            files.append(ImageFile(Path(folder) / f'{i}.png', True))
            Image.fromarray(source[i]['image']).save(files[-1].path)
        found = [list(predict_dense(run, files, SCORE)) for run in runs]
    size = (INCHES * (1 + len(runs)) + 0.6, INCHES * len(SCENES) + 0.3)
    figure = figures.new_figure(size, '')
    panels = figure.subplots(len(SCENES), 1 + len(runs))
    for row, predictions in zip(panels, zip(*found, strict=True), strict=True):
        show_image(row[0], predictions[0].pixels)
        for axes, prediction, run in zip(row[1:], predictions, runs, strict=True):
            drawn = show_found(axes, prediction, run.preprocessing.class_names)
            axes.set_title('')
            if drawn is not None:
                drawn.set_clim(1, 4)
                figure.colorbar(drawn, ax=axes, label='m', fraction=0.046)
    for axes, run in zip(panels[0], [None, *runs], strict=True):
        axes.set_title(run.does.noun if run else 'image', fontsize=9)
    figure.savefig(Path(__file__).parent / 'dense.png', dpi=110)


if __name__ == '__main__':
    main()
