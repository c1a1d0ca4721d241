"""The GPU executor: a bundle's stages as TensorRT engines, between addresses of device memory.

It enqueues and never waits. All contexts share one block of memory for activations, which is sound because
everything runs on one stream. Only what TensorRT 10.3, 10.16 and 11 have in common is used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zerograsp_edge.runtime.bundle import Bundle, BundleError
from zerograsp_edge.runtime.device import Device, Stream, aligned
from zerograsp_edge.runtime.engines import EngineKey, build_command, find_engine
from zerograsp_edge.runtime.errors import DeviceError, MissingExtra
from zerograsp_edge.runtime.extras import require

OLDEST = (10, 3)

Tensor = tuple[int, tuple[int, ...]]
"""Address and shape of an input."""


class TensorRTExecutor:
    """Holds the engines of a bundle and one execution context for each.

    Args:
        bundle: with engines for this machine's TensorRT and GPU.
        device: current while this is made and used.
        plugins: the library of the plugins, `libzerograsp_trt.so`.
        threads: CPU threads of what runs beside the engines; 0 takes all cores this process may use.

    Attributes:
        memory: bytes of activation memory that `use_memory` must be given before anything is enqueued.

    Raises:
        MissingExtra: TensorRT's Python module is not installed.
        EngineError: an engine is missing or not for this machine; the message holds the command that builds it.
        DeviceError: TensorRT refuses an engine; with what it said.
    """

    name = "tensorrt"

    def __init__(self, bundle: Bundle, device: Device, plugins: Path, threads: int = 0) -> None:
        trt = self._trt = load_tensorrt()
        self.version: str = trt.__version__
        self.threads = threads or len(os.sched_getaffinity(0))
        self._said: list[str] = []
        self._logger = _logger(trt, self._said)
        self._build = build_command(bundle)
        _load_plugins(trt, plugins, self._said)
        self._runtime = trt.Runtime(self._logger)
        self._engines = {name: self._load(bundle, name, device.capability) for name in bundle.stages}
        self.memory = max(aligned(engine.device_memory_size_v2) for engine in self._engines.values())
        self._block = (0, 0)
        self._contexts = {name: self._context(name) for name in self._engines}

    def use_memory(self, address: int, nbytes: int) -> None:
        """Where activations go, from now on: device memory that nothing on another stream uses."""
        self._block = (address, nbytes)
        for context in self._contexts.values():
            context.use_memory(address, nbytes)

    def another_context(self, stage: str) -> Context:
        """A further context of a stage: work that a CUDA graph has captured needs one of its own."""
        context = self._context(stage)
        context.use_memory(*self._block)
        return context

    def enqueue(
        self, stage: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, int], stream: Stream
    ) -> None:
        """Puts a stage on a stream; see `Context.enqueue`."""
        self._contexts[stage].enqueue(inputs, outputs, stream)

    def _load(self, bundle: Bundle, name: str, capability: tuple[int, int]) -> Any:
        stage = bundle.stages[name]
        path = find_engine(bundle, name, EngineKey(self._trt.__version__, capability, stage.precision))
        self._said.clear()
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise DeviceError(
                f"{path}: TensorRT {self._trt.__version__} refused the engine{_quoted(self._said)}; "
                f"build it on this machine: {self._build}"
            )
        expected = _declared(bundle, name)
        got = {}
        for i in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(i)
            kind = "input" if engine.get_tensor_mode(tensor) == self._trt.TensorIOMode.INPUT else "output"
            got[tensor] = (kind, np.dtype(self._trt.nptype(engine.get_tensor_dtype(tensor))).name)
        if got != expected:
            differing = sorted(t for t in {*got, *expected} if got.get(t) != expected.get(t))
            wanted, found = ([table.get(tensor) for tensor in differing] for table in (expected, got))
            raise BundleError(
                f"{path}: its tensors {', '.join(differing)} are not those of {stage.file}: expected {wanted}, "
                f"got {found}; build it again: {self._build}"
            )
        return engine

    def _context(self, stage: str) -> Context:
        self._said.clear()
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engines[stage].create_execution_context(strategy)
        if context is None:
            raise DeviceError(
                f"{stage}: TensorRT could not make an execution context{_quoted(self._said)}; {_FREE}"
            )
        return Context(stage, context, self._said, self._build)


class Context:
    """One execution context. Shapes and addresses are handed to TensorRT when they change."""

    def __init__(self, stage: str, context: Any, said: list[str], build: str) -> None:
        self._stage, self._context, self._said, self._build = stage, context, said, build
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def use_memory(self, address: int, nbytes: int) -> None:
        self._context.set_device_memory(address, nbytes)

    def enqueue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, int], stream: Stream) -> None:
        """Puts the stage on a stream.

        Args:
            inputs: address and shape by name, of every input.
            outputs: address by name, of every output; room for the shape that follows from the inputs'.

        Raises:
            DeviceError: TensorRT refuses a shape or cannot enqueue; with what it said.
        """
        context = self._context
        self._said.clear()
        for name, (address, shape) in inputs.items():
            if self._shapes.get(name) != shape:
                if not context.set_input_shape(name, shape):
                    raise DeviceError(
                        f"{self._stage}: the engine does not take {name} of shape {shape}{_quoted(self._said)}; "
                        f"build it again: {self._build}"
                    )
                self._shapes[name] = shape
            self._set_address(name, address)
        for name, address in outputs.items():
            self._set_address(name, address)
        if not context.execute_async_v3(stream.handle):
            self._shapes.clear()
            self._addresses.clear()
            raise DeviceError(f"{self._stage}: TensorRT could not enqueue it{_quoted(self._said)}; {_FREE}")

    def _set_address(self, name: str, address: int) -> None:
        if self._addresses.get(name) == address:
            return
        if not self._context.set_tensor_address(name, address):
            raise DeviceError(f"{self._stage}: TensorRT does not know a tensor {name}{_quoted(self._said)}")
        self._addresses[name] = address


def load_tensorrt() -> Any:
    """The module `tensorrt`.

    Raises:
        MissingExtra: it is not installed, or too old.
    """
    how = (
        "on a Jetson: `sudo apt-get install python3-libnvinfer`, and a virtual environment made with "
        "--system-site-packages; elsewhere: pip install 'tensorrt>=10.3'"
    )
    try:
        trt = require("tensorrt", "jetson", "run TensorRT engines")
    except MissingExtra as error:
        raise MissingExtra(f"{str(error).split('; ')[0]}; {how}") from error
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < OLDEST:
        raise MissingExtra(
            f"expected TensorRT {OLDEST[0]}.{OLDEST[1]} or newer, got {trt.__version__}; {how}"
        )
    return trt


def _declared(bundle: Bundle, stage: str) -> dict[str, tuple[str, str]]:
    """Direction and dtype of every tensor of a stage, as its manifest says."""
    entry = bundle.manifest["stages"][stage]
    return {t["name"]: (kind, t["dtype"]) for kind in ("input", "output") for t in entry[f"{kind}s"]}


def _logger(trt: Any, said: list[str]) -> Any:
    """Keeps what TensorRT says about errors, for the exceptions."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                said.append(text)

    return Logger()


def _load_plugins(trt: Any, library: Path, said: list[str]) -> None:
    registry = trt.get_plugin_registry()
    if any(creator.plugin_namespace == "zerograsp" for creator in registry.all_creators):
        return
    try:
        handle = registry.load_library(str(library))
    except Exception as error:  # whatever the binding makes of a library that does not load
        said.append(str(error))
        handle = None
    if handle is None:
        raise DeviceError(
            f"{library}: TensorRT {trt.__version__} cannot load the plugins{_quoted(said)}; "
            "build them on this machine with its TensorRT: zerograsp-edge build"
        )


_FREE = "is there enough free memory? (`free -m`, `zerograsp-edge doctor`)"


def _quoted(said: list[str]) -> str:
    """What TensorRT said, in a sentence; the last few messages hold the cause."""
    return f": {' | '.join(' '.join(text.split()) for text in said[-3:])}" if said else ""
