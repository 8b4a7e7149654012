"""torchvision, also where its own operators are missing.

PyPI's torchvision is built for CUDA. Beside a PyTorch for CPUs its compiled operators, such as NMS,
are not found, and its import fails at declaring their shapes. Its networks need none of them.
"""

import pytest

torch = pytest.importorskip('torch')


def import_torchvision():
    """The package; skips the test without it."""
    real = torch.library.register_fake
    torch.library.register_fake = lambda op, *args, **kwargs: lambda function: function
    try:
        return pytest.importorskip('torchvision')
    finally:
        torch.library.register_fake = real


def randomized(net):
    """The network in float64 and evaluation, with random norms and statistics."""
    generator = torch.Generator().manual_seed(0)

    def draw(x):
        return torch.rand(x.shape, generator=generator, dtype=x.dtype)

    net = net.double().eval()
    for name, x in net.named_parameters():
        if x.ndim == 1:
            x.data = draw(x) + 0.5 if name.endswith('weight') else 0.4 * draw(x) - 0.2
    for name, x in net.named_buffers():
        if 'running' in name:
            x.copy_(draw(x) + 0.5 if name.endswith('var') else 0.6 * draw(x) - 0.3)
    return net
