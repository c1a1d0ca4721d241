"""The ONNX stages of a ZeroGrasp network: octree encoder and one decoder per depth.

Names of the graph inputs are the contract with `zerograsp_edge.runtime.pipeline`; shapes use N<d> for the
nodes of depth d, S<d> for its split nodes, V for the finest non-empty voxels, B for the objects.
"""

from __future__ import annotations

import numpy as np
import onnx

from zerograsp_edge.export.folding import BLOCK_EPS, OCNN_EPS, Weights
from zerograsp_edge.export.graph import GraphBuilder
from zerograsp_edge.export.network.config import NetworkConfig

LAYER_NORM_EPS = 1e-6


def residual_stage(g: GraphBuilder, x: str, neighbours: str, weights: Weights, blocks: int) -> str:
    """`blocks` residual blocks `resblks.<i>`; x (N, C) and neighbours (27, N) to (N, C')."""
    for i in range(blocks):
        block = weights.scope(f"resblks.{i}")
        wa, ba = block.linear_bn("conv1x1a", BLOCK_EPS)
        w3, b3 = block.conv("conv3x3")
        wb, bb = block.linear_bn("conv1x1b", OCNN_EPS)
        constants = [wa, ba, w3, b3, wb]
        if "conv1x1c.conv.linear.weight" in block:
            wc, bc = block.linear_bn("conv1x1c", OCNN_EPS)
            constants += [bb + bc, wc]
        else:
            constants += [bb]
        x = g.custom("OctreeResidual", x, neighbours, *(g.constant(c) for c in constants))
    return x


def head(g: GraphBuilder, x: str, weights: Weights) -> str:
    """`predict.<i>`: 1x1 conv, BatchNorm, GELU, 1x1 conv with bias."""
    w1, b1 = weights.linear_bn("0", BLOCK_EPS)
    w2 = weights["1.linear.weight"].T[None]
    return g.custom("OctreeMlp", x, *(g.constant(c) for c in (w1, b1, w2, weights["1.linear.bias"])))


