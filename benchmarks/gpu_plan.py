"""What gpu.py measures: how large everything is, on an accelerator and to try it on a CPU."""

import dataclasses

from pipeline import CIFAR_IMAGES

# name -> flags of XLA. None of them changes what is computed, but for the order of sums.
VARIANTS = {
    'as it is': '',
    'latency hiding scheduler': '--xla_gpu_enable_latency_hiding_scheduler=true',
    'autotune level 0': '--xla_gpu_autotune_level=0',
    'convolutions NHWC': '--xla_gpu_force_conv_nhwc=true',
    'convolutions NCHW': '--xla_gpu_force_conv_nchw=true',
    'no Triton products': '--xla_gpu_enable_triton_gemm=false',
    'no command buffers': '--xla_gpu_enable_command_buffer=',
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How large everything is.

    Attributes:
      model, size, classes, dtype: of the sections resnet and variants.
      batches: of the section resnet; the first one of every peer first, then the others.
      peers: keys of `PEERS`; `bare` is ours.
      cifar: (model, dtype) of the epochs, `batch` images a step.
      dispatches: numbers of steps in a call, for the first net of `cifar`.
      seeds: numbers of runs in a program, likewise.
      batch, epoch: of the section cifar; images in a step and in an epoch.
      variants: keys of `VARIANTS`.
      products: rows of the square matrices whose product is timed.
      copied: bytes that are copied.
      seconds: how long a repetition should take.
      repetitions: of each figure.
    """

    model: str = 'resnet50'
    size: int = 224
    classes: int = 1000
    dtype: str = 'bfloat16'
    batches: tuple[int, ...] = (256, 64, 128, 512)
    peers: tuple[str, ...] = ('bare', 'torch', 'flax', 'torch-compile')
    cifar: tuple[tuple[str, str], ...] = (
        ('cifar_resnet20', 'float32'),
        ('cifar_resnet20', 'bfloat16'),
        ('cifar_resnet56', 'float32'),
        ('cifar_resnet110', 'float32'),
    )
    dispatches: tuple[int, ...] = (1, 10, 50)
    seeds: tuple[int, ...] = (1, 4, 16)
    batch: int = 128
    epoch: int = CIFAR_IMAGES
    variants: tuple[str, ...] = tuple(VARIANTS)
    products: int = 8192
    copied: int = 2**32
    seconds: float = 0.5
    repetitions: int = 5


QUICK = Plan(
    model='cifar_resnet8',
    size=8,
    classes=10,
    batches=(4, 2),
    peers=('bare', 'flax', 'torch'),
    cifar=(('cifar_resnet8', 'float32'),),
    dispatches=(1, 2),
    seeds=(1, 2),
    batch=8,
    epoch=16,
    variants=('as it is', 'autotune level 0'),
    products=256,
    copied=2**22,
    seconds=0.0,
    repetitions=2,
)
