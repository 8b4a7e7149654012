"""Draws the block grammar: a picture for each axis, from the rows and functions that blocks use.

Each box is an operation that `spell_out` gives, and each shortcut what `ResidualBlock` would do, so
that the pictures show what is computed.

    python docs/draw_blocks.py    # writes docs/placements.png and docs/blocks_*.png
"""

import dataclasses
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from resnet_jax.models.block import ResidualBlock, spell_out
from resnet_jax.models.design import (
    BASIC,
    BOTTLENECK,
    DOWNSAMPLINGS,
    INVERTED,
    PLACEMENTS,
    R2PLUS1D,
    SE_PLACES,
    SHORTCUTS,
    SHUFFLED,
)
from resnet_jax.models.stem import STEMS, Stem

HERE = Path(__file__).parent
COLOURS = {'conv': '#cfe2f3', 'norm': '#fce5cd', 'act': '#d9ead3', 'branch': '#eeeeee'}
OTHER = '#e6dcf2'  # of all other kinds
WORDS = {'norm': 'BN', 'act': 'ReLU', 'se': 'SE', 'eca': 'ECA', 'shuffle': 'channel shuffle'}
POOLS = {'average_pool': 'average, /2', 'blur_pool': 'blur, /2', None: ''}
STEM_POOLS = {
    'max': '3x3 max, /2',
    'max_zero': '3x3 max over zeros, /2',
    'max_blur': '3x3 max, blur, /2',
    'average': '2x2 average, /2',
}
# In inches: from one box to the next, the box, and the lane of the shortcut left of the branch.
STEP, HEIGHT, RADIUS = 0.52, 0.3, 0.15
LINE = {'color': '#222222', 'lw': 1.1, 'solid_capstyle': 'butt'}
ARROW = {'arrowstyle': '-|>,head_width=0.18,head_length=0.36', 'color': '#222222', 'lw': 1.1}
ARROW |= {'shrinkA': 0, 'shrinkB': 0}


@dataclasses.dataclass(frozen=True)
class Panel:
    """One block: boxes are (words, kind).

    Attributes:
      title, note: above and below it.
      branch: from the block's input to the addition, or to the output where nothing is added.
      shortcut: None if there is none.
      after: behind the addition.
      shared: how many boxes precede the point where the shortcut leaves.
      spread: the distance of boxes beside the shortcut, in steps.
    """

    title: str
    branch: list
    shortcut: list | None
    after: list = dataclasses.field(default_factory=list)
    shared: int = 0
    spread: float = 1.0
    note: str = ''


def pool_word(pool):
    """What a pool is called in a picture."""
    return POOLS[getattr(pool, '__name__', None)]


def conv_word(arguments, design, entering, channels):
    """A convolution in words: window, channels, groups and stride."""
    kernel, stride = arguments['kernel_size'], arguments['strides']
    window = 'x'.join(map(str, kernel)) if isinstance(kernel, tuple) else f'{kernel}x{kernel}'
    by_channel = 1 < arguments['groups'] == entering
    word = f'{window} {"depthwise" if by_channel else "conv"}'
    if channels:
        word += f', {arguments["features"]}'
    if arguments['groups'] > 1 and not by_channel:
        word += f', {arguments["groups"]} groups'
    if isinstance(stride, tuple) and max(stride) > 1:
        return f'{word}, /' + 'x'.join(map(str, stride))
    return word + (f', /{stride}' if stride == 2 else '')


def boxes(design, operations, convolutions, entering, channels):
    """The boxes of operations; `convolutions` has the arguments of each convolution."""
    found, before = [], [entering, *(c['features'] for c in convolutions)]
    for op in operations:
        if op.kind == 'conv':
            i = op.index - 1
            word = conv_word(convolutions[i], design, before[i], channels)
        elif op.kind == 'pool':
            word = pool_word(DOWNSAMPLINGS[design.downsample][1])
        elif op.kind == 'dropout':
            word = f'dropout {design.branch_dropout}'
        elif op.kind == 'act' and design.activation == 'relu6':
            word = 'ReLU6'
        else:
            word = WORDS[op.kind]
        found.append((word, op.kind))
    return found


