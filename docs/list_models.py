"""Writes the tables of docs/models.md: every registered model, with its counts and paper.

python docs/list_models.py    # rewrites the tables of docs/models.md
"""

import re
from pathlib import Path

from resnet_jax.models.counts import COUNTS
from resnet_jax.models.rows import MODELS

PAGE = Path(__file__).with_name('models.md')
# Heading of a table -> the names that stand in it, by pattern; the first that matches holds.
TABLES = {
    'CIFAR': r'cifar_|wrn',
    'Video, volumes, series and texts': r'r3d|mc3|r2plus|resnet18_3d|tsc|vdcnn',
    'Small devices': r'mobilenet|shuffle',
    'Grouped, wide, squeeze-and-excitation': r'resnext|wide_|se_|ecaresnet',
    'Other norms and downsampling': r'resnet50_gn|resnetblur|resnetaa|bit_|resnet.*\d[cdt]$',
    'Pre-activation': r'preact_|resnetv2_',
    'Original and plain': r'resnet|plain',
}
PAPERS = {
    'he2015': '1512.03385',
    'he2016': '1603.05027',
    'wrn': '1605.07146',
    'resnext': '1611.05431',
    'senet': '1709.01507',
    'groupnorm': '1803.08494',
    'bagoftricks': '1812.01187',
    'eca': '1910.03151',
    'antialias': '1904.11486',
    'bit': '1912.11370',
    'tsc': '1611.06455',
    'r2plus1d': '1711.11248',
    'mobilenetv2': '1801.04381',
    'shufflenet': '1707.01083',
    'vdcnn': '1606.01781',
}


def row(name):
    """A model's line of a table."""
    parameters, multiply_adds = COUNTS[name]
    model = MODELS[name]
    shape = model.image_shape
    size = 'x'.join(map(str, shape if len(shape) == 1 else shape[:-1]))
    link = f'[{model.paper}](https://arxiv.org/abs/{PAPERS[model.paper]})'
    millions = f'{multiply_adds / 1e6:,.0f} M'
    return f'| `{name}` | {parameters:,} | {millions} | {size} | {link} |'


def tables():
    """All tables, as Markdown, in the order of the page."""
    found = {heading: [] for heading in reversed(TABLES)}
    for name in MODELS:
        heading = next(h for h, pattern in TABLES.items() if re.match(pattern, name))
        found[heading].append(row(name))
    head = '| model | parameters | multiply-adds | input | paper |\n|---|---:|---:|---|---|'
    return '\n\n'.join(f'## {h}\n\n{head}\n' + '\n'.join(rows) for h, rows in found.items())


def main():
    """Rewrites what stands between the page's two marks."""
    text = PAGE.read_text()
    begin, end = '<!-- tables -->\n', '\n<!-- end of tables -->'
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    PAGE.write_text(f'{before}{begin}\n{tables()}\n{end}{after}')
    print(f'docs/{PAGE.name}: {len(MODELS)} models')


if __name__ == '__main__':
    main()
