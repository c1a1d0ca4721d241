"""What TensorRT refuses is explained: a sentence that says which node, why, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra `export`")

from engine_graphs import DOMAIN, Graph, convolution

from zerograsp_edge.export.tensorrt_errors import ParseProblem, explain_build, explain_parse

Rtx = Callable[..., Any]


def refusal(rtx: Rtx, graph: Graph, **options: Any) -> str:
    with pytest.raises(Exception) as caught:
        rtx("build_graph", **graph.task, **options)
    assert getattr(caught.value, "kind", None) == "BuildError", caught.value
    return str(caught.value)


def test_a_good_graph_builds(rtx: Rtx, tmp_path: Path) -> None:
    assert rtx("build_graph", **convolution(tmp_path / "good.onnx").task)["bytes"] > 0


def test_a_missing_plugin(rtx: Rtx, tmp_path: Path) -> None:
    message = refusal(rtx, convolution(tmp_path / "g.onnx"), without=["OctreeConv"])
    assert (
        "g.onnx: node OctreeConv_0 (OctreeConv): TensorRT has no plugin of this name and version" in message
    )
    assert "`zerograsp-edge build BUNDLE` builds and loads it" in message


def test_a_plugin_of_another_version(rtx: Rtx, tmp_path: Path) -> None:
    message = refusal(rtx, convolution(tmp_path / "g.onnx", plugin_version="2"))
    assert "TensorRT has no plugin of this name and version" in message


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"weight": "float16"}, "input weight: expected float32, got float16"),
        ({"bias": "float16"}, "input bias: expected float32, got float16"),
        ({"table": "int64"}, "input neighbours: expected int32, got int64"),
    ],
)
def test_a_wrong_type(rtx: Rtx, tmp_path: Path, changed: dict[str, str], reason: str) -> None:
    message = refusal(rtx, convolution(tmp_path / "g.onnx", **changed))  # type: ignore[arg-type]
    assert f"node OctreeConv_0 (OctreeConv): its plugin refused it: OctreeConv: {reason}" in message
    assert "export the bundle again" in message


def test_a_wrong_shape(rtx: Rtx, tmp_path: Path) -> None:
    message = refusal(rtx, convolution(tmp_path / "g.onnx", columns=9))
    assert "its plugin refused it: OctreeConv: input weight: expected Cin = 9, got 8" in message


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"activation": "swish"}, "attribute activation: expected none, gelu, elu"),
        ({"activation": 3}, "attribute activation: "),
    ],
)
def test_a_wrong_attribute(rtx: Rtx, tmp_path: Path, attributes: dict[str, Any], reason: str) -> None:
    message = refusal(rtx, convolution(tmp_path / "g.onnx", **attributes))
    assert f"its plugin refused the node's attributes: OctreeConv: {reason}" in message
    assert "export the bundle again" in message


def occlusion(path: Path, adjacency: str = "bool", **attributes: Any) -> Graph:
    inputs: dict[str, Any] = {
        "centres": ("float32", ["N", 3]), "object": ("int32", ["N"]), "depth": ("float32", [8, 8]),
        "labels": ("int32", [8, 8]), "adjacency": (adjacency, [2, 2]), "intrinsics": ("float32", [3, 3]),
    }  # fmt: skip
    node = ("OcclusionField", list(inputs), {**DOMAIN, **attributes})
    return Graph(path, [node], inputs, ("float32", ["N", 2, 4, 4, 4]))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"resolution": 4}, "attribute edge: "),
        ({"edge": 80.0, "resolution": 40}, "attribute resolution: expected 1 to 32, got 40"),
        ({"edge": 80, "resolution": 4}, "attribute edge: "),
    ],
    ids=["missing", "out of range", "an integer"],
)
def test_a_wrong_number(rtx: Rtx, tmp_path: Path, attributes: dict[str, Any], reason: str) -> None:
    message = refusal(rtx, occlusion(tmp_path / "g.onnx", **attributes))
    assert f"its plugin refused the node's attributes: OcclusionField: {reason}" in message


def test_uint8_into_a_plugin(rtx: Rtx, tmp_path: Path) -> None:
    message = refusal(rtx, occlusion(tmp_path / "g.onnx", "uint8", edge=80.0, resolution=4))
    assert "input adjacency: expected bool, got uint8" in message


def test_two_types_meet(rtx: Rtx, tmp_path: Path) -> None:
    graph = Graph(
        tmp_path / "g.onnx", [("MatMul", ["x", "w"], {})], {"x": ("float32", [4, 4])}, ("float32", [4, 4]),
        w=np.ones((4, 4), np.float16),
    )  # fmt: skip
    message = refusal(rtx, graph)
    assert "node MatMul_0 (MatMul): two tensors of different types meet" in message
    assert "lacks a Cast" in message


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (("Det", ["x"], {}), "node Det_0 (Det): TensorRT"),
        (("ScatterND", ["x", "i", "x"], {"reduction": "max"}), "ScatterND with reduction is not supported"),
    ],
)
def test_an_unsupported_operator(rtx: Rtx, tmp_path: Path, node: Any, reason: str) -> None:
    graph = Graph(
        tmp_path / "g.onnx", [node], {"x": ("float32", [4, 4])}, ("float32", []), i=np.arange(4)[:, None]
    )
    message = refusal(rtx, graph)
    assert reason in message
    assert "does not support it" in message and "JetPack" in message


def test_a_file_that_is_no_graph(rtx: Rtx, tmp_path: Path) -> None:
    graph = convolution(tmp_path / "g.onnx")
    graph.path.write_bytes(b"hello world" * 10)
    message = refusal(rtx, graph)
    assert "g.onnx" in message and "export the bundle again" in message


def test_other_tensors_than_the_manifest_says(rtx: Rtx, tmp_path: Path) -> None:
    graph = convolution(tmp_path / "g.onnx")
    graph.task["tensors"]["outputs"] = {"y": "float16"}
    assert "expected the outputs y (float16), TensorRT found y (float32)" in refusal(rtx, graph)


def test_a_plugin_library_that_does_not_load(rtx: Rtx, tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_bytes(b"no library")
    message = refusal(rtx, convolution(tmp_path / "g.onnx"), library=str(tmp_path / "lib.so"))
    assert (
        "cannot load the plugin library" in message and "remove the file and run the command again" in message
    )


def test_interrupting(rtx: Rtx, tmp_path: Path) -> None:
    answer = rtx("interrupted", **convolution(tmp_path / "g.onnx").task)
    assert answer["interrupted"] and answer["bytes"] > 0


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("Could not find any implementation for node {ForeignNode[a]} due to insufficient workspace", "--workspace"),
        ("resizePhysical::154] Error Code 2: OutOfMemory (Requested size was 8388608 bytes.)", "needs more memory"),
        ("Error Code 1: Cuda Runtime (out of memory)", "needs more memory"),
        ("(out of memory)\nCould not find any implementation for node {ForeignNode[a]}.", "needs more memory"),
        ("Could not find any implementation for node {ForeignNode[a]}.", "--workspace"),
        ("CUDA initialization failure with error: 35", "finds no usable GPU"),
        ("kOPT dimensions in profile 0 are [1] but input has static dimensions [2]", "contradict the bundle's limits"),
        ("IElementWiseLayer must have same input types. But they are of types Float and Half.", "lacks a Cast"),
        ("something new", "something new; run again with --verbose"),
    ],
)  # fmt: skip
def test_build_errors_of_a_gpu(said: str, advice: str) -> None:
    """What only happens with a GPU: TensorRT's texts, from its documentation and forum threads."""
    message = explain_build("decoder_4: no engine", [said])
    assert message.startswith("decoder_4: no engine: ") and advice in message


def test_without_a_reason() -> None:
    assert "TensorRT gave no reason" in explain_build("decoder_4: no engine", [])
    problem = ParseProblem("UNSUPPORTED_NODE", "false", "det", "Det")
    message = explain_parse(Path("a.onnx"), "10.3.0", [problem], [])
    assert message.startswith("a.onnx: node det (Det): TensorRT 10.3.0 does not support it; upgrade")
