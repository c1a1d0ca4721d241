"""A stand-in for TensorRT's Python module on a machine without a GPU.

An engine is a description of an ONNX stage; executing it runs that stage in ONNX Runtime on the addresses and
shapes that were set, when the stream gets there. It is as strict as TensorRT: every input needs a shape
within the profile and every tensor an address, both hold until they are changed, the activation memory must
be there (and is overwritten), and work can be captured only after it has run once with the same shapes. Its
names are those of TensorRT 10.3 (test_tensorrt.py compares).
"""

from __future__ import annotations

import ctypes
import json
from enum import Enum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from driver_double import DriverDouble

from zerograsp_edge import kernels

VERSION = "10.3.0"
ACTIVATIONS = 1 << 16  # bytes that every engine claims to need
INPUT, OUTPUT = "inputs", "outputs"


def make_plan(onnx: Path, tensors: dict[str, Any], profile: dict[str, Any]) -> bytes:
    """An engine's serialised form.

    Args:
        onnx: the stage.
        tensors: its entry in the bundle's manifest.
        profile: smallest, typical and largest shape of every input with a dynamic one.
    """
    declared = {
        kind: {t["name"]: [t["dtype"], t["shape"]] for t in tensors[kind]} for kind in (INPUT, OUTPUT)
    }
    return json.dumps({"onnx": str(onnx), **declared, "profile": profile}).encode()


def make_module(driver: DriverDouble) -> ModuleType:
    """The module `tensorrt`, on a driver."""

    class Severity(Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def __init__(self) -> None:
            pass

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class TensorIOMode(Enum):
        NONE, INPUT, OUTPUT = range(3)

    class ExecutionContextAllocationStrategy(Enum):
        STATIC, ON_PROFILE_CHANGE, USER_MANAGED = range(3)

    class Registry:
        all_creators: list[Any] = []  # noqa: RUF012 as in TensorRT, one list of the process

        def load_library(self, path: str) -> object | None:
            if not Path(path).is_file():
                return None
            module.loaded_libraries.append(path)
            creator = ModuleType("creator")
            creator.plugin_namespace = "zerograsp"  # type: ignore[attr-defined]
            type(self).all_creators = [creator]
            return object()

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            try:
                return Engine(json.loads(plan), self._logger)
            except json.JSONDecodeError:
                self._logger.log(Severity.ERROR, "Serialization assertion failed.\nMagic tag does not match")
                return None

    class Engine:
        device_memory_size_v2 = ACTIVATIONS

        def __init__(self, plan: dict[str, Any], logger: ILogger) -> None:
            self._plan, self._logger = plan, logger
            self._tensors = {**plan[INPUT], **plan[OUTPUT]}

        @property
        def num_io_tensors(self) -> int:
            return len(self._tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self._tensors)[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return TensorIOMode.INPUT if name in self._plan[INPUT] else TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> str:
            return self._tensors[name][0]

        def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> Context:
            assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED
            module.contexts += 1
            return Context(self)

    class Context:
        def __init__(self, engine: Engine) -> None:
            self._engine = engine
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}
            self._memory = (0, 0)
            self._ran: set[tuple[Any, ...]] = set()

        def _refuse(self, text: str) -> bool:
            self._engine._logger.log(Severity.ERROR, f"IExecutionContext: {text}")
            return False

        def set_device_memory(self, memory: int, size: int) -> None:
            assert memory % 256 == 0 and driver.on_device(memory, size) and size >= ACTIVATIONS
            self._memory = (memory, size)

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            inputs, profile = self._engine._plan[INPUT], self._engine._plan["profile"]
            if name not in inputs:
                return self._refuse(f"setInputShape: {name} is no input")
            if not all(type(size) is int for size in shape):
                raise TypeError(f"set_input_shape: expected integers, got {shape}")
            declared = inputs[name][1]
            if len(shape) != len(declared) or any(
                isinstance(d, int) and d != s for d, s in zip(declared, shape, strict=True)
            ):
                return self._refuse(f"setInputShape: {name}: {shape} does not match {declared}")
            if name in profile:
                low, _, high = profile[name]
                if not all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True)):
                    return self._refuse(
                        f"Supplied dims {shape} of {name} not in [{low}, {high}] of profile 0"
                    )
            self._shapes[name] = shape
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if type(memory) is not int:
                raise TypeError(f"set_tensor_address: expected an integer, got {memory!r}")
            if name not in self._engine._plan[INPUT] and name not in self._engine._plan[OUTPUT]:
                return self._refuse(f"setTensorAddress: no tensor {name}")
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            plan = self._engine._plan
            if missing := [name for name in plan[INPUT] if name not in self._shapes]:
                return self._refuse(f"no shape for {', '.join(missing)}")
            if missing := [name for name in (*plan[INPUT], *plan[OUTPUT]) if not self._addresses.get(name)]:
                return self._refuse(f"no address for {', '.join(missing)}")
            if self._memory[0] == 0:
                return self._refuse("no device memory")
            shapes, addresses, memory = dict(self._shapes), dict(self._addresses), self._memory
            for name, (dtype, _) in plan[INPUT].items():
                nbytes = int(np.prod(shapes[name])) * np.dtype(dtype).itemsize
                assert driver.on_device(addresses[name], nbytes), f"{name} reaches beyond its memory"
                assert addresses[name] % 16 == 0, f"{name} is not aligned"
            key = tuple(sorted(shapes.items()))
            if driver.capturing(stream_handle) and (key not in self._ran or module.refuse_capture):
                driver.library.cuCtxSynchronize()  # as lazily initialised kernels do; it breaks the capture
                return False
            self._ran.add(key)
            module.enqueued.append(Path(plan["onnx"]).stem)
            return driver.enqueue(stream_handle, lambda: run(plan, shapes, addresses, memory)) == 0

    def run(
        plan: dict[str, Any],
        shapes: dict[str, tuple[int, ...]],
        addresses: dict[str, int],
        memory: tuple[int, int],
    ) -> None:
        ctypes.memset(memory[0], 0x5A, min(memory[1], 1 << 20))
        feeds = {
            name: array_at(addresses[name], shapes[name], dtype) for name, (dtype, _) in plan[INPUT].items()
        }
        module.executed.append(Path(plan["onnx"]).stem)
        results = session(plan["onnx"]).run(list(plan[OUTPUT]), feeds)
        for (name, (dtype, _)), result in zip(plan[OUTPUT].items(), results, strict=True):
            assert result.dtype == np.dtype(dtype), f"{name}: {result.dtype}, declared as {dtype}"
            assert driver.on_device(addresses[name], result.nbytes), f"{name} does not fit its memory"
            array_at(addresses[name], result.shape, dtype)[...] = result

    module: Any = ModuleType("tensorrt")
    module.__version__ = VERSION
    module.contexts = 0
    module.enqueued, module.executed, module.loaded_libraries = [], [], []
    module.refuse_capture = False
    module.engine_classes = (Engine, Context)
    module.nptype = np.dtype
    module.get_plugin_registry = Registry
    for item in (ILogger, Runtime, TensorIOMode, ExecutionContextAllocationStrategy):
        setattr(module, item.__name__, item)
    return module


def array_at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array over device memory."""
    nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * nbytes).from_address(address), dtype).reshape(shape)


@cache
def session(path: str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernels.ort_library()))
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
