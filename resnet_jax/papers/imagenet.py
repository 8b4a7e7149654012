"""Published tables on ImageNet, in the form of cifar.py."""

from resnet_jax.papers.table import PublishedRow, PublishedTable

IMAGENET: dict[str, PublishedTable] = {
    'he2015_imagenet': PublishedTable(
        'he2015',
        'ImageNet validation, 10 crops, tables 2 to 4',
        'imagenet',
        (
            PublishedRow('plain-18', 'plain18', {}, 27.94),
            PublishedRow('ResNet-18', 'resnet18', {'shortcut': 'zero_pad'}, 27.88),
            PublishedRow('plain-34', 'plain34', {}, 28.54, top5=10.02),
            PublishedRow('ResNet-34 A', 'resnet34', {'shortcut': 'zero_pad'}, 25.03, top5=7.76),
            PublishedRow('ResNet-34 B', 'resnet34', {}, 24.52, top5=7.46),
            PublishedRow(
                'ResNet-34 C', 'resnet34', {'shortcut': 'projection_all'}, 24.19, top5=7.40
            ),
            PublishedRow('ResNet-50', 'resnet50_v1', {}, 22.85, top5=6.71),
            PublishedRow('ResNet-101', 'resnet101_v1', {}, 21.75, top5=6.05),
            PublishedRow('ResNet-152', 'resnet152_v1', {}, 21.43, top5=5.71),
        ),
    ),
    'he2015_imagenet_one_crop': PublishedTable(
        'he2015',
        "ImageNet validation, one crop, the authors' release",
        'imagenet',
        (
            PublishedRow('ResNet-50', 'resnet50_v1', {}, 24.7, top5=7.8),
            PublishedRow('ResNet-101', 'resnet101_v1', {}, 23.6, top5=7.1),
            PublishedRow('ResNet-152', 'resnet152_v1', {}, 23.0, top5=6.7),
        ),
    ),
    'resnext_imagenet': PublishedTable(
        'resnext',
        'cardinality at equal cost, table 3, and without shortcuts, section 5.1',
        'imagenet',
        (
            PublishedRow('ResNet-50', 'resnet50', {}, 23.9, parameters=25_557_032),
            PublishedRow('ResNeXt-50, 32x4d', 'resnext50_32x4d', {}, 22.2, parameters=25_028_904),
            PublishedRow('ResNet-101', 'resnet101', {}, 22.0, parameters=44_549_160),
            PublishedRow('ResNeXt-101, 32x4d', 'resnext101_32x4d', {}, 21.2),
            PublishedRow('ResNet-50, no shortcuts', 'resnet50', {'shortcut': 'none'}, 31.2),
            PublishedRow('ResNeXt-50, no shortcuts', 'resnext50_32x4d', {'shortcut': 'none'}, 26.1),
        ),
    ),
    'senet_imagenet': PublishedTable(
        'senet',
        "squeeze-and-excitation, table 2, the authors' re-implementation",
        'imagenet',
        (
            PublishedRow('ResNet-50', 'resnet50', {}, 24.80, top5=7.48),
            PublishedRow('SE-ResNet-50', 'se_resnet50', {}, 23.29, top5=6.62),
            PublishedRow('ResNet-101', 'resnet101', {}, 23.17, top5=6.52),
            PublishedRow('SE-ResNet-101', 'se_resnet101', {}, 22.38, top5=6.07),
        ),
    ),
    'torchvision_imagenet': PublishedTable(
        'torchvision',
        'released weights, one crop at 224',
        'imagenet',
        tuple(
            PublishedRow(name, name, {}, accuracy, parameters=parameters)
            for name, accuracy, parameters in (
                ('resnet18', 69.758, 11_689_512),
                ('resnet34', 73.314, 21_797_672),
                ('resnet50', 76.130, 25_557_032),
                ('resnet101', 77.374, 44_549_160),
                ('resnet152', 78.312, 60_192_808),
                ('resnext50_32x4d', 77.618, 25_028_904),
                ('wide_resnet50_2', 78.468, 68_883_240),
            )
        ),
        metric='top-1 accuracy, %',
    ),
    'rsb_imagenet': PublishedTable(
        'rsb',
        'training procedures of ResNet-50, tested at 224 (A1 600, A2 300, A3 100 epochs), table 2',
        'imagenet',
        (
            PublishedRow('A1', 'resnet50', {}, 80.38),
            PublishedRow('A2', 'resnet50', {}, 79.83),
            PublishedRow('A3', 'resnet50', {}, 78.05),
        ),
        metric='top-1 accuracy, %',
    ),
    'torchvision_v2_imagenet': PublishedTable(
        'torchvision_v2',
        'released weights (IMAGENET1K_V2), trained at 176, tested at 224',
        'imagenet',
        tuple(
            PublishedRow(name, name, {}, accuracy)
            for name, accuracy in (
                ('resnet50', 80.858),
                ('resnet101', 81.886),
                ('resnet152', 82.284),
                ('resnext50_32x4d', 81.198),
            )
        ),
        metric='top-1 accuracy, %',
    ),
    'timm_ra4_imagenet': PublishedTable(
        'timm',
        'original and pre-activation under one recipe (ra4), tested at 288',
        'imagenet',
        tuple(
            PublishedRow(name, name, {}, accuracy)
            for name, accuracy in (
                ('resnet34', 78.97),
                ('resnetv2_34', 79.07),
                ('resnet18d', 76.01),
                ('resnetv2_18d', 76.06),
                ('resnetv2_18', 75.36),
            )
        ),
        metric='top-1 accuracy, %',
    ),
}
