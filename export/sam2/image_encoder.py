"""The ONNX stage `image_encoder` of SAM 2: Hiera (Ryali et al., 2023) and its feature pyramid, channels last.

Input `rgb` (S, S, 3) float32, 0 to 255, red first, resized by the runtime. Outputs in the order that the mask decoder
works in, cell by cell of the embedding's grid, h = w = S / 16:

    image_embedding (h * w, C)
    detail_8        (h * w, 4, C / 4)    the 2x2 pixels of stride 8 in each cell, row by row
    detail_4        (h * w, 16, C / 8)   the 4x4 of stride 4: 2x2 blocks of 2x2, each row by row

Equal to `SAM2Base.forward_image` plus `no_mem_embed`, in another order. Where a level of the pyramid takes nothing
from above it, its two 1x1 convolutions, the pyramid's and the decoder's, are one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from zerograsp_edge.export.graph import GraphBuilder
from zerograsp_edge.export.image_encoder import MEAN, STD
from zerograsp_edge.export.stages import gelu, linear


def image_encoder(network: Any) -> onnx.ModelProto:
    """The stage for a `sam2.modeling.sam2_base.SAM2Base`.

    Raises:
        ValueError: the network has a part that this graph does not know.
    """
    _check(network)
    size = int(network.image_size)
    g = GraphBuilder("image_encoder")
    x = g.add("Transpose", g.input("rgb", "float32", [size, size, 3]), perm=[2, 0, 1])
    x = g.add("Unsqueeze", x, g.constant(np.array([0], np.int64)))
    x = g.add("Mul", x, g.constant((1.0 / (255.0 * STD)).reshape(1, 3, 1, 1)))
    x = g.add("Sub", x, g.constant((MEAN / STD).reshape(1, 3, 1, 1)))
    levels = _trunk(g, x, network.image_encoder.trunk, size)
    pyramid = _pyramid(g, levels, network)
    cells = size // 16
    for level, (name, blocks) in enumerate((("detail_4", 2), ("detail_8", 1))):
        y, channels = pyramid[level]
        g.output(_by_cell(g, y, cells, blocks, channels), name, "float32", [cells**2, 4**blocks, channels])
    y, channels = pyramid[2]
    y = g.add("Reshape", y, g.constant(np.array([cells**2, channels], np.int64)))
    if network.directly_add_no_mem_embed:
        y = g.add("Add", y, g.constant(array(network.no_mem_embed).reshape(1, channels)))
    g.output(y, "image_embedding", "float32", [cells**2, channels])
    return g.model()


def array(tensor: Any) -> np.ndarray:
    """A parameter as float64: what is folded is rounded once, at the end."""
    return tensor.detach().cpu().numpy().astype(np.float64)


def layer_norm(g: GraphBuilder, x: str, norm: Any) -> str:
    """Over the last axis."""
    return g.add(
        "LayerNormalization", x, g.constant(array(norm.weight)), g.constant(array(norm.bias)), axis=-1, epsilon=norm.eps
    )  # fmt: skip


def dense(g: GraphBuilder, x: str, layer: Any) -> str:
    """An `nn.Linear` over the last axis."""
    return linear(g, x, array(layer.weight).T, array(layer.bias))


def reshape(g: GraphBuilder, x: str, *shape: int) -> str:
    return g.add("Reshape", x, g.constant(np.array(shape, np.int64)))


def _check(network: Any) -> None:
    neck = network.image_encoder.neck
    unknown = {
        "a level left out other than the coarsest": network.image_encoder.scalp != 1,
        "another number of levels": len(neck.convs) != 4 or network.num_feature_levels != 3,
        "interpolation other than nearest": neck.fpn_interp_model != "nearest",
        "fusion other than a sum": neck.fuse_type != "sum",
        "no high resolution features": not network.use_high_res_features_in_sam,
        "detail levels that take from above": bool({0, 1} & set(neck.fpn_top_down_levels)),
        "an image size that is no multiple of 32": network.image_size % 32 != 0,
    }
    if found := [what for what, present in unknown.items() if present]:
        raise ValueError(f"expected SAM 2's published layout, got {', '.join(found)}")


def _trunk(g: GraphBuilder, image: str, trunk: Any, size: int) -> list[tuple[str, int, int]]:
    """Feature maps (1, n, n, C) at the end of every stage, finest first, with their n and C."""
    conv = trunk.patch_embed.proj
    x = g.add(
        "Conv", image, g.constant(array(conv.weight)), g.constant(array(conv.bias)),
        kernel_shape=list(conv.kernel_size), strides=list(conv.stride), pads=list(conv.padding) * 2,
    )  # fmt: skip
    x = g.add("Transpose", x, perm=[0, 2, 3, 1])
    side = size // conv.stride[0]
    # Pictures have one size: the bicubic interpolation of the positions is done here.
    x = g.add("Add", x, g.constant(array(trunk._get_pos_embed((side, side)))))
    levels = []
    for i, block in enumerate(trunk.blocks):
        x, side = _block(g, x, side, block)
        if i in trunk.stage_ends:
            levels.append((x, side, block.dim_out))
    return levels


def _block(g: GraphBuilder, x: str, side: int, block: Any) -> tuple[str, int]:
    """A multi-scale block on (1, n, n, C); its output, and the n of that."""
    stride = block.q_stride[0] if block.q_stride else 1
    normed = layer_norm(g, x, block.norm1)
    shortcut = x
    if block.dim != block.dim_out:
        shortcut = _pool(g, dense(g, normed, block.proj), stride)
    window = block.window_size or side
    padded = -(-side // window) * window
    y = _windows(g, normed, side, padded, window, block.dim)
    y = _attention(g, y, block.attn, window, stride)
    side //= stride
    y = _unwindows(g, y, side, padded // stride, window // stride, block.dim_out)
    x = g.add("Add", shortcut, y)
    hidden, out = block.mlp.layers
    y = dense(g, gelu(g, dense(g, layer_norm(g, x, block.norm2), hidden)), out)
    return g.add("Add", x, y), side


def _windows(g: GraphBuilder, x: str, side: int, padded: int, window: int, channels: int) -> str:
    """(1, n, n, C) in windows (windows, window^2, C), with zeros where the last ones reach beyond the picture."""
    if padded != side:
        pads = np.array([0, 0, 0, 0, 0, padded - side, padded - side, 0], np.int64)
        x = g.add("Pad", x, g.constant(pads))
    count = padded // window
    if count == 1:
        return reshape(g, x, 1, window * window, channels)
    x = g.add("Transpose", reshape(g, x, count, window, count, window, channels), perm=[0, 2, 1, 3, 4])
    return reshape(g, x, count * count, window * window, channels)


def _unwindows(g: GraphBuilder, x: str, side: int, padded: int, window: int, channels: int) -> str:
    count = padded // window
    if count > 1:
        x = g.add("Transpose", reshape(g, x, count, count, window, window, channels), perm=[0, 2, 1, 3, 4])
    x = reshape(g, x, 1, padded, padded, channels)
    if padded == side:
        return x
    begin, end, axes = ([0, 0], [side, side], [1, 2])
    return g.add("Slice", x, *(g.constant(np.array(v, np.int64)) for v in (begin, end, axes)))


def _pool(g: GraphBuilder, x: str, stride: int) -> str:
    """Maximum over stride x stride pixels of (n, h, w, C)."""
    if stride == 1:
        return x
    x = g.add("Transpose", x, perm=[0, 3, 1, 2])
    x = g.add("MaxPool", x, kernel_shape=[stride] * 2, strides=[stride] * 2)
    return g.add("Transpose", x, perm=[0, 2, 3, 1])


def _attention(g: GraphBuilder, x: str, attention: Any, window: int, stride: int) -> str:
    """Attention within windows (n, window^2, C), queries pooled by `stride`; (n, (window / stride)^2, C')."""
    channels, heads = attention.dim_out, attention.num_heads
    weight, bias = array(attention.qkv.weight).T, array(attention.qkv.bias)
    # The queries' scale is positive: it may go before the pooling, into the weights.
    scale = np.ones(3 * channels)
    scale[:channels] = (channels // heads) ** -0.5
    qkv = linear(g, x, weight * scale, bias * scale)
    q, k, v = g.add("Split", qkv, g.constant(np.array([channels] * 3, np.int64)), axis=-1, outputs=3)
    queries = (window // stride) ** 2
    if stride > 1:
        q = _pool(g, reshape(g, q, -1, window, window, channels), stride)
        q = reshape(g, q, -1, queries, channels)
    return dense(g, attend(g, q, k, v, heads, channels, queries, window**2), attention.proj)


def attend(g: GraphBuilder, q: str, k: str, v: str, heads: int, channels: int, queries: int, keys: int) -> str:
    """Multi-head attention; q (n, queries, channels), scaled already, k and v (n, keys, channels).

    One of the n may be 1 where the others are not, and one of `queries` and `keys` -1: not known before it runs.
    """
    each = channels // heads
    q = g.add("Transpose", reshape(g, q, 0, queries, heads, each), perm=[0, 2, 1, 3])
    k = g.add("Transpose", reshape(g, k, 0, keys, heads, each), perm=[0, 2, 3, 1])
    v = g.add("Transpose", reshape(g, v, 0, keys, heads, each), perm=[0, 2, 1, 3])
    weights = g.add("Softmax", g.add("MatMul", q, k), axis=-1)
    x = g.add("Transpose", g.add("MatMul", weights, v), perm=[0, 2, 1, 3])
    return reshape(g, x, 0, queries, channels)


def _pyramid(g: GraphBuilder, levels: list[tuple[str, int, int]], network: Any) -> list[tuple[str, int]]:
    """The three finest levels (1, n, n, C) with their C, the two finest as the mask decoder takes them."""
    neck, decoder = network.image_encoder.neck, network.sam_mask_decoder
    convs = [neck.convs[len(levels) - 1 - i].conv for i in range(len(levels))]

    def lateral(level: int, after: Any = None) -> tuple[str, int]:
        weight, bias = (array(p) for p in (convs[level].weight, convs[level].bias))
        weight = weight[:, :, 0, 0]
        if after is not None:
            outer = array(after.weight)[:, :, 0, 0]
            weight, bias = outer @ weight, outer @ bias + array(after.bias)
        return linear(g, levels[level][0], weight.T, bias), len(bias)

    coarse, channels = lateral(2)
    if 2 in neck.fpn_top_down_levels:
        above = g.add("Transpose", lateral(3)[0], perm=[0, 3, 1, 2])
        above = g.add(
            "Resize", above, "", g.constant(np.array([1, 1, 2, 2], np.float32)),
            mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
        )  # fmt: skip
        coarse = g.add("Add", coarse, g.add("Transpose", above, perm=[0, 2, 3, 1]))
    return [lateral(0, decoder.conv_s0), lateral(1, decoder.conv_s1), (coarse, channels)]


def _by_cell(g: GraphBuilder, x: str, cells: int, blocks: int, channels: int) -> str:
    """(1, n, n, C) to (cells^2, 4^blocks, C): halved `blocks` times, each time row and column of the half."""
    halves = [2] * blocks
    x = reshape(g, x, cells, *halves, cells, *halves, channels)
    rows, columns = range(1, 1 + blocks), range(2 + blocks, 2 + 2 * blocks)
    inner = [axis for pair in zip(rows, columns, strict=True) for axis in pair]
    x = g.add("Transpose", x, perm=[0, 1 + blocks, *inner, 2 + 2 * blocks])
    return reshape(g, x, cells**2, 4**blocks, channels)
