"""Stored counts of the dense networks, as `models/counts.py` has those of the others.

Parameters, and multiply-adds for one image of the row's size; `pytest tests/test_dense.py` compares
them with a trace. Of the networks that torchvision has, the multiply-adds are its published ones,
and for segmentation those of resizing, products of matrices here, besides.
"""

COUNTS: dict[str, tuple[int, int]] = {
    'fcn_resnet50': (35_322_218, 153_546_978_000),
    'fcn_resnet101': (54_314_346, 233_568_072_400),
    'deeplabv3_resnet50': (42_004_074, 179_552_411_088),
    'deeplabv3_resnet101': (60_996_202, 259_573_505_488),
    'pspnet_resnet50': (48_957_802, 193_607_424_720),
    'unet_resnet18': (14_276_245, 4_296_278_016),
    'retinanet_resnet50_fpn': (34_068_119, 151_540_437_248),
}
