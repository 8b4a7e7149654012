"""The transforms that a config can name, one row each."""

from resnet_jax.data.resizing import INTERPOLATIONS, LARGEST_SIDE
from resnet_jax.data.transforms import colour, geometry, mixing, policies, regions, series
from resnet_jax.data.transforms.auto_augment import POLICIES
from resnet_jax.data.transforms.operations import SAMPLINGS
from resnet_jax.data.transforms.specs import Parameter, Transform
from resnet_jax.errors import Range

_PIXELS = Range(0, LARGEST_SIDE, whole=True)
_SIZE = Range(1, LARGEST_SIDE, whole=True)
_PROBABILITY = Range(0, 1)
_ALPHA = Range(0, 100, open='low')
_CHANGE = Range(0, 10)


def _probability(default: float) -> Parameter:
    return Parameter(default, _PROBABILITY, 'of doing it')


def _resampling(default: str) -> Parameter:
    return Parameter(default, tuple(INTERPOLATIONS), 'how it resizes')


def _moves(fill: int, interpolation: str) -> dict[str, Parameter]:
    return {
        'fill': Parameter(fill, Range(0, 255, whole=True), 'value of pixels from outside'),
        'interpolation': Parameter(interpolation, SAMPLINGS, 'between pixels'),
    }


def _alpha(default: float, of: str) -> Parameter:
    return Parameter(default, _ALPHA, f'of the Beta distribution of the weights{of}')


