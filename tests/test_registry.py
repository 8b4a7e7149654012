"""Every registered model has exactly the parameters that its source says."""

import functools

import pytest
from expected_counts import (
    DEEP_STEM,
    EXPECTED,
    MULTIPLY_ADDS,
    PLAIN_OR_WIDE,
    STAGES,
    basic_net,
    bottleneck_net,
    cifar,
    imagenet_bottleneck,
    imagenet_preact,
    squeeze_excitations,
    wide,
)
from random_models import distinct_designs

from resnet_jax.models import InputError, create_model, list_models
from resnet_jax.models.counting import count, model_counts
from resnet_jax.models.counts import COUNTS
from resnet_jax.models.registry import model_row
from resnet_jax.models.rows import MODELS


@functools.cache
def counts(name):
    """Traced. A deep net's blocks are scanned, which takes a fraction of the time."""
    row = model_row(name)
    deep = name not in MULTIPLY_ADDS and sum(row.settings['stage_sizes']) >= 30
    return count(create_model(name, scan_blocks=deep), row.image_shape)


def test_every_name_has_an_expected_count():
    assert set(EXPECTED) == set(list_models())


def test_stored_counts_are_the_expected():
    for name, (expected, source) in EXPECTED.items():
        assert COUNTS[name][0] == expected, source
    for name, billions in MULTIPLY_ADDS.items():
        assert COUNTS[name][1] / 1e9 == pytest.approx(billions, abs=5e-4)


# One of each design; the others differ from it in their depth.
_QUICK = set(distinct_designs().values())


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=[pytest.mark.slow] * (n not in _QUICK)) for n in list_models()]
)
def test_parameters_and_multiply_adds(name):
    expected, source = EXPECTED[name]
    found = counts(name)
    assert found.parameters == expected, source
    if name in MULTIPLY_ADDS:
        assert found.multiply_adds / 1e9 == pytest.approx(MULTIPLY_ADDS[name], abs=5e-4)
    assert COUNTS.get(name) == found, f'write {name!r}: {tuple(found)} into models/counts.py'


@pytest.mark.parametrize('name', ['cifar_resnet56', 'cifar_preact_resnet164', 'resnet50'])
def test_counting_a_scan_is_exact(name):
    looped, scanned = (create_model(name, scan_blocks=scan) for scan in (False, True))
    assert count(scanned, (64, 64, 3)) == count(looped, (64, 64, 3))


def test_counts_are_stored_and_others_traced(monkeypatch):
    assert set(COUNTS) == set(MODELS)
    stored = model_counts('cifar_resnet14')
    monkeypatch.delitem(COUNTS, 'cifar_resnet14')
    assert model_counts('cifar_resnet14') == stored
    with pytest.raises(InputError, match="unknown model 'cifar_resnet15'; did you mean"):
        model_counts('cifar_resnet15')


def test_closed_forms_agree_with_published_counts():
    """The closed forms are only as good as their agreement with counts that others printed."""
    stages = (3, 4, 6, 3)
    assert bottleneck_net(stages, stem=7, stem_width=64, width=64, classes=1000) == 25_557_032
    assert basic_net(stages, stem=7, width=64, classes=1000, projection=True) == 21_797_672
    assert imagenet_preact(stages, bottleneck=True) == 25_549_352
    assert cifar(18) == 1_727_962
    assert imagenet_bottleneck(stages, groups=32, base_width=4) == 25_028_904
    assert imagenet_bottleneck(STAGES[101], groups=32, base_width=8) == 88_791_336
    assert imagenet_bottleneck(stages, base_width=128) == 68_883_240
    assert 25_557_032 + DEEP_STEM == 25_576_264
    assert 25_557_032 + squeeze_excitations(stages, PLAIN_OR_WIDE[1]) == 28_088_024
    assert 25_028_904 + squeeze_excitations(stages, PLAIN_OR_WIDE[1]) == 27_559_896
    assert wide(28, 10) == 36_479_194


