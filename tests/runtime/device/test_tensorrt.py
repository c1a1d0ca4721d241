"""The TensorRT executor: what it refuses and how it says so; and that TensorRT has the names it uses."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gpu_double import Gpu, add_engines, profile
from tensorrt_double import VERSION, make_module, make_plan

from zerograsp_edge.runtime.backends import tensorrt as executor_module
from zerograsp_edge.runtime.backends.tensorrt import TensorRTExecutor, load_tensorrt
from zerograsp_edge.runtime.bundle import Bundle, BundleError, load_bundle
from zerograsp_edge.runtime.device import Device
from zerograsp_edge.runtime.engines import EngineError, EngineKey, store_engine
from zerograsp_edge.runtime.errors import DeviceError, MissingExtra
from zerograsp_edge.runtime.pipeline import Pipeline


@pytest.fixture
def current(gpu: Gpu) -> Iterator[Device]:
    with Device() as device:
        yield device


@pytest.fixture
def executor(current: Device, tiny_with_engines: Bundle, cuda_on_cpu: Path) -> TensorRTExecutor:
    executor = TensorRTExecutor(tiny_with_engines, current, cuda_on_cpu)
    executor._held = current.allocate(executor.memory, "a test")  # type: ignore[attr-defined]
    executor.use_memory(executor._held.address, executor.memory)  # type: ignore[attr-defined]
    return executor


def image_encoder(executor: TensorRTExecutor, current: Device, **changes: Any) -> None:
    """Enqueues the image encoder on a picture of 32x32 pixels."""
    memory = current.allocate(1 << 16, "a test")
    given = {"shape": (32, 32, 3), "rgb": memory.address, "features": memory.address + (1 << 14), **changes}
    stream = current.stream()
    stream.fill(memory.address, 0, 1 << 16)
    executor.enqueue(
        "image_encoder",
        {"rgb": (given["rgb"], given["shape"])},
        {"image_features": given["features"]},
        stream,
    )
    stream.synchronize()


def test_a_stage(gpu: Gpu, current: Device, executor: TensorRTExecutor, tiny_with_engines: Bundle) -> None:
    image_encoder(executor, current)
    assert gpu.tensorrt.executed == ["image_encoder"]
    assert gpu.tensorrt.contexts == len(tiny_with_engines.stages), "one context for each stage"
    assert executor.version == VERSION


def test_plugins_are_loaded_once(
    gpu: Gpu, current: Device, tiny_with_engines: Bundle, cuda_on_cpu: Path
) -> None:
    for _ in range(2):
        TensorRTExecutor(tiny_with_engines, current, cuda_on_cpu)
    assert gpu.tensorrt.loaded_libraries == [str(cuda_on_cpu)]


def test_plugins_that_do_not_load(
    gpu: Gpu, current: Device, tiny_with_engines: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(
        DeviceError, match=r"nothing.so: TensorRT 10.3.0 cannot load the plugins.*zerograsp-edge build"
    ):
        TensorRTExecutor(tiny_with_engines, current, tmp_path / "nothing.so")


def test_a_shape_beyond_the_profile(current: Device, executor: TensorRTExecutor) -> None:
    with pytest.raises(
        DeviceError,
        match=r"image_encoder: the engine does not take rgb of shape \(4096, 32, 3\): .*Supplied dims .* not in .*; "
        r"build it again: zerograsp-edge build",
    ):
        image_encoder(executor, current, shape=(4096, 32, 3))
    image_encoder(executor, current)


def test_what_tensorrt_says_is_in_the_error(current: Device, executor: TensorRTExecutor) -> None:
    with pytest.raises(
        DeviceError, match=r"could not enqueue it: IExecutionContext: no address for image_features; .*memory"
    ):
        image_encoder(executor, current, features=0)
    # It is told everything again afterwards.
    image_encoder(executor, current)


def test_an_unknown_tensor(current: Device, executor: TensorRTExecutor) -> None:
    with pytest.raises(DeviceError, match=r"does not know a tensor nothing: .*setTensorAddress"):
        executor.enqueue("image_encoder", {}, {"nothing": 256}, current.stream())


def replaced(bundle: Bundle, stage: str, change: Callable[[dict[str, Any]], Any]) -> Bundle:
    """The bundle with another engine of a stage."""
    entry = json.loads(json.dumps(bundle.manifest["stages"][stage]))
    change(entry)
    plan = make_plan(bundle.stage_path(stage).resolve(), entry, profile(bundle, stage))
    key = EngineKey(VERSION, (8, 7), bundle.stages[stage].precision)
    return store_engine(bundle, stage, key, plan, {})


def test_an_engine_of_another_type(current: Device, bundle_copy: Path, cuda_on_cpu: Path) -> None:
    bundle = replaced(
        add_engines(load_bundle(bundle_copy)), "decoder_4", lambda e: e["outputs"][0].update(dtype="float16")
    )
    with pytest.raises(
        BundleError, match=r"its tensors features are not those of decoder_4.onnx: .*'float32'.*'float16'"
    ):
        TensorRTExecutor(bundle, current, cuda_on_cpu)


def test_an_engine_that_tensorrt_refuses(current: Device, bundle_copy: Path, cuda_on_cpu: Path) -> None:
    bundle = add_engines(load_bundle(bundle_copy))
    bundle = store_engine(bundle, "decoder_4", EngineKey(VERSION, (8, 7), "fp32"), b"nothing", {})
    with pytest.raises(
        DeviceError,
        match=r"TensorRT 10.3.0 refused the engine: Serialization assertion failed. Magic tag.*; build it",
    ):
        TensorRTExecutor(bundle, current, cuda_on_cpu)


def test_an_engine_of_another_version(
    gpu: Gpu, current: Device, tiny_with_engines: Bundle, cuda_on_cpu: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.tensorrt, "__version__", "10.16.1")
    with pytest.raises(
        EngineError,
        match=r"no engine runs image_encoder here \(TensorRT 10.16.1.*engines are for TensorRT 10.3.0",
    ):
        TensorRTExecutor(tiny_with_engines, current, cuda_on_cpu)


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtra, match=r"'tensorrt' is needed .*apt-get install python3-libnvinfer"):
        load_tensorrt()


def test_an_old_tensorrt(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.tensorrt, "__version__", "8.5.2.2")
    with pytest.raises(MissingExtra, match=r"expected TensorRT 10.3 or newer, got 8.5.2.2"):
        load_tensorrt()


def test_without_the_plugin_library(
    gpu: Gpu, tiny_with_engines: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "zerograsp_edge.runtime.gpu.perception.find_library", lambda version, capability: None
    )
    with pytest.raises(
        DeviceError,
        match=r"not built for TensorRT 10.3.0 and compute capability 8.7: run `zerograsp-edge build",
    ):
        Pipeline(tiny_with_engines, backend="tensorrt")


def used_names() -> dict[str, set[str]]:
    """Attributes that the executor uses of TensorRT's objects, by the name of the variable that holds one."""
    tree = ast.parse(Path(executor_module.__file__).read_text())
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            holder = node.value
            name = (
                holder.id
                if isinstance(holder, ast.Name)
                else holder.attr
                if isinstance(holder, ast.Attribute)
                else ""
            )
            found.setdefault(name, set()).add(node.attr)
    return found


