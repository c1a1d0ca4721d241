"""The nodes of the ONNX domain `zerograsp` with float16 features and weights, against the NumPy twins.

A twin gets the halves themselves, computes in float64 and is rounded once: a node, which computes in float32 and rounds
once, may be one half beside it where the exact result lies next to the middle of two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from zerograsp_edge.kernels.reference import convolution as twin

onnx = pytest.importorskip("onnx", reason="building graphs needs the export extra")

from test_ort_nodes import EMPTY_INDEX, EMPTY_TABLE, Graph, features, table, weight  # noqa: E402

Halves = NDArray[np.float16]
SIZES = [0, 1, 300, 7, 129, 0, 2000]
NONE = np.zeros((0, 0), np.float16)


def halves(array: NDArray[Any]) -> Halves:
    return array.astype(np.float16)


def assert_rounds_to(y: NDArray[Any], exact: NDArray[np.float64]) -> None:
    """The nearest half nearly always, and a neighbour of it otherwise."""
    assert y.dtype == np.float16 and y.shape == exact.shape
    nearest = exact.astype(np.float16)
    low, high = np.nextafter(nearest, np.float16(-np.inf)), np.nextafter(nearest, np.float16(np.inf))
    # Around zero float32's own error is larger than a half's last place.
    close = np.abs(y.astype(np.float64) - exact) <= 1e-6
    assert ((y == nearest) | (y == low) | (y == high) | close).all()
    assert y.size == 0 or (y == nearest).mean() > 0.98


Arrays = dict[str, NDArray[Any]]


def conv_case(rng: np.random.Generator, n: int) -> tuple[Arrays, Arrays]:
    return (
        {"x": halves(features(rng, 2 * n, 13)), "neighbours": table(rng, (27, n), 2 * n)},
        {"weight": halves(weight(rng, 27, 13, 26)), "bias": features(rng, 26)},
    )


def downsample_case(rng: np.random.Generator, n: int) -> tuple[Arrays, Arrays]:
    split = n // 3
    return (
        {"x": halves(features(rng, 8 * split, 12)), "children": table(rng, (n,), split)},
        {"weight": halves(weight(rng, 8, 12, 24)), "bias": features(rng, 24)},
    )


def upsample_case(rng: np.random.Generator, n: int) -> tuple[Arrays, Arrays]:
    return (
        {
            "x": halves(features(rng, n + 3, 24)),
            "split_rows": rng.integers(0, n + 3, n).astype(np.int32),
            "skip": halves(features(rng, 50, 13)),
            "skip_index": table(rng, (8 * n,), 50),
        },
        {"weight": halves(weight(rng, 8, 24, 13)), "bias": features(rng, 13)},
    )


def residual_case(rng: np.random.Generator, n: int) -> tuple[Arrays, Arrays]:
    return (
        {"x": halves(features(rng, n, 24)), "neighbours": table(rng, (27, n), n)},
        {
            "wa": halves(weight(rng, 1, 24, 6)), "ba": features(rng, 6),
            "w3": halves(weight(rng, 27, 6, 6)), "b3": features(rng, 6),
            "wb": halves(weight(rng, 1, 6, 48)), "bb": features(rng, 48), "wc": halves(weight(rng, 1, 24, 48)),
        },
    )  # fmt: skip


def mlp_case(rng: np.random.Generator, n: int) -> tuple[Arrays, Arrays]:
    return (
        {"x": halves(features(rng, n, 12))},
        {
            "w1": halves(weight(rng, 1, 12, 32)), "b1": features(rng, 32),
            "w2": halves(weight(rng, 1, 32, 2)), "b2": features(rng, 2),
        },
    )  # fmt: skip


def grid_case(rng: np.random.Generator, n: int) -> tuple[Arrays, Arrays]:
    grids = n // 30
    return (
        {
            "x": halves(features(rng, grids, 4, 4, 4, 5)),
            "residual": halves(features(rng, grids, 4, 4, 4, 16)),
        },
        {"weight": halves(weight(rng, 27, 5, 16)), "bias": features(rng, 16)},
    )


# Node: inputs in order, attributes, rank of the output, arrays of a size, twin.
NODES: dict[str, tuple[list[str], dict[str, Any], int, Any, Callable[..., NDArray[np.float64]]]] = {
    "OctreeConv": (["x", "neighbours", "weight", "bias"], {"activation": "gelu"}, 2, conv_case, twin.octree_conv),
    "OctreeDownsample": (
        ["x", "children", "weight", "bias"], {"activation": "gelu"}, 2, downsample_case, twin.octree_downsample,
    ),
    "OctreeUpsample": (
        ["x", "split_rows", "weight", "bias", "skip", "skip_index"], {"activation": "gelu"}, 2, upsample_case,
        twin.octree_upsample,
    ),
    "OctreeResidual": (
        ["x", "neighbours", "wa", "ba", "w3", "b3", "wb", "bb", "wc"], {}, 2, residual_case, twin.octree_residual,
    ),
    "OctreeMlp": (["x", "w1", "b1", "w2", "b2"], {}, 2, mlp_case, twin.octree_mlp),
    "GridConv": (
        ["x", "weight", "bias", "residual"], {"activation": "elu", "resolution": 4}, 5, grid_case, twin.grid_conv,
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", NODES)
def test_half_node_rounds_once(op: str) -> None:
    names, attributes, rank, case, reference = NODES[op]
    rng = np.random.default_rng(0)
    _, constants = case(rng, 3)
    variable, _ = case(rng, 3)
    inputs = {name: constants.get(name, variable.get(name)) for name in names}
    graph = Graph(op, inputs, list(constants), attributes, (np.float16, rank))
    for n in SIZES:
        arrays, _ = case(rng, n)
        options = {k: v for k, v in attributes.items() if k == "activation"}
        assert_rounds_to(graph(**arrays), reference(**arrays, **constants, **options))


@pytest.mark.parametrize("op", NODES)
def test_both_types_live_in_one_library(op: str) -> None:
    """The same values in float32 give the float32 node's result, unrounded."""
    names, attributes, rank, case, reference = NODES[op]
    rng = np.random.default_rng(1)
    arrays, constants = case(rng, 90)
    widened = {
        k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in {**arrays, **constants}.items()
    }
    inputs = {name: widened[name] for name in names}
    y = Graph(op, inputs, list(constants), attributes, (np.float32, rank))(**{n: widened[n] for n in arrays})
    options = {k: v for k, v in attributes.items() if k == "activation"}
    np.testing.assert_allclose(y, reference(**arrays, **constants, **options), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("x", "weight_type", "bias_type"),
    [
        (np.float16, np.float32, np.float32),
        (np.float32, np.float16, np.float32),
        (np.float16, np.float16, np.float16),
    ],
)
def test_types_may_not_be_mixed(x: type, weight_type: type, bias_type: type) -> None:
    constants = {"weight": np.zeros((27, 4, 3), weight_type), "bias": np.zeros(3, bias_type)}
    inputs = {"x": np.zeros((0, 4), x), "neighbours": EMPTY_TABLE, **constants}
    with pytest.raises(Exception, match=r"(?i)type"):
        Graph("OctreeConv", inputs, ["weight", "bias"], output=(x, 2))


def test_beyond_the_largest_half_is_infinite() -> None:
    inputs = {
        "x": NONE,
        "children": EMPTY_INDEX,
        "weight": np.full((8, 1, 1), 8192, np.float16),
        "bias": np.zeros(1, np.float32),
    }
    graph = Graph("OctreeDownsample", inputs, ["weight", "bias"], output=(np.float16, 2))
    y = graph(x=np.ones((8, 1), np.float16), children=np.zeros(1, np.int32))
    assert np.isposinf(y).all()
    y = graph(x=np.full((8, 1), 0.99, np.float16), children=np.zeros(1, np.int32))
    assert np.isfinite(y).all() and y[0, 0] > 64000
