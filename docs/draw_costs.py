"""Draws what depth costs, from the registry's counts and the published tables; nothing is trained.

python docs/draw_costs.py    # writes docs/costs_*.png and prints the figures of docs/costs.md
"""

import itertools
from pathlib import Path

from resnet_jax import figures
from resnet_jax.models.block import ResidualBlock
from resnet_jax.models.counts import COUNTS
from resnet_jax.models.design import BASIC, BOTTLENECK
from resnet_jax.papers import row_counts
from resnet_jax.papers.cifar import TABLES

HERE = Path(__file__).parent
# Simonyan and Zisserman, arXiv 1409.1556, table 1, column E: channels of the 3x3 convolutions
# between max-pools that halve 224 pixels, and the three dense layers.
VGG19 = ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4)
VGG19_DENSE = (7 * 7 * 512, 4096, 4096, 1000)
# (name in the legend, table, models); without models, all rows of the table.
IMAGENET = (
    ('plain', 'he2015_imagenet', ('plain18', 'plain34')),
    ('residual, basic', 'he2015_imagenet', ('resnet18', 'resnet34')),
    ('residual, bottleneck', 'he2015_imagenet', ('resnet50_v1', 'resnet101_v1', 'resnet152_v1')),
)
CIFAR = (
    ('residual', 'he2015_table6', None),
    ('bottleneck, original', 'he2016_table3', ('cifar_resnet164', 'cifar_resnet1001')),
    (
        'bottleneck, pre-activation',
        'he2016_table3',
        ('cifar_preact_resnet164', 'cifar_preact_resnet1001'),
    ),
    ('ResNeXt', 'resnext_cifar10', None),
    ('wide', 'wrn_cifar10', None),
)


