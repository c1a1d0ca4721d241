"""The ONNX stage `mask_decoder` of SAM 2: prompts and the encoder's features to mask logits and predicted IoU.

Inputs, B prompts of N points each; S is the side of the encoder's picture:

    image_embedding, detail_4, detail_8   as the image encoder gives them
    points (B, N, 2) float32              x, y in pixels of that picture, as sam2 counts them (0 is the left edge)
    labels (B, N) int32                   1 object, 0 background, 2 and 3 a box's corners, -1 no point

Outputs `logits` (B, 4, S / 4, S / 4), `iou` (B, 4): of the single-mask token, then of the three of the multi-mask
output. Equal to `PromptEncoder` and `MaskDecoder.predict_masks`, with what does not depend on a prompt computed once
for all of them, and channels last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from zerograsp_edge.export.graph import GraphBuilder
from zerograsp_edge.export.sam2.image_encoder import array, attend, dense, layer_norm, reshape
from zerograsp_edge.export.stages import gelu, linear


def mask_decoder(network: Any) -> onnx.ModelProto:
    """The stage for a `sam2.modeling.sam2_base.SAM2Base`."""
    decoder, prompts = network.sam_mask_decoder, network.sam_prompt_encoder
    side = prompts.image_embedding_size[0]
    cells, channels = side * side, prompts.embed_dim
    g = GraphBuilder("mask_decoder")
    image = g.input("image_embedding", "float32", [cells, channels])
    detail_4 = g.input("detail_4", "float32", [cells, 16, channels // 8])
    detail_8 = g.input("detail_8", "float32", [cells, 4, channels // 4])
    points = g.input("points", "float32", ["B", "N", 2])
    labels = g.input("labels", "int32", ["B", "N"])
    no_mask = array(prompts.no_mask_embed.weight)
    keys = reshape(g, g.add("Add", image, g.constant(no_mask)), 1, cells, channels)
    positions = array(prompts.get_dense_pe()).reshape(channels, cells).T
    tokens = _tokens(g, points, labels, decoder, prompts)
    tokens, keys = _transformer(g, tokens, keys, positions, decoder.transformer)
    first = 1 if decoder.pred_obj_scores else 0
    iou_token = _pick(g, tokens, [first])
    masks = decoder.num_mask_tokens
    mask_tokens = _pick(g, tokens, [first + 1 + i for i in range(masks)])
    fine = _upscaled(g, keys, detail_8, detail_4, decoder, cells, channels)
    logits = g.add("MatMul", _hypernetworks(g, mask_tokens, decoder), g.add("Transpose", fine, perm=[0, 2, 1]))
    # Cell by cell, its halves' rows and columns twice: to rows and columns of the picture.
    logits = reshape(g, logits, -1, side, side, 2, 2, 2, 2)
    logits = g.add("Transpose", logits, perm=[0, 1, 3, 5, 2, 4, 6])
    g.output(reshape(g, logits, -1, masks, 4 * side, 4 * side), "logits", "float32", ["B", masks, 4 * side, 4 * side])
    iou = reshape(g, _mlp(g, iou_token, decoder.iou_prediction_head), -1, masks)
    g.output(iou, "iou", "float32", ["B", masks])
    return g.model()


def _tokens(g: GraphBuilder, points: str, labels: str, decoder: Any, prompts: Any) -> str:
    """(B, T + N, C): the decoder's own tokens, the "no point" that sam2 appends to every prompt, and the points.

    Their order does not matter to attention: the own ones stand first, so that they are one constant.
    """
    nothing = array(prompts.not_a_point_embed.weight)
    own = [decoder.iou_token.weight, decoder.mask_tokens.weight]
    own = ([decoder.obj_score_token.weight] if decoder.pred_obj_scores else []) + own
    constant = np.concatenate([*(array(token) for token in own), nothing])[None]
    batch = g.add("Slice", g.add("Shape", labels), *(g.constant(np.array([v], np.int64)) for v in (0, 1, 0)))
    shape = g.add("Concat", batch, g.constant(np.array(constant.shape[1:], np.int64)), axis=0)
    expanded = g.add("Expand", g.constant(constant), shape)
    # sin and cos of 2 pi (2 (p + 1/2) / size - 1) G
    frequencies = 2 * np.pi * array(prompts.pe_layer.positional_encoding_gaussian_matrix)
    height, width = prompts.input_image_size
    scale = np.array([2 / width, 2 / height])
    phase = linear(g, g.add("Mul", points, g.constant(scale)), frequencies, (0.5 * scale - 1) @ frequencies)
    encoding = g.add("Concat", g.add("Sin", phase), g.add("Cos", phase), axis=-1)
    kinds = np.concatenate([nothing, *(array(kind.weight) for kind in prompts.point_embeddings)])
    index = g.add("Add", labels, g.constant(np.array(1, np.int32)))
    is_point = g.constant(np.array([[0.0]] + [[1.0]] * (len(kinds) - 1)))
    encoding = g.add("Mul", encoding, g.add("Gather", is_point, index))
    return g.add("Concat", expanded, g.add("Add", encoding, g.add("Gather", g.constant(kinds), index)), axis=1)


def _transformer(
    g: GraphBuilder, tokens: str, keys: str, positions: np.ndarray, transformer: Any
) -> tuple[str, str]:
    """Tokens (B, T, C) and the picture's keys (1, cells, C) after attending to one another; both of B prompts.

    The keys are one for all prompts until they have attended to the tokens.
    """
    queries, query_positions = tokens, tokens
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = _attention(g, layer.self_attn, queries, queries, queries)
        else:
            q = g.add("Add", queries, query_positions)
            queries = g.add("Add", queries, _attention(g, layer.self_attn, q, q, queries))
        queries = layer_norm(g, queries, layer.norm1)
        q = g.add("Add", queries, query_positions)
        y = _attention(g, layer.cross_attn_token_to_image, q, keys, keys, key_positions=positions)
        queries = layer_norm(g, g.add("Add", queries, y), layer.norm2)
        y = _mlp(g, queries, layer.mlp)
        queries = layer_norm(g, g.add("Add", queries, y), layer.norm3)
        q = g.add("Add", queries, query_positions)
        y = _attention(g, layer.cross_attn_image_to_token, keys, q, queries, query_positions=positions)
        keys = layer_norm(g, g.add("Add", keys, y), layer.norm4)
    q = g.add("Add", queries, query_positions)
    y = _attention(g, transformer.final_attn_token_to_image, q, keys, keys, key_positions=positions)
    return layer_norm(g, g.add("Add", queries, y), transformer.norm_final_attn), keys


def _attention(
    g: GraphBuilder, attention: Any, q: str, k: str, v: str,
    *, query_positions: np.ndarray | None = None, key_positions: np.ndarray | None = None,
) -> str:  # fmt: skip
    """`Attention` with constant positions, added to queries or keys, taken into the biases of their projections."""
    channels, heads = attention.internal_dim, attention.num_heads

    def project(x: str, layer: Any, positions: np.ndarray | None, scale: float = 1.0) -> str:
        weight, bias = array(layer.weight).T * scale, array(layer.bias) * scale
        return linear(g, x, weight, bias if positions is None else positions @ weight + bias)

    q = project(q, attention.q_proj, query_positions, (channels // heads) ** -0.5)
    k = project(k, attention.k_proj, key_positions)
    v = project(v, attention.v_proj, None)
    queries, keys = (-1 if p is None else len(p) for p in (query_positions, key_positions))
    return dense(g, attend(g, q, k, v, heads, channels, queries, keys), attention.out_proj)


def _upscaled(
    g: GraphBuilder, keys: str, detail_8: str, detail_4: str, decoder: Any, cells: int, channels: int
) -> str:
    """(B, cells * 16, C / 8): features of stride 4, cell by cell.

    A transposed convolution whose steps do not overlap is a matrix product per pixel. What comes of a cell stays
    beside it, so that only the logits have to be put in the order of the picture.
    """
    first, norm, _, second, _ = decoder.output_upscaling

    def transposed(x: str, conv: Any) -> str:
        weight = array(conv.weight).transpose(0, 2, 3, 1).reshape(conv.in_channels, -1)
        return linear(g, x, weight, np.tile(array(conv.bias), 4))

    x = reshape(g, transposed(keys, first), -1, cells, 4, channels // 4)
    x = gelu(g, layer_norm(g, g.add("Add", x, detail_8), norm))
    x = reshape(g, transposed(x, second), -1, cells, 16, channels // 8)
    x = gelu(g, g.add("Add", x, detail_4))
    return reshape(g, x, -1, cells * 16, channels // 8)


def _hypernetworks(g: GraphBuilder, tokens: str, decoder: Any) -> str:
    """(B, M, C / 8): the filter that each of the mask tokens (B, M, C) makes, by a network of its own."""
    x = g.add("Transpose", tokens, perm=[1, 0, 2])
    networks = list(decoder.output_hypernetworks_mlps)
    for i in range(networks[0].num_layers):
        layers = [network.layers[i] for network in networks]
        weight = np.stack([array(layer.weight).T for layer in layers])
        bias = np.stack([array(layer.bias)[None] for layer in layers])
        x = linear(g, x, weight, bias)
        if i < networks[0].num_layers - 1:
            x = g.add("Relu", x)
    return g.add("Transpose", x, perm=[1, 0, 2])


def _mlp(g: GraphBuilder, x: str, mlp: Any) -> str:
    for i, layer in enumerate(mlp.layers):
        x = dense(g, x, layer)
        if i < mlp.num_layers - 1:
            x = g.add("Relu", x)
    return g.add("Sigmoid", x) if mlp.sigmoid_output else x


def _pick(g: GraphBuilder, tokens: str, which: list[int]) -> str:
    begin, end = which[0], which[-1] + 1
    return g.add("Slice", tokens, *(g.constant(np.array([v], np.int64)) for v in (begin, end, 1)))
