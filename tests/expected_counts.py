"""How many parameters each registered model has, from its source or a closed form.

No number here comes from the models themselves.
"""


def basic_net(stages, *, stem, width, classes, projection):
    """Parameters of a net of two-convolution blocks, from he2015's table 1 and section 4.2."""
    total = stem * stem * 3 * width + 2 * width
    before = width
    for stage, blocks in enumerate(stages):
        c = width * 2**stage
        for _ in range(blocks):
            total += 9 * before * c + 9 * c * c + 4 * c
            if projection and before != c:
                total += before * c + 2 * c
            before = c
    return total + before * classes + classes


def bottleneck_net(stages, *, stem, stem_width, width, classes, groups=1, base_width=64):
    """The same for 1x1-3x3-1x1 blocks with expansion 4 and projections (resnext, table 1)."""
    total = stem * stem * 3 * stem_width + 2 * stem_width
    before = stem_width
    for stage, blocks in enumerate(stages):
        c = width * 2**stage
        inner = c * base_width // 64 * groups
        for _ in range(blocks):
            total += before * inner + 9 * inner * inner // groups + inner * 4 * c
            total += 2 * (inner + inner + 4 * c)
            if before != 4 * c:
                total += before * 4 * c + 2 * 4 * c
            before = 4 * c
    return total + before * classes + classes


def series_net(classes):
    """tsc (arXiv 1611.06455), section 2.3, as Keras builds it: biases, and a norm on shortcut 3."""
    total, before = 0, 1
    for c in (64, 128, 128):
        total += 8 * before * c + c + 5 * c * c + c + 3 * c * c + c + 3 * 2 * c
        total += before * c + c if before != c else 0  # the projection, and its or the only norm
        total += 2 * c
        before = c
    return total + before * classes + classes


def text_net(stages, classes):
    """vdcnn (arXiv 1606.01781), section 3: 256 vectors of 16, and pairs of convolutions of 3."""
    before = 64
    total = 256 * 16 + 3 * 16 * before + 2 * before
    for stage, blocks in enumerate(stages):
        c = 64 * 2**stage
        for _ in range(blocks):
            total += 3 * before * c + 3 * c * c + 4 * c
            total += before * c + 2 * c if before != c else 0
            before = c
    return total + before * classes + classes