# A stream's number is used once; changing it changes the random numbers of runs that are resumed.
TRANSFORMS: dict[str, Transform] = {
    'random_resized_crop': Transform(
        *('host', 'example', 2),
        geometry.host_random_resized_crop,
        {
            'scale': Parameter((0.08, 1.0), Range(0, 1, open='low'), 'area over that of the image'),
            'ratio': Parameter((3 / 4, 4 / 3), Range(0.01, 100), 'width over height'),
            'interpolation': _resampling('bilinear'),
            'antialias': Parameter(True, (), 'when it shrinks'),
        },
        source='arXiv 1409.4842, section 6',
    ),
    'random_scale_crop': Transform(
        *('host', 'example', 3),
        geometry.random_scale_crop,
        {
            'sides': Parameter((256, 480), _SIZE, 'the shorter side before the crop, pixels'),
            'interpolation': _resampling('bilinear'),
        },
        source='arXiv 1512.03385, section 3.4',
    ),
    'flip': Transform(
        *('device', 'example', 1),
        geometry.random_flip,
        {'probability': _probability(0.5)},
        follow=geometry.follow_flip,
        dimensions=(2, 3),
        source='arXiv 1512.03385, section 4.2',
    ),
    'vertical_flip': Transform(
        *('device', 'example', 4),
        geometry.random_vertical_flip,
        {'probability': _probability(0.5)},
        dimensions=(2, 3),
    ),
    'depth_flip': Transform(
        *('device', 'example', 40),
        geometry.random_depth_flip,
        {'probability': _probability(0.5)},
        dimensions=(3,),
    ),
    'rotation': Transform(
        *('device', 'example', 5),
        geometry.rotate,
        {'degrees': Parameter(15.0, Range(0, 180), 'largest angle'), **_moves(0, 'bilinear')},
        domain='pixels',
    ),
    'color_jitter': Transform(
        *('device', 'example', 6),
        colour.color_jitter,
        {
            **{
                name: Parameter(0.4, _CHANGE, 'most that the factor differs from 1')
                for name in ('brightness', 'contrast', 'saturation')
            },
            'hue': Parameter(0.0, Range(0, 0.5), 'most that it moves, of the circle'),
        },
        domain='pixels',
        follow='stay',
        channels=(1, 3),
        source='arXiv 1312.5402, section 2.2',
    ),
    'lighting': Transform(
        *('device', 'example', 7),
        colour.lighting,
        {'std': Parameter(0.1, Range(0, 10), 'of the factors of the eigenvalues')},
        domain='pixels',
        follow='stay',
        channels=(3,),
        source='Krizhevsky et al. 2012, section 4.1',
    ),
    'grey': Transform(
        *('device', 'example', 8),
        colour.grey,
        {'probability': _probability(0.2)},
        domain='pixels',
        follow='stay',
        channels=(3,),
        source='arXiv 2002.05709, appendix A',
    ),
    'rand_augment': Transform(
        *('device', 'example', 9),
        policies.rand_augment,
        {
            'layers': Parameter(2, Range(1, 10, whole=True), 'operations, N'),
            'magnitude': Parameter(9.0, Range(0, policies.STRONGEST), 'their strength, M of 10'),
            'std': Parameter(0.0, Range(0, policies.STRONGEST), 'of the strength'),
            **_moves(128, 'nearest'),
        },
        domain='pixels',
        channels=(1, 3),
        source='arXiv 1909.13719, section 3',
    ),
    'trivial_augment': Transform(
        *('device', 'example', 10),
        policies.trivial_augment,
        _moves(128, 'nearest'),
        domain='pixels',
        channels=(1, 3),
        source='arXiv 2103.10158, section 3',
    ),
    'auto_augment': Transform(
        *('device', 'example', 11),
        policies.auto_augment,
        {
            'policy': Parameter('imagenet', tuple(POLICIES), 'found on which data'),
            **_moves(128, 'nearest'),
        },
        domain='pixels',
        channels=(1, 3),
        source='arXiv 1805.09501, appendix',
    ),
    'aug_mix': Transform(
        *('device', 'example', 12),
        policies.aug_mix,
        {
            'severity': Parameter(3.0, Range(0.1, policies.STRONGEST), 'strongest operation'),
            'alpha': _alpha(1.0, ' and chains'),
            **_moves(0, 'bilinear'),
        },
        domain='pixels',
        channels=(1, 3),
        source='arXiv 1912.02781, section 3',
    ),
    'pad_crop': Transform(
        *('device', 'example', 0),
        geometry.random_crop,
        {
            'pad': Parameter(4, _PIXELS, 'pixels on each side before the crop'),
            'mode': Parameter('zero', tuple(geometry.PAD_MODES), 'of the border'),
        },
        domain='normalised',
        follow=geometry.follow_crop,
        dimensions=(1, 2, 3),
        source='arXiv 1512.03385, section 4.2',
    ),
    'random_zoom': Transform(
        *('device', 'example', 42),
        geometry.random_zoom,
        {'scale': Parameter((0.5, 2.0), Range(0.01, 100), 'of the image')},
        domain='normalised',
        follow=geometry.follow_zoom,
        source='arXiv 1706.05587, section 4.1',
    ),
    'cutout': Transform(
        *('device', 'example', 13),
        regions.cutout,
        {'size': Parameter(16, _SIZE, 'side of the square'), 'probability': _probability(1.0)},
        domain='normalised',
        source='arXiv 1708.04552, section 3',
    ),
    'random_erasing': Transform(
        *('device', 'example', 14),
        regions.random_erasing,
        {
            'probability': _probability(0.5),
            'area': Parameter((0.02, 0.4), Range(0, 1, open='low'), 'over that of the image'),
            'ratio': Parameter((0.3, 1 / 0.3), Range(0.01, 100), 'height over width'),
            'fill': Parameter('noise', regions.FILLS, 'what the box becomes'),
        },
        domain='normalised',
        source='arXiv 1708.04896, section 3',
    ),
    'mixup': Transform(
        *('device', 'batch', 15),
        mixing.mixup,
        {'alpha': _alpha(0.2, ''), 'probability': _probability(1.0)},
        domain='normalised',
        source='arXiv 1710.09412, section 2',
        dimensions=(1, 2),
    ),
    'cutmix': Transform(
        *('device', 'batch', 16),
        mixing.cutmix,
        {'alpha': _alpha(1.0, ''), 'probability': _probability(1.0)},
        domain='normalised',
        source='arXiv 1905.04899, section 3.1',
    ),
    'mixup_or_cutmix': Transform(
        *('device', 'batch', 17),
        mixing.mixup_or_cutmix,
        {
            'mixup_alpha': _alpha(0.1, ' of mixup'),
            'cutmix_alpha': _alpha(1.0, ' of CutMix'),
            'switch': Parameter(0.5, _PROBABILITY, 'of CutMix'),
            'probability': _probability(1.0),
        },
        domain='normalised',
        source='arXiv 2110.00476, section 2',
    ),
    'jitter': Transform(
        *('device', 'example', 18),
        series.jitter,
        {'std': Parameter(0.03, Range(0, 100), 'of the noise')},
        domain='normalised',
        source='arXiv 2007.15951, section III-A',
        dimensions=(1,),
    ),
    'scaling': Transform(
        *('device', 'example', 19),
        series.scaling,
        {'std': Parameter(0.1, Range(0, 100), 'of the factors around 1')},
        domain='normalised',
        source='arXiv 2007.15951, section III-A',
        dimensions=(1,),
    ),
    'window_slice': Transform(
        *('device', 'example', 20),
        series.window_slice,
        {'share': Parameter(0.9, Range(0, 1, open='low'), 'of the length')},
        domain='normalised',
        source='Le Guennec et al. 2016',
        dimensions=(1,),
    ),
    'window_warp': Transform(
        *('device', 'example', 21),
        series.window_warp,
        {
            'share': Parameter(0.1, Range(0, 1, open='low'), 'of the length'),
            'factors': Parameter((0.5, 2.0), Range(0.01, 100), 'of its length, one of them'),
        },
        domain='normalised',
        source='Le Guennec et al. 2016',
        dimensions=(1,),
    ),
    'spec_augment': Transform(
        *('device', 'example', 41),
        regions.spec_augment,
        {
            'times': Parameter(2, Range(0, 100, whole=True), 'stretches of time'),
            'time_share': Parameter(0.2, _PROBABILITY, 'longest of them, over the whole'),
            'frequencies': Parameter(2, Range(0, 100, whole=True), 'ranges of frequency'),
            'frequency_share': Parameter(0.2, _PROBABILITY, 'widest of them, over the whole'),
        },
        domain='normalised',
        source='arXiv 1904.08779, section 2',
    ),
    'multi_crop': Transform(
        *('device', 'views', 22),
        geometry.multi_crop,
        {
            'count': Parameter(4, Range(1, 64, whole=True), 'crops of each image'),
            'size': Parameter(96, _SIZE, 'side of each, pixels'),
            'scale': Parameter((0.05, 0.14), Range(0, 1, open='low'), 'area over the image'),
            'ratio': Parameter((3 / 4, 4 / 3), Range(0.01, 100), 'width over height'),
        },
        domain='normalised',
        source='arXiv 2006.09882, section 3.2',
    ),
}