def shortcut_boxes(block, path, entering):
    """The boxes on the shortcut of a block; None if it has none."""
    if path is None:
        return None
    design, strided, found = block.design, block.stride > 1, []
    pool = pool_word(DOWNSAMPLINGS[design.downsample][0])
    if pool and strided and path != 'identity':
        found.append((pool, 'pool'))
        strided = False
    if path == 'zero_pad':
        found += [('every 2nd pixel', 'other')] * strided + [('zero channels', 'other')]
    elif path == 'norm':
        found.append(('BN', 'norm'))
    elif path in ('projection', 'conv'):
        found.append(('1x1 conv' + ', /2' * strided, 'conv'))
        found += [('BN', 'norm')] * block.normalizes_shortcut(path)
    if design.se_ratio and design.se_place == 'identity':
        found.append(('SE', 'se'))
    if design.shortcut_dropout:
        found.append((f'dropout {design.shortcut_dropout}', 'dropout'))
    return found


def weights(design):
    """The boxes that gates and factors put on shortcut and branch."""
    skip = [('× (1 - g)', 'gate')] * (design.gate != 'none')
    branch = [('× g', 'gate')] * (design.gate == 'exclusive')
    for path, side in ((skip, 'shortcut'), (branch, 'branch')):
        scale = getattr(design, f'{side}_scale')
        if getattr(design, f'learn_{side}_scale'):
            path.append((f'× a, from {scale:g}', 'scale'))
        elif scale != 1:
            path.append((f'× {scale:g}', 'scale'))
    return skip, branch


def panel(title, design, entering=64, width=64, stride=1, **options):
    """A block of a design as a panel.

    Args:
      title: above it.
      design: of the block.
      entering: input channels of the block.
      width: of the block.
      stride: of the block.
      **options: `folded` draws the branch as one box, `channels` writes those of convolutions,
        `dimensions` are those of space, `note` stands below.
    """
    block = ResidualBlock(design, width, stride, first=False, conv=None, norm=None)
    before, branch, after = spell_out(design)
    convolutions = block.convolutions(entering, options.get('dimensions', 2))
    path = block.shortcut_path(entering)

    def drawn(operations):
        return boxes(design, operations, convolutions, entering, options.get('channels', False))

    skip, factors = weights(design)
    column = drawn((*before, *branch))
    if options.get('folded'):
        column = [('F(x)', 'branch')]
    shortcut = shortcut_boxes(block, path, entering)
    shared = len(before) if before and block.shares_activation(path) else 0
    if shortcut is not None:
        column, shortcut = column + factors, shortcut + skip
    spread = 1.7 if options.get('folded') else 1.0
    return Panel(title, column, shortcut, drawn(after), shared, spread, options.get('note', ''))


class Drawing:
    """A row of panels on one pair of axes in inches; y grows upwards."""

    def __init__(self, axes, box, lane):
        self.axes, self.box, self.lane = axes, box, lane

    def put(self, x, y, word, kind, width):
        """A box with its centre at (x, y)."""
        style = 'round,pad=0,rounding_size=0.05'
        corner = (x - width / 2, y - HEIGHT / 2)
        colour = COLOURS.get(kind, OTHER)
        patch = FancyBboxPatch(corner, width, HEIGHT, style, fc=colour, ec='#222222', lw=0.9)
        self.axes.add_patch(patch)
        self.axes.text(x, y - 0.01, word, ha='center', va='center', size=8.5)

    def arrow(self, start, end):
        """An arrow whose tip touches `end`."""
        self.axes.annotate('', end, start, arrowprops=ARROW)

    def draw(self, each, centre, x, bottom):
        """One panel around a centre, with its branch at x and its note at the bottom."""
        text = {'ha': 'center', 'size': 9}
        self.axes.text(centre, 0.5, each.title, **(text | {'family': 'monospace', 'size': 9.5}))
        self.axes.text(x, 0.13, 'x', style='italic', **text)
        edge, y, split = 0.06, HEIGHT / 2 - 0.05, 0.0
        for i, (word, kind) in enumerate(each.branch):
            y -= STEP * each.spread
            if i == each.shared:
                split = edge - 0.12
                y -= 0.1
            edge = self.step(x, edge, y, word, kind)
        if each.shortcut is not None:
            y -= STEP * each.spread
            self.arrow((x, edge), (x, y + RADIUS))
            self.join(each.shortcut, x, split, y)
            edge = y - RADIUS
        for word, kind in each.after:
            y -= STEP
            edge = self.step(x, edge, y, word, kind)
        self.arrow((x, edge), (x, edge - (STEP - HEIGHT)))
        self.axes.text(centre, bottom, each.note, va='bottom', **(text | {'size': 8.5}))

    def step(self, x, edge, y, word, kind):
        """An arrow from an edge to a box, whose lower edge it returns."""
        self.arrow((x, edge), (x, y + HEIGHT / 2))
        self.put(x, y, word, kind, self.box)
        return y - HEIGHT / 2

    def join(self, shortcut, x, top, bottom):
        """The shortcut: a line from the split at the top, down the lane, into the addition."""
        lane = x - self.lane
        self.axes.add_patch(Circle((x, bottom), RADIUS, fc='white', ec='#222222', lw=1.1))
        for dx, dy in ((0.08, 0), (0, 0.08)):
            self.axes.plot([x - dx, x + dx], [bottom - dy, bottom + dy], **LINE)
        self.axes.add_patch(Circle((x, top), 0.03, fc='#222222', ec='none'))
        self.axes.plot([x, lane], [top, top], **LINE)
        gap = (top - bottom) / (len(shortcut) + 1)
        at = top
        for i, (word, kind) in enumerate(shortcut, 1):
            y = top - i * gap
            self.arrow((lane, at), (lane, y + HEIGHT / 2))
            self.put(lane, y, word, kind, SIDE)
            at = y - HEIGHT / 2
        self.axes.plot([lane, lane], [at, bottom], **LINE)
        self.arrow((lane, bottom), (x - RADIUS, bottom))


