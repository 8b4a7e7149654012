"""Networks for semantic segmentation."""

import flax.linen as nn
from jaxtyping import Array, Float

from resnet_jax.dense.backbone import Backbone
from resnet_jax.dense.heads import HEADS, FCNHead
from resnet_jax.dense.resizing import resize_bilinear
from resnet_jax.errors import InputError, Range, check_number, choose


class Segmenter(nn.Module):
    """A class for every pixel.

    `apply(variables, images, train=False)` returns {'out': [N, H, W, classes]}, float32 logits at
    the size of the images, and with `aux` also 'aux', of a second head that helps to train.

    Parameter paths: `backbone`, `head`, `aux_head`.

    Attributes:
      backbone: the features; the head takes them all or the last.
      head: a key of `HEADS`.
      num_classes: number of logits.
      head_width: channels inside of the head; 0: what its paper has.
      aux: the feature of the backbone that a second head takes; '': there is none.
    """

    backbone: Backbone
    head: str
    num_classes: int
    head_width: int = 0
    aux: str = ''

    def __post_init__(self) -> None:
        choose('head', self.head, HEADS)
        check_number('head_width', self.head_width, Range(0, 2**16, whole=True))
        if self.aux and self.aux not in self.backbone.features:
            raise InputError(
                f'aux {self.aux!r} is none of the features {", ".join(self.backbone.features)}'
            )
        if self.head != 'unet' and set(self.backbone.features) == {self.aux}:
            raise InputError(
                f'features must have another stage than that of aux, {self.aux}, for the main head'
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, images: Float[Array, 'n h w c'], train: bool) -> dict[str, Array]:
        """Logits of normalised images; see the class."""
        features = self.backbone(images, train)
        conv, norm = self.backbone.net.makers()
        main = {k: v for k, v in features.items() if self.head == 'unet' or k != self.aux}
        zero = self.backbone.net.zero_init_head
        about = self.num_classes, self.head_width, conv, norm, zero
        found = {'out': HEADS[self.head](*about, name='head')(main, train)}
        if self.aux:
            second = FCNHead(*about, name='aux_head')
            found['aux'] = second({self.aux: features[self.aux]}, train)
        size = images.shape[1], images.shape[2]
        return {
            name: resize_bilinear(x.astype(self.backbone.net.output_dtype), size)
            for name, x in found.items()
        }