def block_weights(design, width, entering):
    """The weights of each convolution of a block's branch."""
    block = ResidualBlock(design, width, 1, first=False, conv=None, norm=None)
    found, before = [], entering
    for conv in block.convolutions(entering, 2):
        size, channels = conv['kernel_size'], conv['features']
        found.append(size * size * before * channels // conv['groups'])
        before = channels
    return found


def vgg19():
    """(weights and biases, multiply-adds at 224 pixels) of VGG-19."""
    parameters = multiply_adds = 0
    before, pixels = 3, 224
    for stage in VGG19:
        for channels in stage:
            parameters += 9 * before * channels + channels
            multiply_adds += 9 * before * channels * pixels**2
            before = channels
        pixels //= 2
    for before, channels in itertools.pairwise(VGG19_DENSE):
        parameters += before * channels + channels
        multiply_adds += before * channels
    return parameters, multiply_adds


def points(table, models):
    """(row name, parameters, multiply-adds, published error) of a table's rows, without dropout."""
    found = []
    for row in TABLES[table].rows:
        if 'dropout' in row.name or (models and row.model not in models):
            continue
        found.append((row.name, *row_counts.COUNTS[table][row.name], row.value))
    return found


def scatter(name, title, groups, scale='linear'):
    """Two charts side by side: published error over parameters and over multiply-adds."""
    figure = figures.new_figure((9.5, 4.2), title)
    charts = figure.subplots(1, 2, sharey=True)
    for (label, table, models), colour in zip(groups, figures.COLOURS, strict=False):
        rows = points(table, models)
        for chart, column in zip(charts, (1, 2), strict=True):
            x = [row[column] / 1e6 for row in rows]
            chart.plot(x, [row[3] for row in rows], 'o-', color=colour, label=label, ms=5)
            for at, row in zip(x, rows, strict=True):
                point = (at, row[3])
                chart.annotate(short(row[0]), point, (6, -3), textcoords='offset points', size=7)
    for chart, words in zip(charts, ('parameters, M', 'multiply-adds of an image, M'), strict=True):
        chart.set(xscale=scale, xlabel=words)
        chart.grid(alpha=0.3)
        chart.margins(x=0.14, y=0.1)
        if scale == 'log':
            chart.xaxis.set_major_formatter('{x:,g}')
        else:
            chart.set_xlim(0, None)
    charts[0].set_ylabel('published top-1 error, %')
    charts[0].legend(fontsize=8, frameon=False)
    write(figure, name)


def short(name):
    """A row's name without the words of the legend."""
    for words in ('pre-act ', 'ResNet-', 'ResNeXt-29, ', 'WRN-', 'plain-'):
        name = name.replace(words, '')
    return name


def blocks():
    """The weights of a basic block and of bottlenecks, as stacked bars."""
    bars = (
        ('basic, 64 channels', block_weights(BASIC, 64, 64)),
        ('bottleneck, 256 channels', block_weights(BOTTLENECK, 64, 256)),
        ('basic, 256 channels', block_weights(BASIC, 256, 256)),
    )
    figure = figures.new_figure((9.5, 2.6), 'Weights of one block (convolutions alone)')
    chart = figure.subplots()
    for y, (name, weights) in enumerate(reversed(bars)):
        left = 0
        for weight, colour in zip(weights, figures.COLOURS, strict=False):
            chart.barh(y, weight / 1e3, left=left / 1e3, color=colour, height=0.6, ec='white')
            left += weight
        words = f'{left:,} = ' + ' + '.join(f'{w:,}' for w in weights)
        chart.annotate(
            words, (left / 1e3, y), (6, 0), textcoords='offset points', va='center', size=8
        )
        print(f'{name}: {words}')
    chart.set_yticks(range(len(bars)), [name for name, _ in reversed(bars)])
    chart.set(xlabel='thousand weights', xlim=(0, 1700))
    write(figure, 'costs_blocks.png')


def depths():
    """Parameters and multiply-adds over depth, of basic blocks and bottlenecks."""
    figure = figures.new_figure((9.5, 3.8), 'ImageNet nets: multiply-adds over depth')
    chart = figure.subplots()
    for (name, pattern, depths_), colour in zip(
        (
            ('basic blocks', 'resnet{}', (18, 34)),
            ('bottlenecks', 'resnet{}', (50, 101, 152, 200)),
            ('grouped bottlenecks', 'resnext{}_32x4d', (50, 101)),
            ('twice as wide inside', 'wide_resnet{}_2', (50, 101)),
        ),
        figures.COLOURS,
        strict=False,
    ):
        y = [COUNTS[pattern.format(d)][1] / 1e9 for d in depths_]
        chart.plot(depths_, y, 'o-', color=colour, label=name)
    parameters, multiply_adds = vgg19()
    chart.plot([19], [multiply_adds / 1e9], 's', color='#222222', label='VGG-19')
    chart.annotate(
        f'VGG-19: {multiply_adds / 1e9:.1f} G',
        (19, multiply_adds / 1e9),
        (8, -3),
        textcoords='offset points',
        size=8,
    )
    chart.set(xlabel='layers', ylabel='multiply-adds of an image of 224x224, G', ylim=(0, None))
    chart.grid(alpha=0.3)
    chart.legend(fontsize=8, frameon=False)
    write(figure, 'costs_depth.png')
    print(f'VGG-19: {parameters:,} parameters, {multiply_adds:,} multiply-adds')
    print(f'ResNet-34: {COUNTS["resnet34"][0]:,} parameters, {COUNTS["resnet34"][1]:,}')
    print(f'VGG-19 / ResNet-34: {multiply_adds / COUNTS["resnet34"][1]:.2f}')


def write(figure, name):
    """Writes a figure beside this script."""
    figure.savefig(HERE / name, dpi=130)
    print(f'docs/{name}')


def main():
    """Writes all pictures and prints the figures."""
    blocks()
    depths()
    scatter('costs_imagenet.png', 'ImageNet validation, 10 crops (arXiv 1512.03385)', IMAGENET)
    scatter('costs_cifar.png', 'CIFAR-10 test error as published', CIFAR, 'log')


if __name__ == '__main__':
    main()