SIDE = 1.12  # width of a box on the shortcut


def height_of(each):
    """The height of a panel in inches, without its note."""
    beside = len(each.branch) + (each.shortcut is not None)
    lines = each.note.count('\n') + bool(each.note)
    boxes_high = STEP * (beside * each.spread + len(each.after))
    return 1.17 + boxes_high + 0.2 * bool(lines) + 0.16 * lines


def write(name, rows, box, lane, pitch, names=()):
    """Writes a picture of rows of panels.

    Args:
      name: of the file.
      rows: lists of panels.
      box: width of the boxes of the branch.
      lane: how far left of the branch the shortcut runs; 0: there is none.
      pitch: from one panel to the next.
      names: of the rows, on their left.
    """
    sizes = [max(map(height_of, row)) for row in rows]
    side = SIDE if any(each.shortcut for row in rows for each in row) else 0.0
    shift = (lane + side / 2 - box / 2) / 2  # of the branch from the middle of its panel
    left, width = (1.0 if names else 0.0), max(map(len, rows)) * pitch
    figure = Figure(figsize=(left + width, sum(sizes)))
    axes = figure.subplots(len(rows), 1, height_ratios=sizes, squeeze=False)[:, 0]
    figure.subplots_adjust(0, 0, 1, 1, 0, 0)
    for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        drawing = Drawing(axes[i], box, lane)
        for j, each in enumerate(row):
            centre = left + (j + 0.5) * pitch
            drawing.draw(each, centre, centre + shift, 0.85 - size)
        axes[i].set(xlim=(0, left + width), ylim=(0.75 - size, 0.75))
        if names:
            axes[i].text(0.12, 0.4 - size / 2, names[i], size=9.5, va='center')
        axes[i].axis('off')
    path = HERE / name
    FigureCanvasAgg(figure).print_figure(path, dpi=130)
    print(path.relative_to(HERE.parent))


def designed(**fields):
    """The basic block with other fields."""
    return dataclasses.replace(BASIC, **fields)


def placements():
    """The order of convolutions, norms and activations."""
    panels = [panel(p, designed(placement=p)) for p in PLACEMENTS]
    write('placements.png', [panels], 0.95, 0.8, 1.6)


def shortcuts():
    """What the shortcut holds, where the shape is kept and where it changes."""
    designs = {name: designed(shortcut=name) for name in SHORTCUTS}
    kept = [panel(n, d, folded=True) for n, d in designs.items()]
    changed = [panel(n, d, width=128, stride=2, folded=True) for n, d in designs.items()]
    names = ('shape\nkept', 'twice the\nchannels,\nhalf the\nresolution') * 2
    rows = [row for part in (slice(4), slice(4, None)) for row in (kept[part], changed[part])]
    write('blocks_shortcuts.png', rows, 0.7, 1.1, 2.2, names)