def linear(g: GraphBuilder, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
    """x (N, cin) @ weight (cin, cout) + bias."""
    y = g.add("MatMul", x, g.constant(weight))
    return y if bias is None else g.add("Add", y, g.constant(bias))


def gelu(g: GraphBuilder, x: str) -> str:
    """Exact GELU in opset 17; ONNX Runtime and TensorRT recognise the pattern."""
    erf = g.add("Erf", g.add("Div", x, g.constant(np.float32(np.sqrt(2.0)))))
    one, half = g.constant(np.float32(1.0)), g.constant(np.float32(0.5))
    return g.add("Mul", g.add("Mul", x, g.add("Add", erf, one)), half)


def occlusion_cnn(g: GraphBuilder, flags: str, weights: Weights, config: NetworkConfig) -> str:
    """The 3D CNN `mask_head` on flags (N, 2, r, r, r); (N, channels).

    Channels come last: a grid of sub-voxels is then an octree convolution with known neighbours.
    """

    def conv(x: str, name: str, resolution: int, *residual: str) -> str:
        w = weights[f"{name}.weight"]  # (cout, cin, 3, 3, 3)
        w = w.transpose(2, 3, 4, 1, 0).reshape(27, w.shape[1], w.shape[0])
        b = weights[f"{name}.bias"]
        return g.custom(
            "GridConv", x, g.constant(w), g.constant(b), *residual, activation="elu", resolution=resolution
        )

    x = g.add("Transpose", flags, perm=[0, 2, 3, 4, 1])
    r = config.occlusion_resolution
    for level in range(len(config.occlusion_channels)):
        block = f"encoders.{level}.basic_module"
        if level > 0:
            r //= 2
            halves = np.array([-1, r, 2, r, 2, r, 2, config.occlusion_channels[level - 1]], np.int64)
            x = g.add("ReduceMean", g.add("Reshape", x, g.constant(halves)), axes=[2, 4, 6], keepdims=0)
        first = conv(x, f"{block}.conv1.conv", r)
        x = conv(conv(first, f"{block}.conv2.conv", r), f"{block}.conv3.conv", r, first)
    # A single voxel is left, for which the final 1x1x1 convolution is a matrix product.
    x = g.add("Reshape", x, g.constant(np.array([-1, config.occlusion_channels[-1]], np.int64)))
    w = weights["final_conv.weight"]
    return linear(g, x, w.reshape(w.shape[:2]).T, weights["final_conv.bias"])


def rotary_tables(g: GraphBuilder, positions: str, freqs: np.ndarray) -> tuple[str, str]:
    """cos and sin (1, N, 3 F) of the angles positions (N, 3) x freqs (F,)."""
    # The angle of pair f of axis a is positions[:, a] * freqs[f]: one product with a (3, 3 F) block matrix.
    spread = np.kron(np.eye(3), freqs[None]).astype(np.float32)
    angles = g.add(
        "Unsqueeze", g.add("MatMul", positions, g.constant(spread)), g.constant(np.array([0], np.int64))
    )
    return g.add("Cos", angles), g.add("Sin", angles)


def attention(g: GraphBuilder, x: str, weights: Weights, heads: int, cos: str, sin: str, pairs: int) -> str:
    """Multi-head attention over all tokens x (N, C); a head's first 2 * pairs channels are rotated."""
    w, b = weights["qkv_proj.weight"], weights["qkv_proj.bias"]
    width = w.shape[1]
    size = width // heads
    w, b = w.reshape(heads, 3, size, width), b.reshape(heads, 3, size)
    # Channels 2 i and 2 i + 1 of q and k rotate together. A permutation common to q and k leaves q . k
    # unchanged, so the pairs are stored as two halves and the rotation needs no interleaving.
    order = np.r_[0 : 2 * pairs : 2, 1 : 2 * pairs : 2, 2 * pairs : size]
    scale = size**-0.5

    def project(part: int, permuted: bool, factor: float) -> str:
        wp = w[:, part][:, order] if permuted else w[:, part]
        bp = b[:, part][:, order] if permuted else b[:, part]
        y = linear(g, x, wp.reshape(width, width).T * factor, bp.reshape(width) * factor)
        y = g.add("Reshape", y, g.constant(np.array([-1, heads, size], np.int64)))
        return g.add("Transpose", y, perm=[1, 0, 2])  # (heads, N, size)

    def rotate(y: str) -> str:
        sections = g.constant(np.array([n for n in (pairs, pairs, size - 2 * pairs) if n], np.int64))
        parts = g.add("Split", y, sections, outputs=3 if size > 2 * pairs else 2, axis=-1)
        first = g.add("Sub", g.add("Mul", parts[0], cos), g.add("Mul", parts[1], sin))
        second = g.add("Add", g.add("Mul", parts[1], cos), g.add("Mul", parts[0], sin))
        return g.add("Concat", first, second, *parts[2:], axis=-1)

    q = rotate(project(0, True, scale))
    k = rotate(project(1, True, 1.0))
    v = project(2, False, 1.0)
    scores = g.add("Softmax", g.add("MatMul", q, g.add("Transpose", k, perm=[0, 2, 1])), axis=-1)
    y = g.add("Transpose", g.add("MatMul", scores, v), perm=[1, 0, 2])
    y = g.add("Reshape", y, g.constant(np.array([-1, width], np.int64)))
    return linear(g, y, weights["proj.weight"].T, weights["proj.bias"])


def transformer(g: GraphBuilder, x: str, positions: str, weights: Weights, config: NetworkConfig) -> str:
    """The multi-object encoder on all nodes of depth min_lod: x (N, C), positions (N, 3), -1 to 1."""

    def norm(x: str, scope: Weights) -> str:
        return g.add(
            "LayerNormalization",
            x,
            g.constant(scope["norm.weight"]),
            g.constant(scope["norm.bias"]),
            axis=-1,
            epsilon=LAYER_NORM_EPS,
        )

    freqs = weights["encoders.0.wrap_att.layer.sublayer.rotary_embeddings.freqs"]
    cos, sin = rotary_tables(g, positions, freqs)
    for i in range(config.transformer_layers):
        att = weights.scope(f"encoders.{i}.wrap_att.layer")
        y = attention(
            g, norm(x, att), att.scope("sublayer"), config.transformer_heads, cos, sin, 3 * len(freqs)
        )
        x = g.add("Add", x, y)
        ff = weights.scope(f"encoders.{i}.wrap_ff.layer")
        mlp = ff.scope("sublayer.mlp")
        y = gelu(g, linear(g, norm(x, ff), mlp["0.weight"].T, mlp["0.bias"]))
        x = g.add("Add", x, linear(g, y, mlp["3.weight"].T, mlp["3.bias"]))
    return x


def prior(
    g: GraphBuilder, x: str, objects: str, noise: str, weights: Weights, config: NetworkConfig
) -> tuple[str, str, str]:
    """The CVAE's prior: pooled x (N, C) to mean, log-variance (B, L) and z = mean + noise * std."""
    axis0, axis1 = (g.constant(np.array([a], np.int64)) for a in (0, 1))
    count = g.add("Gather", g.add("Shape", noise), g.constant(np.array(0, np.int64)))
    ids = g.add("Range", g.constant(np.array(0, np.int64)), count, g.constant(np.array(1, np.int64)))
    ids = g.add("Unsqueeze", g.add("Cast", ids, to=onnx.TensorProto.INT32), axis1)
    member = g.add("Cast", g.add("Equal", g.add("Unsqueeze", objects, axis0), ids), to=onnx.TensorProto.FLOAT)
    nodes = g.add("ReduceSum", member, axis1, keepdims=1)
    h = g.add("Div", g.add("MatMul", member, x), nodes)
    for i in range(config.prior_layers):
        w, b = weights.linear_bn(f"{i}", OCNN_EPS, linear="fc")
        h = g.add("Relu", linear(g, h, w[0], b))
    last = f"{config.prior_layers}"
    h = linear(g, h, weights[f"{last}.weight"].T, weights[f"{last}.bias"])
    sizes = g.constant(np.array([config.latent] * 2, np.int64))
    mean, log_variance = g.add("Split", h, sizes, outputs=2, axis=1)
    # Held below overflow: without noise, z is the mean whatever the variance, and 0 * inf would be NaN.
    half = g.add("Mul", log_variance, g.constant(np.float32(0.5)))
    std = g.add("Exp", g.add("Min", half, g.constant(np.float32(80.0))))
    return mean, log_variance, g.add("Add", mean, g.add("Mul", noise, std))


def octree_encoder(state: dict[str, np.ndarray], config: NetworkConfig) -> onnx.ModelProto:
    """Input octree of the visible points to skip features per depth and the tokens of depth min_lod."""
    weights = Weights(state)
    low, high = config.min_lod, config.max_lod
    g = GraphBuilder("octree_encoder")
    features = g.input("features", "float32", ["V", config.input_channels])
    children = {d: g.input(f"children_{d}", "int32", [f"N{d}"]) for d in range(low, high + 1)}
    split = {
        d: g.input(f"split_neighbours_{d - 1}", "int32", [f"S{d - 1}", 27]) for d in range(low, high + 1)
    }
    objects = g.input("object", "int32", [f"N{low}"])
    noise = g.input("noise", "float32", ["B", config.latent])

    def constants(pair: tuple[np.ndarray, np.ndarray]) -> list[str]:
        return [g.constant(a) for a in pair]

    neighbours = {d: g.custom("OctreeNeighbor", split[d]) for d in range(low, high + 1)}
    # Only non-empty finest voxels carry input, so the first convolution's table points at those rows alone.
    occupied = g.custom("OctreeNeighbor", split[high], children[high])
    x = g.custom("OctreeConv", features, occupied, *constants(weights.conv("conv1")), activation="gelu")
    for d in range(high, low - 1, -1):
        if d == low and config.occlusion:
            centres = g.input("centres", "float32", [f"N{low}", 3])
            depth = g.input("depth", "float32", ["H", "W"])
            labels = g.input("labels", "int32", ["H", "W"])
            # TensorRT has no plugin inputs of uint8.
            adjacency = g.input("adjacency", "bool", ["B", "B"])
            intrinsics = g.input("intrinsics", "float32", [3, 3])
            flags = g.custom(
                "OcclusionField",
                centres,
                objects,
                depth,
                labels,
                adjacency,
                intrinsics,
                edge=float(config.grid_size),
                resolution=config.occlusion_resolution,
            )
            x = g.add("Concat", x, occlusion_cnn(g, flags, weights.scope("mask_head"), config), axis=1)
        x = residual_stage(
            g, x, neighbours[d], weights.scope(f"encoder_blks.{high - d}"), config.residual_blocks
        )
        if d > low:
            down = constants(weights.conv(f"downsample.{high - d}"))
            below, x = x, g.custom("OctreeDownsample", x, children[d - 1], *down, activation="gelu")
            g.output(below, f"skip_{d}", "float32", [f"N{d}", config.channels_at(d)])
    mean, log_variance, z = prior(g, x, objects, noise, weights.scope("prior_head"), config)
    x = g.add("Concat", x, g.add("Gather", z, objects), axis=1)
    x = g.custom("OctreeConv", x, neighbours[low], *constants(weights.conv("conv2")), activation="gelu")
    if config.multi_object:
        positions = g.input("positions", "float32", [f"N{low}", 3])
        x = transformer(g, x, positions, weights.scope("mae_encoder"), config)
    g.output(x, "tokens", "float32", [f"N{low}", config.channels_at(low)])
    g.output(mean, "latent_mean", "float32", ["B", config.latent])
    g.output(log_variance, "latent_log_variance", "float32", ["B", config.latent])
    return g.model()


def decoder(state: dict[str, np.ndarray], config: NetworkConfig, depth: int) -> onnx.ModelProto:
    """One depth of the output octree: features of the depth above to occupancy logits (finest: signal)."""
    weights = Weights(state)
    low, high = config.min_lod, config.max_lod
    index = depth - low
    channels = config.channels_at(depth)
    g = GraphBuilder(f"decoder_{depth}")
    if depth == low:
        # Rows: the nodes near an input node, then the virtual ones that stand for all others (kernels:
        # active_grid).
        tokens = g.input("tokens", "float32", [f"N{low}", channels])
        source = g.input("source", "int32", ["R"])
        neighbours = g.input("neighbours", "int32", [27, "R"])
        nothing = g.constant(np.zeros((1, channels), np.float32))
        x = g.add("Gather", g.add("Concat", tokens, nothing, axis=0), source, axis=0)
        rows: str = "R"
    else:
        above = g.input("parent_features", "float32", ["P", config.channels_at(depth - 1)])
        split_rows = g.input("split_rows", "int32", ["S"])
        split_neighbours = g.input("split_neighbours", "int32", ["S", 27])
        keys = g.input("keys", "int64", ["N"])
        skip = g.input("skip", "float32", ["M", channels])
        skip_keys = g.input("skip_keys", "int64", ["M"])
        neighbours = g.custom("OctreeNeighbor", split_neighbours)
        found = g.custom("OctreeAlign", skip_keys, keys)
        w, b = weights.deconv(f"upsample.{index - 1}")
        x = g.custom(
            "OctreeUpsample", above, split_rows, g.constant(w), g.constant(b), skip, found, activation="gelu"
        )
        rows = "N"
    x = residual_stage(g, x, neighbours, weights.scope(f"decoder_blks.{index}"), config.residual_blocks)
    y = head(g, x, weights.scope(f"predict.{index}"))
    if depth < high:
        g.output(x, "features", "float32", [rows, channels])
        g.output(y, "logits", "float32", [rows, 2])
    else:
        g.output(y, "signal", "float32", [rows, 2 + config.signal_channels])
    return g.model()