@pytest.mark.parametrize(
    ('name', 'millions'),
    [
        *(('wrn40_4', 8.9), ('wrn16_8', 11.0), ('wrn28_10', 36.5)),  # wrn, tables 4 and 5
        *(('cifar_resnext29_8x64d', 34.4), ('cifar_resnext29_16x64d', 68.1)),  # resnext, table 7
        ('cifar_resnet164', 1.7),  # he2016; its 10.2 for 1001 layers is 10.3 by its definition
        *(('cifar_resnet20', 0.27), ('cifar_resnet110', 1.7), ('cifar_resnet1202', 19.4)),  # he2015
    ],
)
def test_millions_are_those_that_the_papers_print(name, millions):
    digits = 2 if millions < 1 else 1
    assert EXPECTED[name][0] / 1e6 == pytest.approx(millions, abs=0.6 * 10**-digits)


def test_multiply_adds_of_the_v1_stride_are_fewer_by_the_first_convolutions():
    """he2015 runs each strided block's first 1x1 and its 3x3 ... at the smaller resolution."""
    difference = counts('resnet50').multiply_adds - counts('resnet50_v1').multiply_adds
    # Only the first 1x1 of stages 2 to 4 moves from r^2 to (r / 2)^2 pixels.
    expected = sum(
        (r * r - (r // 2) ** 2) * c_in * c
        for r, c_in, c in ((56, 256, 128), (28, 512, 256), (14, 1024, 512))
    )
    assert difference == expected


def test_list_models_takes_a_pattern():
    assert list_models('cifar_plain*') == [f'cifar_plain{d}' for d in (20, 32, 44, 56, 110)]
    assert list_models('nothing*') == []


def test_settings_of_a_row_are_not_shared():
    create_model('resnet18', width=32)
    assert 'width' not in MODELS['resnet18'].settings


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: create_model('resnet5O'), "unknown model 'resnet5O'; did you mean 'resnet50'"),
        (lambda: create_model('resnet18', placment='original'), "did you mean 'placement'"),
        (lambda: create_model('resnet18', placement='full_preactivation'), "'full_preact'"),
        (lambda: create_model('resnet18', shortcut='A'), 'unknown shortcut'),
        (lambda: create_model('resnet18', stride_at=2), 'stride_at is the index'),
        (lambda: create_model('resnet18', stage_sizes=3), 'stage_sizes takes tuple'),
        (lambda: create_model('resnet18', stage_sizes=(2, 2.5)), 'stage_sizes takes tuple'),
        (lambda: create_model('resnet18', groups=True), 'groups takes int, got True'),
        (
            lambda: create_model('resnet18', zero_init_last='no'),
            "zero_init_last takes bool, got 'n",
        ),
        (lambda: create_model('resnet18', dropout='0.1'), "dropout takes float, got '0.1'"),
        (lambda: create_model('resnet18', kernels=(0, 3)), 'kernels must be at least 1'),
        (lambda: create_model('resnet18', num_classes=0), 'num_classes must be at least 1'),
        (lambda: create_model('resnet18', gate='open'), 'unknown gate'),
        (lambda: create_model('resnet18', se_place='before'), 'unknown se_place'),
        (lambda: create_model('resnet18', activation='rleu'), "did you mean 'relu'"),
        (lambda: create_model('resnet18', downsample='avg'), 'unknown downsample'),
        (lambda: create_model('resnet18', stem='cifer'), "did you mean 'cifar'"),
        (lambda: create_model('resnet18', groups=0), 'groups must be at least 1'),
        (lambda: create_model('resnet18', branch_dropout=1.0), 'branch_dropout must be in [0, 1)'),
        (lambda: create_model('resnet18', stochastic_depth=1.0), 'must be in [0, 1)'),
        (lambda: create_model('resnet18', stochastic_depth_decay='log'), 'unknown stochastic'),
    ],
)
def test_bad_arguments_say_what_to_do(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)
    assert '\n' not in str(error.value)