def squeeze_excitations(stages, channels):
    """senet, section 4: two layers with bias in each block, C to C / 16 and back; at least 8."""
    return sum(
        blocks * (2 * c * max(8, c // 16) + max(8, c // 16) + c)
        for blocks, c in zip(stages, channels, strict=True)
    )


def volume_net(stages, *, width, classes):
    """The net of two-convolution blocks with windows of 27 taps, projections and a small stem."""
    total, before = 27 * 3 * width + 2 * width, width
    for stage, blocks in enumerate(stages):
        c = width * 2**stage
        for _ in range(blocks):
            total += 27 * before * c + 27 * c * c + 4 * c
            total += before * c + 2 * c if before != c else 0
            before = c
    return total + before * classes + classes


def shuffled_bottlenecks(stages, *, width, groups, classes):
    """shufflenet, figure 2b: grouped 1x1, depthwise 3x3, grouped 1x1; and projections."""
    total, before = 49 * 3 * width + 2 * width, width
    for stage, blocks in enumerate(stages):
        c = width * 2**stage
        for _ in range(blocks):
            total += before * c // groups + 9 * c + 4 * c * c // groups + 2 * (c + c + 4 * c)
            total += before * 4 * c + 2 * 4 * c if before != 4 * c else 0
            before = 4 * c
    return total + before * classes + classes


def wide(depth, k):
    """wrn, table 1: groups of width 16k, 32k, 64k; norm, relu and convolution, twice a block."""
    total, before = 27 * 16, 16
    for c in (16 * k, 32 * k, 64 * k):
        for _ in range((depth - 4) // 6):
            total += 2 * before + 9 * before * c + 2 * c + 9 * c * c
            total += before * c if before != c else 0
            before = c
    return total + 2 * before + before * 10 + 10


def preact_change(stages, *, stem, widths, expansion, projection):
    """What full pre-activation adds to the original: each norm moves before its convolution.

    The stem's norm goes, the first norm of each block has the block's input channels, the norm
    after each last convolution goes, one final norm comes, and projections lose theirs.
    """
    change, before = -2 * stem, stem
    for blocks, c in zip(stages, widths, strict=True):
        for _ in range(blocks):
            change += 2 * before - 2 * expansion * c
            if projection and before != expansion * c:
                change -= 2 * expansion * c
            before = expansion * c
    return change + 2 * before


def imagenet_preact(stages, bottleneck):
    widths, expansion = (64, 128, 256, 512), 4 if bottleneck else 1
    net = (
        bottleneck_net(stages, stem=7, stem_width=64, width=64, classes=1000)
        if bottleneck
        else basic_net(stages, stem=7, width=64, classes=1000, projection=True)
    )
    return net + preact_change(stages, stem=64, widths=widths, expansion=expansion, projection=True)


def bit(stages, factor):
    """bit, section 2: he2016's net, factor times as wide; norms of both kinds have two numbers."""
    stem, widths = 64 * factor, [64 * factor * 2**stage for stage in range(4)]
    net = bottleneck_net(stages, stem=7, stem_width=stem, width=stem, classes=1000)
    return net + preact_change(stages, stem=stem, widths=widths, expansion=4, projection=True)


def cifar(n, projection=False):
    return basic_net((n,) * 3, stem=3, width=16, classes=10, projection=projection)


def cifar_bottleneck(n):
    return bottleneck_net((n,) * 3, stem=3, stem_width=16, width=16, classes=10)


def imagenet_bottleneck(stages, **groups):
    return bottleneck_net(stages, stem=7, stem_width=64, width=64, classes=1000, **groups)


def cifar_resnext(groups):
    net = {'stem': 3, 'stem_width': 64, 'width': 64, 'classes': 10}
    return bottleneck_net((3, 3, 3), groups=groups, **net)


STAGES = {
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
PLAIN_OR_WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)  # output channels of a stage's blocks
# ResNet-C's stem of 32, 32 and 64 channels with their norms, less the 7x7.
DEEP_STEM = 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * (32 + 32) - 49 * 3 * 64
# timm's tiered one has 24 in place of the first 32.
TIERED_STEM = 9 * (3 * 24 + 24 * 32 + 32 * 64) + 2 * (24 + 32) - 49 * 3 * 64
TORCHVISION = 'torchvision model documentation'
TIMM = 'timm resnetv2, batch-norm variant'
TIMM_COUNT = "timm's published count"
OPTION_A = "he2015, table 6 (in millions) and REFERENCE counts of the authors' definition"
# name -> (parameters, where the figure comes from)
EXPECTED = {
    'resnet18': (11_689_512, TORCHVISION),
    'resnet34': (21_797_672, TORCHVISION),
    'resnet50': (25_557_032, TORCHVISION),
    'resnet101': (44_549_160, TORCHVISION),
    'resnet152': (60_192_808, TORCHVISION),
    'resnet200': (
        bottleneck_net((3, 24, 36, 3), stem=7, stem_width=64, width=64, classes=1000),
        'he2016, section 4: stages of 3, 24, 36, 3',
    ),
    'resnet26': (imagenet_bottleneck(STAGES[26]), "closed form; timm's published 16.00M"),
    'resnet50_v1': (25_557_032, 'as resnet50: a stride has no parameters'),
    'resnet101_v1': (44_549_160, 'as resnet101'),
    'resnet152_v1': (60_192_808, 'as resnet152'),
    'plain18': (
        11_689_512 - sum(c * 2 * c + 4 * c for c in (64, 128, 256)),
        'resnet18 less three projections with their norms',
    ),
    'plain34': (
        21_797_672 - sum(c * 2 * c + 4 * c for c in (64, 128, 256)),
        'resnet34 less three projections with their norms',
    ),
    'preact_resnet18': (imagenet_preact((2, 2, 2, 2), False), 'closed form, he2016 section 3'),
    'preact_resnet34': (imagenet_preact((3, 4, 6, 3), False), 'closed form, he2016 section 3'),
    'preact_resnet50': (25_549_352, TIMM),
    'preact_resnet101': (44_541_480, TIMM),
    'preact_resnet152': (imagenet_preact((3, 8, 36, 3), True), 'closed form, he2016 section 3'),
    'preact_resnet200': (imagenet_preact((3, 24, 36, 3), True), 'closed form, he2016 section 3'),
    'resnetv2_50': (25_549_352, TIMM),
    'resnetv2_101': (44_541_480, TIMM),
    'resnet50d': (25_576_264, TIMM_COUNT),
    'resnetv2_18': (imagenet_preact(STAGES[18], False), "closed form; timm's published 11.69M"),
    'resnetv2_34': (imagenet_preact(STAGES[34], False), "closed form; timm's published 21.80M"),
    'resnet50c': (25_576_264, 'as resnet50d: a pool has no parameters'),
    'resnet18d': (11_689_512 + DEEP_STEM, 'resnet18 with the stem of ResNet-C'),
    'resnet26d': (
        imagenet_bottleneck(STAGES[26]) + DEEP_STEM,
        'resnet26 with the stem of ResNet-C',
    ),
    'resnet34d': (21_797_672 + DEEP_STEM, 'resnet34 with the stem of ResNet-C'),
    'resnet101d': (44_549_160 + DEEP_STEM, 'resnet101 with the stem of ResNet-C'),
    'resnet152d': (60_192_808 + DEEP_STEM, 'resnet152 with the stem of ResNet-C'),
    'resnet200d': (
        imagenet_bottleneck(STAGES[200]) + DEEP_STEM,
        'resnet200 with the stem of ResNet-C',
    ),
    'resnet50t': (25_557_032 + TIERED_STEM, "resnet50 with timm's tiered stem"),
    **{
        f'resnetv2_{depth}d': (
            imagenet_preact(STAGES[depth], False) + DEEP_STEM,
            f'resnetv2_{depth} with the stem of ResNet-C',
        )
        for depth in (18, 34)
    },
    'resnetv2_50d': (25_549_352 + DEEP_STEM, 'resnetv2_50 with the stem of ResNet-C'),
    'resnet50_gn': (25_557_032, 'as resnet50: group norm has as many parameters as batch norm'),
    'resnetblur50': (25_557_032, 'as resnet50: a blur has no parameters'),
    'resnetaa50d': (25_576_264, 'as resnet50d: a pool has no parameters'),
    'ecaresnet50d': (
        25_576_264 + 3 * 5 + 4 * 5 + 6 * 5 + 3 * 7,
        'resnet50d and 5 weights a block, 7 of 2048 channels: eca, equation 12',
    ),
    'bit_resnet50x1': (bit(STAGES[50], 1), 'closed form, bit section 2'),
    'bit_resnet50x3': (bit(STAGES[50], 3), 'closed form, bit section 2'),
    'bit_resnet101x1': (bit(STAGES[101], 1), 'closed form, bit section 2'),
    'resnext50_32x4d': (25_028_904, TORCHVISION),
    'resnext101_32x4d': (
        imagenet_bottleneck(STAGES[101], groups=32, base_width=4),
        'closed form, resnext table 1',
    ),
    'resnext101_32x8d': (88_791_336, TORCHVISION),
    'resnext101_64x4d': (83_455_272, TORCHVISION),
    'wide_resnet50_2': (68_883_240, TORCHVISION),
    'wide_resnet101_2': (126_886_696, TORCHVISION),
    'se_resnet18': (
        11_689_512 + squeeze_excitations(STAGES[18], PLAIN_OR_WIDE[0]),
        'closed form, senet section 4',
    ),
    'se_resnet34': (
        21_797_672 + squeeze_excitations(STAGES[34], PLAIN_OR_WIDE[0]),
        'closed form, senet section 4',
    ),
    'se_resnet50': (28_088_024, TIMM_COUNT),
    'se_resnet101': (
        44_549_160 + squeeze_excitations(STAGES[101], PLAIN_OR_WIDE[1]),
        'closed form, senet section 4',
    ),
    'se_resnet152': (
        60_192_808 + squeeze_excitations(STAGES[152], PLAIN_OR_WIDE[1]),
        'closed form, senet section 4',
    ),
    'se_resnext50_32x4d': (27_559_896, TIMM_COUNT),
    'mobilenet_v2': (3_504_872, TORCHVISION),
    'shuffle_resnet50_g3': (
        shuffled_bottlenecks(STAGES[50], width=60, groups=3, classes=1000),
        'closed form, shufflenet figure 2b',
    ),
    'r3d_18': (33_371_472, TORCHVISION),
    'mc3_18': (11_695_440, TORCHVISION),
    'r2plus1d_18': (31_505_325, TORCHVISION),
    'resnet18_3d': (
        volume_net(STAGES[18], width=64, classes=1000),
        'closed form, he2015 table 1 with 3x3x3 for 3x3',
    ),
    'cifar_resnet8': (cifar(1), 'closed form, he2015 section 4.2'),
    'cifar_resnet14': (cifar(2), 'closed form, he2015 section 4.2'),
    'cifar_resnet20': (269_722, OPTION_A),
    'cifar_resnet32': (464_154, OPTION_A),
    'cifar_resnet44': (658_586, OPTION_A),
    'cifar_resnet56': (853_018, OPTION_A),
    'cifar_resnet110': (1_727_962, OPTION_A),
    'cifar_resnet1202': (19_421_274, OPTION_A),
    'cifar_resnet164': (cifar_bottleneck(18), 'closed form, he2016 table 2 ("1.7M")'),
    'cifar_resnet1001': (cifar_bottleneck(111), 'closed form, he2016 table 3 ("10.2M")'),
    'cifar_plain20': (269_722, 'as cifar_resnet20: option A has no parameters'),
    'cifar_plain32': (464_154, 'as cifar_resnet32'),
    'cifar_plain44': (658_586, 'as cifar_resnet44'),
    'cifar_plain56': (853_018, 'as cifar_resnet56'),
    'cifar_plain110': (1_727_962, 'as cifar_resnet110'),
    **{
        f'cifar_preact_resnet{6 * n + 2}': (
            cifar(n)
            + preact_change((n,) * 3, stem=16, widths=(16, 32, 64), expansion=1, projection=False),
            'closed form, he2016 section 3',
        )
        for n in (3, 9, 18)
    },
    'cifar_preact_resnet164': (1_703_258, "computed from he2016's definition"),
    'cifar_preact_resnet1001': (10_327_706, "computed from he2016's definition"),
    **{
        f'wrn{depth}_{k}': (wide(depth, k), 'closed form, wrn table 1')
        for depth, k in ((16, 4), (16, 8), (22, 8), (40, 2), (40, 4))
    },
    'wrn28_10': (36_479_194, 'wrn, table 4: 36.5M'),
    'cifar_resnext29_8x64d': (cifar_resnext(8), 'resnext, table 7: 34.4M'),
    'cifar_resnext29_16x64d': (cifar_resnext(16), 'resnext, table 7: 68.1M'),
    'tsc_resnet': (series_net(2), 'closed form, tsc section 2.3; hfawaz/dl-4-tsc resnet.py'),
    # Pairs of the 2, 4, 10 or 16 convolutions and so on of vdcnn's table 2.
    'vdcnn9': (text_net((1, 1, 1, 1), 4), 'closed form, vdcnn table 2'),
    'vdcnn17': (text_net((2, 2, 2, 2), 4), 'closed form, vdcnn table 2'),
    'vdcnn29': (text_net((5, 5, 2, 2), 4), 'closed form, vdcnn table 2'),
    'vdcnn49': (text_net((8, 8, 5, 3), 4), 'closed form, vdcnn table 2'),
    **{
        f'cifar_se_resnet{6 * n + 2}': (
            cifar(n) + squeeze_excitations((n,) * 3, (16, 32, 64)),
            'closed form, he2015 section 4.2 and senet section 4',
        )
        for n in (3, 9, 18)
    },
}

# Multiply-adds at 224 in units of 1e9, from torchvision's published table.
MULTIPLY_ADDS = {
    'resnet18': 1.814,
    'resnet34': 3.664,
    'resnet50': 4.089,
    'resnet101': 7.801,
    'resnet152': 11.514,
    'resnext50_32x4d': 4.230,
    'resnext101_32x8d': 16.414,
    'wide_resnet50_2': 11.398,
    'wide_resnet101_2': 22.753,
    'mobilenet_v2': 0.301,
    # Of a clip of 16 frames of 112x112.
    'r3d_18': 40.697,
    'mc3_18': 43.343,
    'r2plus1d_18': 40.519,
}
