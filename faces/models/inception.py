"""Inception-ResNet v1 for 160x160 faces, as code, for files that hold its weights only.

After Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections on
Learning" (2016), in the variant that FaceNet's published weights were trained with.
"""

from __future__ import annotations

from faces.models.layers import Layer, Network

EPSILON = 1e-3
CROP_SIZE = 160


class _Builder:
    """Collects layers; every method returns the name of the layer whose output it stands for."""

    def __init__(self) -> None:
        self.layers = [Layer("input", "input")]

    def _add(self, layer: Layer) -> str:
        self.layers.append(layer)
        return layer.name

    def conv(
        self,
        source: str,
        name: str,
        filters: int,
        window: tuple[int, int] = (1, 1),
        stride: int = 1,
        *,
        same: bool = True,
    ) -> str:
        """Convolution without bias, batch normalisation without gamma, ReLU."""
        self._add(
            Layer(
                name,
                "conv",
                (source,),
                ("kernel",),
                filters=filters,
                window=window,
                strides=(stride, stride),
                same=same,
            )
        )
        weights = ("beta", "moving_mean", "moving_variance")
        norm = f"{name}_BatchNorm"
        self._add(Layer(norm, "norm", (name,), weights, epsilon=EPSILON))
        return self._add(Layer(f"{name}_Activation", "relu", (norm,)))

    def pool(self, source: str, name: str) -> str:
        return self._add(Layer(name, "maxpool", (source,), window=(3, 3), strides=(2, 2)))

    def concat(self, name: str, *sources: str) -> str:
        return self._add(Layer(name, "concat", sources))

    def residual(
        self, source: str, block: str, mixed: str, filters: int, scale: float, *, relu: bool = True
    ) -> str:
        """`source` plus `scale` times a 1x1 convolution of `mixed`."""
        up = f"{block}_Conv2d_1x1"
        self._add(Layer(up, "conv", (mixed,), ("kernel", "bias"), filters=filters, same=True))
        scaled = self._add(Layer(f"{block}_Scale", "scale", (up,), scale=scale))
        total = self._add(Layer(f"{block}_Add", "add", (source, scaled)))
        return self._add(Layer(f"{block}_Activation", "relu", (total,))) if relu else total

    def block35(self, x: str, block: str) -> str:
        a = self.conv(x, f"{block}_Branch_0_Conv2d_1x1", 32)
        b = self.conv(x, f"{block}_Branch_1_Conv2d_0a_1x1", 32)
        b = self.conv(b, f"{block}_Branch_1_Conv2d_0b_3x3", 32, (3, 3))
        c = self.conv(x, f"{block}_Branch_2_Conv2d_0a_1x1", 32)
        c = self.conv(c, f"{block}_Branch_2_Conv2d_0b_3x3", 32, (3, 3))
        c = self.conv(c, f"{block}_Branch_2_Conv2d_0c_3x3", 32, (3, 3))
        return self.residual(x, block, self.concat(f"{block}_Concatenate", a, b, c), 256, 0.17)

    def block17(self, x: str, block: str) -> str:
        a = self.conv(x, f"{block}_Branch_0_Conv2d_1x1", 128)
        b = self.conv(x, f"{block}_Branch_1_Conv2d_0a_1x1", 128)
        b = self.conv(b, f"{block}_Branch_1_Conv2d_0b_1x7", 128, (1, 7))
        b = self.conv(b, f"{block}_Branch_1_Conv2d_0c_7x1", 128, (7, 1))
        return self.residual(x, block, self.concat(f"{block}_Concatenate", a, b), 896, 0.1)

    def block8(self, x: str, block: str, scale: float, *, relu: bool = True) -> str:
        a = self.conv(x, f"{block}_Branch_0_Conv2d_1x1", 192)
        b = self.conv(x, f"{block}_Branch_1_Conv2d_0a_1x1", 192)
        b = self.conv(b, f"{block}_Branch_1_Conv2d_0b_1x3", 192, (1, 3))
        b = self.conv(b, f"{block}_Branch_1_Conv2d_0c_3x1", 192, (3, 1))
        mixed = self.concat(f"{block}_Concatenate", a, b)
        return self.residual(x, block, mixed, 1792, scale, relu=relu)


def inception_resnet_v1(dimensions: int) -> Network:
    """The network from (n, 160, 160, 3) RGB to (n, dimensions), not normalised."""
    net = _Builder()
    x = net.conv("input", "Conv2d_1a_3x3", 32, (3, 3), 2, same=False)
    x = net.conv(x, "Conv2d_2a_3x3", 32, (3, 3), same=False)
    x = net.conv(x, "Conv2d_2b_3x3", 64, (3, 3))
    x = net.pool(x, "MaxPool_3a_3x3")
    x = net.conv(x, "Conv2d_3b_1x1", 80, same=False)
    x = net.conv(x, "Conv2d_4a_3x3", 192, (3, 3), same=False)
    x = net.conv(x, "Conv2d_4b_3x3", 256, (3, 3), 2, same=False)
    for number in range(1, 6):
        x = net.block35(x, f"Block35_{number}")

    a = net.conv(x, "Mixed_6a_Branch_0_Conv2d_1a_3x3", 384, (3, 3), 2, same=False)
    b = net.conv(x, "Mixed_6a_Branch_1_Conv2d_0a_1x1", 192)
    b = net.conv(b, "Mixed_6a_Branch_1_Conv2d_0b_3x3", 192, (3, 3))
    b = net.conv(b, "Mixed_6a_Branch_1_Conv2d_1a_3x3", 256, (3, 3), 2, same=False)
    x = net.concat("Mixed_6a", a, b, net.pool(x, "Mixed_6a_Branch_2_MaxPool_1a_3x3"))
    for number in range(1, 11):
        x = net.block17(x, f"Block17_{number}")

    a = net.conv(x, "Mixed_7a_Branch_0_Conv2d_0a_1x1", 256)
    a = net.conv(a, "Mixed_7a_Branch_0_Conv2d_1a_3x3", 384, (3, 3), 2, same=False)
    b = net.conv(x, "Mixed_7a_Branch_1_Conv2d_0a_1x1", 256)
    b = net.conv(b, "Mixed_7a_Branch_1_Conv2d_1a_3x3", 256, (3, 3), 2, same=False)
    c = net.conv(x, "Mixed_7a_Branch_2_Conv2d_0a_1x1", 256)
    c = net.conv(c, "Mixed_7a_Branch_2_Conv2d_0b_3x3", 256, (3, 3))
    c = net.conv(c, "Mixed_7a_Branch_2_Conv2d_1a_3x3", 256, (3, 3), 2, same=False)
    x = net.concat("Mixed_7a", a, b, c, net.pool(x, "Mixed_7a_Branch_3_MaxPool_1a_3x3"))
    for number in range(1, 6):
        x = net.block8(x, f"Block8_{number}", 0.2)
    x = net.block8(x, "Block8_6", 1.0, relu=False)

    net.layers += [
        Layer("AvgPool", "avgpool", (x,)),
        Layer("Dropout", "pass", ("AvgPool",)),
        Layer("Bottleneck", "dense", ("Dropout",), ("kernel",), filters=dimensions),
        Layer(
            "Bottleneck_BatchNorm",
            "norm",
            ("Bottleneck",),
            ("beta", "moving_mean", "moving_variance"),
            epsilon=EPSILON,
        ),
    ]
    return Network(tuple(net.layers), "Bottleneck_BatchNorm")
