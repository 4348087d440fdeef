"""The layers of well-known networks as cases of the conv family: what `fastvision bench conv --sweep` goes through.

Every layer is followed by the ReLU, and the pool if there is one, that the network has behind it. BatchNorm is taken to
be folded, and ReLU to come before a residual is added.
"""

from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from fastvision.bench.conv_cases import ConvCase, Mode

BATCHES = (1, 8)
# Of one call; above, only batch 1 is swept. More images would not tell more, and take most of the time.
MOST_FLOPS = 8e9
_MODES: tuple[Mode, ...] = ("infer", "train")


def kind(case: ConvCase) -> str:
    """The kind of layer, by which a sweep is summed up: 'depthwise', '1x1', '3x3', '3x3 + max-pool', ..."""
    if case.pool == "avg":
        return "avg-pool"
    if case.is_depthwise:
        return "depthwise"
    if case.kernel_size > 3:
        return "5x5 to 11x11"
    size = f"{case.kernel_size}x{case.kernel_size}"
    if case.pool == "max":
        return f"{size} + max-pool"
    if case.conv_size == 1:
        return "one pixel"
    if case.groups > 1:
        return "grouped"
    if case.out_channels <= 4:
        return "few outputs"
    return f"{size} stride 2" if case.stride == 2 else size