CLASSES = {
    "trt": None, "_trt": None, "engine": "ICudaEngine", "_runtime": "Runtime", "registry": "IPluginRegistry",
    "ILogger": "ILogger", "Severity": "ILogger.Severity", "TensorIOMode": "TensorIOMode",
    "ExecutionContextAllocationStrategy": "ExecutionContextAllocationStrategy",
}  # fmt: skip
OWN = {"use_memory", "enqueue"}  # of our Context


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    """TensorRT for RTX: the same API, importable without a GPU."""
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="pip install tensorrt-rtx-cu12-bindings tensorrt-rtx-cu12-libs"
    )
    return importlib.import_module("tensorrt_rtx_bindings")


def test_tensorrt_has_the_names_that_are_used(rtx: ModuleType) -> None:
    used = used_names()
    for variable, path in CLASSES.items():
        owner: Any = rtx
        for part in path.split(".") if path else ():
            owner = getattr(owner, part)
        assert {name for name in used.get(variable, set()) if not hasattr(owner, name)} == set(), path
    for name in (used["_context"] | used["context"]) - OWN:
        assert hasattr(rtx.IExecutionContext, name), name
    assert used["engine"] >= {"num_io_tensors", "device_memory_size_v2"}, "the test looks at what is used"


def test_the_double_offers_nothing_else(rtx: ModuleType) -> None:
    double = make_module(None)  # type: ignore[arg-type]
    for name in (
        "Runtime",
        "TensorIOMode",
        "ExecutionContextAllocationStrategy",
        "nptype",
        "get_plugin_registry",
        "ILogger",
    ):
        assert hasattr(rtx, name) and hasattr(double, name)
    engine, context = double.engine_classes
    for theirs, ours in (
        (rtx.ICudaEngine, engine),
        (rtx.IExecutionContext, context),
        (rtx.Runtime, double.Runtime),
    ):
        offered = {name for name in vars(ours) if not name.startswith("_")}
        assert offered and offered <= set(dir(theirs))
