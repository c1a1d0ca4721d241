"""TensorRT for RTX with the C++ plugin library, node by node; whole bundles with it: test_build.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="needs the extra `export`")

from engine_graphs import DOMAIN, Graph, convolution

Rtx = Callable[..., Any]
pytestmark = pytest.mark.slow


def refusal(rtx: Rtx, graph: Graph, library: Path) -> str:
    with pytest.raises(Exception) as caught:
        rtx("build_graph", **graph.task, library=str(library))
    assert getattr(caught.value, "kind", None) == "BuildError", caught.value
    return str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_node(rtx: Rtx, library: Path, tmp_path: Path, dtype: str) -> None:
    graph = convolution(tmp_path / "g.onnx", x=dtype, weight=dtype)
    assert rtx("build_graph", **graph.task, library=str(library))["bytes"] > 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "swish"}, "attribute activation: expected none, gelu, elu or relu, got 'swish'"),
        ({"bias": "float16"}, "input bias: expected float32, got float16"),
        (
            {"x": "float16", "weight": "float16", "bias": "float16"},
            "input bias: expected float32, got float16",
        ),
        ({"table": "int64"}, "input neighbours: expected int32, got int64"),
        ({"columns": 9}, "input weight: expected (K, Cin, Cout) = (27, 9, Cout), got (27, 8, 4)"),
    ],
)
def test_what_is_wrong_is_named(
    rtx: Rtx, library: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    assert f"OctreeConv: {message}" in refusal(rtx, convolution(tmp_path / "g.onnx", **change), library)


def test_another_version_of_the_nodes_is_not_found(rtx: Rtx, library: Path, tmp_path: Path) -> None:
    message = refusal(rtx, convolution(tmp_path / "g.onnx", plugin_version="2"), library)
    assert "TensorRT has no plugin of this name and version" in message


def test_a_profile_that_contradicts_itself_is_refused(rtx: Rtx, library: Path, tmp_path: Path) -> None:
    inputs: dict[str, Any] = {"split_neighbours": ("int32", ["S", 27]), "rank": ("int32", ["N"])}
    node = ("OctreeNeighbor", list(inputs), DOMAIN)
    graph = Graph(tmp_path / "g.onnx", [node], inputs, ("int32", [27, "N"]))
    graph.task["shapes"]["rank"] = [[64], [128], [512]]
    assert rtx("build_graph", **graph.task, library=str(library))["bytes"] > 1000
    graph.task["shapes"]["rank"] = [[64], [129], [512]]
    assert "input rank: expected (8S,) = (128,), got (129,)" in refusal(rtx, graph, library)