def joins():
    """How he2016, figure 2, joins the two paths, and SkipInit."""
    rows = {
        'identity': ({}, 'figure 2a'),
        'scaled': ({'shortcut_scale': 0.5, 'branch_scale': 0.5}, 'figure 2b'),
        'gate=exclusive': ({'gate': 'exclusive'}, 'figure 2c\ng = sigmoid(1x1 conv(x) + b)'),
        'gate=shortcut_only': ({'gate': 'shortcut_only'}, 'figure 2d\nwith the same g'),
        'shortcut=conv1x1': ({'shortcut': 'conv1x1'}, 'figure 2e'),
        'shortcut_dropout': ({'shortcut_dropout': 0.5}, 'figure 2f'),
        'SkipInit': (
            {'branch_scale': 0.0, 'learn_branch_scale': True},
            'arXiv 2002.10444\na is learnt',
        ),
    }
    panels = [
        panel(title, designed(**fields), folded=True, note=note)
        for title, (fields, note) in rows.items()
    ]
    write('blocks_joins.png', [panels[:4], panels[4:]], 1.0, 1.2, 2.6)


def branches():
    """What kernels, expansion, groups and convolution make of the branch."""
    grouped = dataclasses.replace(BOTTLENECK, groups=32, base_width=4)
    shuffled = dataclasses.replace(SHUFFLED, pointwise_groups=3)
    separable = designed(convolution='separable')
    first = [
        panel('basic', BASIC, channels=True, note='he2015, figure 5'),
        panel('bottleneck', BOTTLENECK, 256, channels=True, note='he2015, figure 5'),
        panel('grouped', grouped, 256, channels=True, note='ResNeXt 32x4d, arXiv 1611.05431'),
        panel('shuffled', shuffled, 240, 60, channels=True, note='arXiv 1707.01083, figure 2b'),
    ]
    second = [
        panel('inverted', INVERTED, 24, 24, channels=True, note='arXiv 1801.04381, figure 4d'),
        panel('separable', separable, channels=True, note='arXiv 1704.04861'),
        panel('space_time', R2PLUS1D, dimensions=3, channels=True, note='arXiv 1711.11248'),
    ]
    write('blocks_branches.png', [first, second], 1.85, 1.15, 2.4)


def attention():
    """Where squeeze-and-excitation and efficient channel attention stand."""
    panels = [
        panel(f'se_place={place}', designed(se_ratio=1 / 16, se_place=place)) for place in SE_PLACES
    ]
    panels.append(panel('eca=True', designed(eca=True)))
    write('blocks_attention.png', [panels], 0.95, 1.2, 2.45)


def downsampling():
    """What halves the resolution in a bottleneck."""
    panels = [
        panel(name, dataclasses.replace(BOTTLENECK, downsample=name), 256, 128, 2)
        for name in DOWNSAMPLINGS
    ]
    write('blocks_downsample.png', [panels], 1.15, 1.3, 2.75)


def stem_panel(name):
    """A stem of 64 channels; it has no shortcut."""
    design = STEMS[name]
    stem = Stem(design, BASIC, 64, ('norm', 'act'), ('norm', 'act'), conv=None, norm=None)
    convs = [
        {'features': int(64 * share), 'kernel_size': size, 'strides': stride, 'groups': 1}
        for size, stride, share in design.convolutions
    ]
    column = [('embedding, 16', 'other')] * bool(design.embedding)
    column += boxes(BASIC, stem.operations(), convs, 0, True)
    if design.embedding:  # in one dimension
        column = [(word.replace('3x3', '3'), kind) for word, kind in column]
    if design.pool != 'none':
        column.append((STEM_POOLS[design.pool], 'pool'))
    return Panel(name, column, None)


def stems():
    """The first layers of a network."""
    names = [name for name in STEMS if name != 'none']
    rows = [[stem_panel(n) for n in names[:5]], [stem_panel(n) for n in names[5:]]]
    write('blocks_stems.png', rows, 1.75, 0, 1.95)


def main():
    """Writes all pictures beside this script."""
    for draw in (placements, shortcuts, joins, branches, attention, downsampling, stems):
        draw()


if __name__ == '__main__':
    main()
