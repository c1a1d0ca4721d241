"""The ONNX stage `image_encoder`: an 8-bit RGB image to a feature map, BatchNorm folded.

Input `rgb` (H, W, 3) uint8, height and width in multiples of 32 for the U-Net; output `image_features` (1, C,
H, W).
"""

from __future__ import annotations

import numpy as np
import onnx

from zerograsp_edge.export.folding import Weights
from zerograsp_edge.export.graph import GraphBuilder
from zerograsp_edge.export.network.config import NetworkConfig

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
IMAGE_MULTIPLE = {"unet_resnext50_32x4d": 32}  # height and width must be multiples of this; 1 for the others
TORCH_BN_EPS = 1e-5
RESNEXT50_BLOCKS = (3, 4, 6, 3)
RESNEXT50_GROUPS = 32


def image_encoder(state: dict[str, np.ndarray], config: NetworkConfig) -> onnx.ModelProto:
    """The stage for any `config.image_encoder`; `state` has the network's entries without `model.`."""
    g = GraphBuilder("image_encoder")
    rgb = g.input("rgb", "uint8", ["H", "W", 3])
    x = g.add("Transpose", g.add("Cast", rgb, to=onnx.TensorProto.FLOAT), perm=[2, 0, 1])
    x = g.add("Unsqueeze", x, g.constant(np.array([0], np.int64)))
    x = g.add("Mul", x, g.constant((1.0 / (255.0 * STD)).reshape(1, 3, 1, 1)))
    x = g.add("Sub", x, g.constant((MEAN / STD).reshape(1, 3, 1, 1)))
    weights = Weights(state, "backbone.")
    if config.image_encoder == "unet_resnext50_32x4d":
        x = _unet(g, x, weights)
    elif config.image_encoder == "small":
        x = _small(g, x, weights)
    g.output(x, "image_features", "float32", [1, config.image_channels, "H", "W"])
    return g.model()


def _conv(
    g: GraphBuilder, x: str, weights: Weights, conv: str, bn: str | None, *, stride: int = 1, groups: int = 1
) -> str:
    """Convolution `conv` with "same" padding and, folded in, the BatchNorm `bn`."""
    w = weights[f"{conv}.weight"]
    if bn is None:
        b = weights[f"{conv}.bias"]
    else:
        scale, b = weights.batch_norm(bn, TORCH_BN_EPS)
        w = w * scale[:, None, None, None]
    pads = [w.shape[2] // 2, w.shape[3] // 2] * 2
    return g.add(
        "Conv",
        x,
        g.constant(w),
        g.constant(b),
        kernel_shape=list(w.shape[2:]),
        pads=pads,
        strides=[stride] * 2,
        group=groups,
    )


def _unet(g: GraphBuilder, x: str, weights: Weights) -> str:
    """U-Net with a ResNeXt-50 32x4d encoder, as segmentation_models_pytorch names its modules."""
    encoder, decoder = weights.scope("encoder"), weights.scope("decoder")
    x = g.add("Relu", _conv(g, x, encoder, "conv1", "bn1", stride=2))
    skips = [x]
    x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for layer, count in enumerate(RESNEXT50_BLOCKS, start=1):
        for i in range(count):
            block = encoder.scope(f"layer{layer}.{i}")
            stride = 2 if i == 0 and layer > 1 else 1
            shortcut = x
            if "downsample.0.weight" in block:
                shortcut = _conv(g, x, block, "downsample.0", "downsample.1", stride=stride)
            y = g.add("Relu", _conv(g, x, block, "conv1", "bn1"))
            y = g.add("Relu", _conv(g, y, block, "conv2", "bn2", stride=stride, groups=RESNEXT50_GROUPS))
            x = g.add("Relu", g.add("Add", _conv(g, y, block, "conv3", "bn3"), shortcut))
        skips.append(x)
    skips.pop()  # the deepest feature is the decoder's input
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    for i in range(5):
        block = decoder.scope(f"blocks.{i}")
        x = g.add(
            "Resize",
            x,
            "",
            scales,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
        if skips:
            x = g.add("Concat", x, skips.pop(), axis=1)
        x = g.add("Relu", _conv(g, x, block, "conv1.0", "conv1.1"))
        x = g.add("Relu", _conv(g, x, block, "conv2.0", "conv2.1"))
    return _conv(g, x, weights, "segmentation_head.0", None)


def _small(g: GraphBuilder, image: str, weights: Weights) -> str:
    """Three convolutions at a quarter of the resolution, upsampled."""
    from zerograsp_edge.export.stages import gelu

    layers = weights.scope("layers")
    x = gelu(g, _conv(g, image, layers, "0", "1", stride=2))
    x = gelu(g, _conv(g, x, layers, "3", "4", stride=2))
    x = _conv(g, x, layers, "6", None)
    shape = g.add("Concat", *(_dim(g, x, 0), _dim(g, x, 1), _dim(g, image, 2), _dim(g, image, 3)), axis=0)
    return g.add("Resize", x, "", "", shape, mode="linear", coordinate_transformation_mode="half_pixel")


def _dim(g: GraphBuilder, x: str, axis: int) -> str:
    return g.add("Gather", g.add("Shape", x), g.constant(np.array([axis], np.int64)))
