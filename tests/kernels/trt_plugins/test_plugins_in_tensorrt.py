"""TensorRT for RTX loads the real plugin library and builds every stage with it, on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_library import REPOSITORY
from plugin_host import HEADERS, NO_HEADERS, NO_NVCC, compiled

onnx = pytest.importorskip("onnx", reason="building graphs needs the export extra")
torch = pytest.importorskip("torch", reason="exporting a network needs the export extra")

SCRIPT = Path(__file__).resolve().parent / "rtx_build.py"
PACKAGES = ("tensorrt_rtx_libs", "tensorrt_rtx_bindings")
SIZES = {
    "H": [480, 480, 480], "W": [640, 640, 640], "B": [1, 4, 8], "V": [8, 2000, 8000], "R": [64, 1000, 3000],
    "P": [8, 1000, 4000], "S": [8, 500, 2000], "N": [64, 4000, 16000], "M": [8, 4000, 16000],
    # Every node that splits has eight children, at each point of the profile.
    **{f"S{d}": [8, 64 << (d - 2), 512 << (d - 2)] for d in range(2, 9)},
    **{f"N{d}": [64, 512 << (d - 3), 4096 << (d - 3)] for d in range(3, 10)},
}  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HEADERS, reason=NO_HEADERS),
    pytest.mark.skipif(shutil.which("nvcc") is None, reason=NO_NVCC),
    pytest.mark.skipif(
        not all(importlib.util.find_spec(p) for p in PACKAGES),
        reason="TensorRT for RTX is missing: pip install tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings",
    ),
]


@cache
def _library_folder() -> Path:
    """TensorRT for RTX looks for its own library by a name that its package does not have."""
    (found,) = importlib.util.find_spec(PACKAGES[0]).submodule_search_locations  # type: ignore[union-attr]
    folder = REPOSITORY / ".cache" / "tensorrt_rtx"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "libtensorrt_rtx.so"
    if not link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(Path(found) / "libtensorrt_rtx.so.1")
    return folder


def run(*arguments: str) -> dict[str, Any]:
    path = os.pathsep.join([str(_library_folder()), os.environ.get("LD_LIBRARY_PATH", "")])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True,
        env={**os.environ, "LD_LIBRARY_PATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@cache
def plugin_library() -> Path:
    """Against headers of the major version whose interfaces this TensorRT for RTX has."""
    api = run("version")["api"]
    fitting = [version for version in HEADERS if version.split(".")[0] == str(api)]
    if not fitting:
        pytest.skip(f"this TensorRT for RTX needs headers of TensorRT {api}, there are {', '.join(HEADERS)}")
    return compiled(fitting[-1])


def built(model: Any, folder: Path, library: str | None = None, **sizes: list[int]) -> dict[str, Any]:
    onnx.save(model, str(folder / "model.onnx"))
    return run("build", library or str(plugin_library()), str(folder / "model.onnx"), json.dumps({**SIZES, **sizes}))


def stages(preset: str) -> dict[str, Any]:
    from zerograsp_edge.export.bundle import build_stages
    from zerograsp_edge.export.network.config import NetworkConfig
    from zerograsp_edge.export.network.zerograsp import ZeroGrasp

    torch.manual_seed(0)
    return dict(build_stages(ZeroGrasp(getattr(NetworkConfig, preset)()).eval()))


@pytest.mark.parametrize("preset", ["tiny", "edge"])
def test_every_stage_is_built_with_plugins(preset: str, tmp_path: Path) -> None:
    for name, model in stages(preset).items():
        result = built(model, tmp_path)
        assert result["step"] == "done" and result["errors"] == [], (name, result)
        assert result["plugins"] == sum(node.domain == "zerograsp" for node in model.graph.node)
        assert result["bytes"] > 1000
        for value in model.graph.output:
            kind, shape = result["outputs"][value.name]
            assert kind == "FLOAT"
            declared = [d.dim_value for d in value.type.tensor_type.shape.dim]
            assert all(s == d for s, d in zip(shape, declared, strict=True) if d and s > 0)


# ---- one node ----


def graph(op: str, inputs: dict[str, Any], constants: dict[str, np.ndarray], **attributes: Any) -> Any:
    """A model of one node, whose output is a matrix; inputs: name -> (dtype, shape with names or numbers)."""
    helper = onnx.helper

    def info(name: str, dtype: str, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    node = helper.make_node(
        op, [*inputs, *constants], ["y"], domain="zerograsp",
        **{"plugin_version": "1", "plugin_namespace": "zerograsp", **attributes},
    )  # fmt: skip
    kind = next(iter(inputs.values()))[0]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    given = [info(name, *spec) for name, spec in inputs.items()]
    body = helper.make_graph([node], "one_node", given, [info("y", kind, [None, None])], tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("zerograsp", 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=8)


def conv(dtype: str = "float32", bias: str = "float32", table: str = "int32", cin: int = 8, **attributes: Any) -> Any:
    return graph(
        "OctreeConv", {"x": (dtype, ["M", 8]), "neighbours": (table, [27, "N"])},
        {"weight": np.ones((27, cin, 16), dtype), "bias": np.zeros(16, bias)}, **attributes,
    )  # fmt: skip


def test_float16(tmp_path: Path) -> None:
    result = built(conv("float16", activation="gelu"), tmp_path)
    assert result["step"] == "done" and result["outputs"]["y"] == ["HALF", [-1, 16]]


@pytest.mark.parametrize("output", ["float32", "float16", "int8"])
def test_int8(output: str, tmp_path: Path) -> None:
    """Quantised by the graph; the weight is an int8 initialiser."""
    model = graph(
        "OctreeConvInt8", {"xq": ("int8", ["M", 8]), "neighbours": ("int32", [27, "N"])},
        {"weight": np.ones((16, 27, 8), np.int8), "scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)},
        activation="gelu", x_scale=0.1, y_scale=0.2, output=output,
    )  # fmt: skip
    helper, body = onnx.helper, model.graph
    kinds = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.FLOAT}
    body.input[0].CopyFrom(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["M", 8]))
    body.output[0].CopyFrom(helper.make_tensor_value_info("z", kinds[output], [None, None]))
    for name, value in {"s": np.float32(0.1), "t": np.float32(0.2), "zero": np.int8(0)}.items():
        body.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    body.node.insert(0, helper.make_node("QuantizeLinear", ["x", "s", "zero"], ["xq"]))
    last = ("DequantizeLinear", ["y", "t", "zero"]) if output == "int8" else ("Identity", ["y"])
    body.node.append(helper.make_node(*last, ["z"]))
    result = built(model, tmp_path)
    assert result["step"] == "done" and result["plugins"] == 1, result
    assert result["outputs"]["z"][0] == ("HALF" if output == "float16" else "FLOAT")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "swish"}, "attribute activation: expected none, gelu, elu or relu, got 'swish'"),
        ({"bias": "float16"}, "input bias: expected float32, got float16"),
        ({"dtype": "float16", "bias": "float16"}, "input bias: expected float32, got float16"),
        ({"table": "int64"}, "input neighbours: expected int32, got int64"),
        ({"cin": 9}, "input weight: expected (K, Cin, Cout) = (27, 8, Cout), got (27, 9, 16)"),
    ],
)
def test_what_is_wrong_is_named_in_tensorrts_log(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    result = built(conv(**change), tmp_path)
    assert result["step"] in ("parse", "build")
    assert any(f"zerograsp::OctreeConv: {message}" in text for text in result["errors"]), result


def test_another_version_of_the_nodes_is_not_found(tmp_path: Path) -> None:
    result = built(conv(plugin_version="2"), tmp_path)
    assert result["step"] == "parse" and any("Plugin not found" in text for text in result["errors"]), result


def test_without_the_library_the_plugin_is_not_found(tmp_path: Path) -> None:
    result = built(conv(), tmp_path, library="-")
    assert result["step"] == "parse" and any("Plugin not found" in text for text in result["errors"]), result


def test_a_profile_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    model = graph("OctreeNeighbor", {"split_neighbours": ("int32", ["S", 27]), "rank": ("int32", ["N"])}, {})
    assert built(model, tmp_path)["step"] == "done"
    result = built(model, tmp_path, N=[64, 4001, 16000])
    message = "zerograsp::OctreeNeighbor: input rank: expected (8S,) = (4000,), got (4001,)"
    assert result["step"] == "build" and any(message in text for text in result["errors"]), result