def _conv(
    origin: str, in_channels: int, out_channels: int, size: int, kernel_size: int, stride: int = 1, **options: object
) -> ConvCase:
    """A layer without a pool whose padding keeps the size (but for the stride), unless options say otherwise."""
    settings = {"batch": 1, "padding": kernel_size // 2, "pool": "none", "origin": origin, "modes": _MODES} | options
    return ConvCase(
        in_channels=in_channels,
        out_channels=out_channels,
        size=size,
        kernel_size=kernel_size,
        stride=stride,
        **settings,
    )


_MAX_2 = {"pool": "max"}
_MAX_3 = {"pool": "max", "pool_kernel_size": 3}
_AVG_2 = {"pool": "avg"}


def _vgg() -> Iterable[ConvCase]:
    """VGG-11 and VGG-16: 3x3 with padding 1, the last layer of each size in front of a pool."""
    stages = (
        (224, ((3, 64),), ((3, 64), (64, 64))),
        (112, ((64, 128),), ((64, 128), (128, 128))),
        (56, ((128, 256), (256, 256)), ((256, 256),)),
        (28, ((256, 512), (512, 512)), ((512, 512),)),
        (14, ((512, 512),), ((512, 512),)),
    )
    for size, inner, last in stages:
        yield from (_conv("VGG", *channels, size, 3) for channels in inner)
        yield from (_conv("VGG", *channels, size, 3, **_MAX_2) for channels in last)


def _resnet() -> Iterable[ConvCase]:
    """ResNet-18 and ResNet-50, whose strides are in the 3x3 convolutions."""
    yield _conv("ResNet stem", 3, 64, 224, 7, 2, **_MAX_3, pool_padding=1)
    yield from (_conv("ResNet", width, width, size, 3) for width, size in ((64, 56), (128, 28), (256, 14), (512, 7)))
    for width, size in ((64, 56), (128, 28), (256, 14)):
        yield _conv("ResNet", width, 2 * width, size, 3, 2)
        yield _conv("ResNet", 2 * width, 2 * width, size, 3, 2)
        yield _conv("ResNet", width, 2 * width, size, 1, 2)
        yield _conv("ResNet", 4 * width, 8 * width, size, 1, 2)
        yield _conv("ResNet", 4 * width, 2 * width, size, 1)
    yield _conv("ResNet", 64, 64, 56, 1)
    for width, size in ((64, 56), (128, 28), (256, 14), (512, 7)):
        yield _conv("ResNet", width, 4 * width, size, 1)
        yield _conv("ResNet", 4 * width, width, size, 1)


def _alexnet() -> Iterable[ConvCase]:
    yield _conv("AlexNet", 3, 64, 224, 11, 4, padding=2, **_MAX_3)
    yield _conv("AlexNet", 64, 192, 27, 5, **_MAX_3)
    yield _conv("AlexNet", 192, 384, 13, 3)
    yield _conv("AlexNet", 384, 256, 13, 3)
    yield _conv("AlexNet", 256, 256, 13, 3, **_MAX_3)


def _squeezenet() -> Iterable[ConvCase]:
    """SqueezeNet 1.1: of each fire module the layer that squeezes and the two that expand."""
    yield _conv("SqueezeNet", 3, 64, 224, 3, 2, padding=0, **_MAX_3)
    fires = (
        (55, (64, 128), 16, 64),
        (27, (128, 256), 32, 128),
        (13, (256, 384), 48, 192),
        (13, (384, 512), 64, 256),
    )
    for size, inputs, squeezed, expanded in fires:
        yield from (_conv("SqueezeNet fire", channels, squeezed, size, 1) for channels in inputs)
        yield from (_conv("SqueezeNet fire", squeezed, expanded, size, kernel) for kernel in (1, 3))
    yield _conv("SqueezeNet", 512, 1000, 13, 1, pool="avg", pool_kernel_size=13, pool_stride=13)


def _mobilenet() -> Iterable[ConvCase]:
    """MobileNet: depthwise 3x3 and 1x1 in turns."""
    yield _conv("MobileNet", 3, 32, 224, 3, 2)
    depthwise = ((32, 112, 1), (64, 112, 2), (128, 56, 1), (128, 56, 2), (256, 28, 1))
    depthwise += ((256, 28, 2), (512, 14, 1), (512, 14, 2), (1024, 7, 1))
    for width, size, stride in depthwise:
        yield _conv("MobileNet", width, width, size, 3, stride, groups=width)
    pointwise = ((32, 64, 112), (64, 128, 56), (128, 128, 56), (128, 256, 28), (256, 256, 28))
    pointwise += ((256, 512, 14), (512, 512, 14), (512, 1024, 7), (1024, 1024, 7))
    yield from (_conv("MobileNet", *channels, size, 1) for *channels, size in pointwise)


def _recognition() -> Iterable[ConvCase]:
    """The recognition CNN on 28x28 grey images (padded), and on 111x111 and 224x224 colour images."""
    for first_channels, padding, sizes in ((1, 1, (28, 14, 7)), (3, 0, (111, 54, 26)), (3, 0, (224, 111, 54))):
        for pool in (_MAX_2, _AVG_2):
            blocks = zip(((first_channels, 32), (32, 64), (64, 128)), sizes, strict=True)
            yield from (
                _conv("recognition CNN", *channels, size, 3, padding=padding, **pool) for channels, size in blocks
            )


def _lenet() -> Iterable[ConvCase]:
    yield _conv("LeNet", 1, 6, 28, 5, **_AVG_2)
    yield _conv("LeNet", 6, 16, 14, 5, padding=0, **_AVG_2)


def _variants(layers: Iterable[ConvCase]) -> tuple[ConvCase, ...]:
    """The layers in both batches and memory formats."""
    settings = product(BATCHES, (False, True), tuple(layers))
    cases = (replace(layer, batch=batch, channels_last=last) for batch, last, layer in settings)
    return tuple(case for case in cases if case.batch == 1 or case.flops("infer") <= MOST_FLOPS)


def _grouped() -> Iterable[ConvCase]:
    """ResNeXt-50 32x4d, ShuffleNet with 3 groups, ConvNeXt-T."""
    for width, size in ((128, 56), (256, 28), (512, 14)):
        yield _conv("ResNeXt", width, width, size, 3, groups=32)
        yield _conv("ResNeXt", 2 * width, 2 * width, size, 3, 2, groups=32)
    for width, size in ((240, 28), (480, 14), (960, 7)):
        yield _conv("ShuffleNet", width, width // 4, size, 1, groups=3)
        yield _conv("ShuffleNet", width // 4, width, size, 1, groups=3)
    for width, size in ((96, 56), (192, 28), (384, 14), (768, 7)):
        yield _conv("ConvNeXt", width, width, size, 7, groups=width)


def _generated() -> Iterable[ConvCase]:
    """Layers that end in an image: of SRCNN, a decoder, CycleGAN and DCGAN's discriminator."""
    yield _conv("SRCNN", 1, 64, 64, 9)
    yield _conv("SRCNN", 32, 1, 64, 5)
    yield from (_conv("decoder", 64, 3, size, 3) for size in (32, 64, 128))
    yield _conv("CycleGAN", 64, 3, 128, 7)
    yield _conv("DCGAN", 3, 64, 64, 4, 2, padding=1)


def _one_pixel() -> Iterable[ConvCase]:
    """Squeeze-and-excitation in MobileNetV3, EfficientNet-B0, and ResNet-50's last layers on 32x32 images."""
    for width, squeezed in ((240, 64), (672, 168), (960, 240), (1152, 48)):
        yield _conv("squeeze-and-excitation", width, squeezed, 1, 1)
        yield _conv("squeeze-and-excitation", squeezed, width, 1, 1)
    yield _conv("ResNet on 32x32", 2048, 512, 1, 1)
    yield _conv("ResNet on 32x32", 512, 512, 1, 3)
    yield _conv("ResNet on 32x32", 512, 512, 2, 3, 2)


# One tuple for each network, or kind of network.
SWEEP_CASES = tuple(
    map(
        _variants,
        (
            _recognition(),
            _lenet(),
            _vgg(),
            _resnet(),
            _alexnet(),
            _squeezenet(),
            _mobilenet(),
            _grouped(),
            _generated(),
            _one_pixel(),
        ),
    )
)
