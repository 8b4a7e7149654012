"""The published values against a second table, typed from the papers independently."""

import pytest

from resnet_jax.papers.cifar import TABLES

# A line for each row in the paper's order: what identifies it, its figure (`fail` where the paper
# reports a failure, `-` where it has none), then a deviation (+-) or a top-5 error (/).
SECOND = {
    'he2015_table6': """
        20 8.75
        32 7.51
        44 7.17
        56 6.97
        110 6.61 +- 0.16
        1202 7.93
    """,
    'he2015_plain': '20 -\n 32 -\n 44 -\n 56 -\n 110 fail',
    'he2016_table1': """
        original 6.61
        (0,1) fail
        (0.5,1) fail
        (0.5,0.5) 12.35
        exclusive,bias0 fail
        exclusive,bias-5 fail
        exclusive,bias-6 8.70
        exclusive,bias-7 9.81
        shortcut_only,bias0 12.86
        shortcut_only,bias-6 6.91
        1x1 12.22
        dropout0.5 fail
    """,
    'he2016_table2': """
        original,110 6.61
        bn_after_add,110 8.17
        relu_before_add,110 7.84
        relu_only_preact,110 6.71
        full_preact,110 6.37
        original,164 5.93
        bn_after_add,164 6.50
        relu_before_add,164 6.14
        relu_only_preact,164 5.91
        full_preact,164 5.46
    """,
    'he2016_table3': """
        110,1-layer 9.90
        pre-act,110,1-layer 8.91
        110 6.61
        pre-act,110 6.37
        164 5.93
        pre-act,164 5.46
        1001 7.61
        pre-act,1001 4.92
    """,
    'he2016_table3_cifar100': """
        164 25.16
        pre-act,164 24.33
        1001 27.82
        pre-act,1001 22.71
    """,
    'he2016_table4': 'pre-act,1001 4.89 +- 0.14',
    'he2016_table4_cifar100': 'pre-act,1001 22.68 +- 0.22',
    'wrn_blocks': """
        B(1,3,1) 6.06
        B(3,1) 5.78
        B(1,3) 6.42
        B(3,1,1) 5.86
        B(3,3) 5.73
        B(3,1,3) 5.78
    """,
    'wrn_convolutions': '1 6.69\n 2 5.43\n 3 5.65\n 4 5.93',
    'wrn_cifar10': """
        40-4 4.53
        16-8 4.27
        28-10 4.00
        28-10,dropout 3.89
    """,
    'wrn_cifar100': """
        40-4 21.18
        16-8 20.43
        28-10 19.25
        28-10,dropout 18.85
    """,
    'resnext_cifar10': '29,8x64d 3.65\n 29,16x64d 3.58',
    'resnext_cifar100': '29,8x64d 17.77\n 29,16x64d 17.31',
    'stochastic_depth': """
        110,constant 6.41
        110 5.25
        1202 4.91
    """,
    'he2015_imagenet': """
        plain-18 27.94
        ResNet-18 27.88
        plain-34 28.54 / 10.02
        34A 25.03 / 7.76
        34B 24.52 / 7.46
        34C 24.19 / 7.40
        50 22.85 / 6.71
        101 21.75 / 6.05
        152 21.43 / 5.71
    """,
    'he2015_imagenet_one_crop': '50 24.7 / 7.8\n 101 23.6 / 7.1\n 152 23.0 / 6.7',
    'resnext_imagenet': """
        ResNet-50 23.9
        ResNeXt-50 22.2
        ResNet-101 22.0
        ResNeXt-101 21.2
        ResNet-50,noshortcuts 31.2
        ResNeXt-50,noshortcuts 26.1
    """,
    'senet_imagenet': """
        50 24.80 / 7.48
        SE-ResNet-50 23.29 / 6.62
        101 23.17 / 6.52
        SE-ResNet-101 22.38 / 6.07
    """,
    'torchvision_imagenet': """
        resnet18 69.758
        resnet34 73.314
        resnet50 76.130
        resnet101 77.374
        resnet152 78.312
        resnext50_32x4d 77.618
        wide_resnet50_2 78.468
    """,
    'rsb_imagenet': 'A1 80.38\n A2 79.83\n A3 78.05',
    'torchvision_v2_imagenet': """
        resnet50 80.858
        resnet101 81.886
        resnet152 82.284
        resnext50_32x4d 81.198
    """,
    'timm_ra4_imagenet': """
        resnet34 78.97
        resnetv2_34 79.07
        resnet18d 76.01
        resnetv2_18d 76.06
        resnetv2_18 75.36
    """,
    'fawaz2019': """
        ItalyPowerDemand 96.3 +- 0.4
        GunPoint 99.1 +- 0.7
        ArrowHead 84.5 +- 1.2
        OSULeaf 97.9 +- 0.8
    """,
}


def test_every_table_stands_in_both():
    assert SECOND.keys() == TABLES.keys()


@pytest.mark.parametrize('key', SECOND)
def test_published_values(key):
    lines = [line.split() for line in SECOND[key].strip().splitlines()]
    rows = TABLES[key].rows
    assert len(lines) == len(rows)
    for (name, figure, *more), row in zip(lines, rows, strict=True):
        plain = row.name.replace(' ', '').replace('constantscaling', '').replace('gating', '')
        for part in name.split(','):
            assert part in plain, (name, row.name)
        assert row.failed == (figure == 'fail'), row.name
        expected = None if figure in ('fail', '-') else float(figure)
        assert row.value == expected, row.name
        kinds = dict(zip(more[::2], map(float, more[1::2]), strict=True))
        assert (row.spread, row.top5) == (kinds.get('+-'), kinds.get('/')), row.name
