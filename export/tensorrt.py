"""Builds the TensorRT engines of a bundle's stages, on the machine that will run them.

Runs where TensorRT does, on a Jetson too: it imports neither PyTorch nor onnx, TensorRT's own parser reads the stages.
Networks are strongly typed: an engine computes in the types that the graph says, and precision is decided where the
bundle is made. Only what TensorRT 10.3, 10.16 and 11 have in common is used; a test holds that.

TensorRT is passed as a module, so that TensorRT for RTX, which builds without a GPU, can take its place in tests.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from zerograsp_edge.export.engine_profile import Sizes, stage_ranges, tensor_shapes
from zerograsp_edge.export.tensorrt_errors import BuildError, ParseProblem, explain_build, explain_parse
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.engines import EngineError, EngineKey, find_engine, store_engine

Shapes = Mapping[str, tuple[Any, Any, Any]]


@dataclass(frozen=True)
class BuildOptions:
    """How engines are built."""

    workspace: int = 1024
    """Most memory that TensorRT may take for the scratch of one layer, MiB. A Jetson's GPU shares its memory with
    everything else: TensorRT's own default, all of it, can starve the machine."""
    level: int = 3
    """Optimisation level, 0 (builds fast) to 5 (tries most)."""
    tf32: bool = False
    """Round the factors of float32 products to 10 bits of mantissa: faster, and no longer what fp32 promises."""
    timing_cache: Path | None = None
    """File that keeps measured layer timings: building again is then much faster."""
    target: tuple[int, int] | None = None
    """Compute capability to build for, where this TensorRT can build for another GPU (TensorRT for RTX)."""

    def __post_init__(self) -> None:
        if self.workspace < 1:
            raise BuildError(f"workspace: expected at least 1 MiB, got {self.workspace}")
        if not 0 <= self.level <= 5:
            raise BuildError(f"level: expected 0 to 5, got {self.level}")


class Progress(Protocol):
    """What hears how far a build is; see TensorRT's IProgressMonitor. Called from TensorRT's threads."""

    def phase_start(self, name: str, parent: str | None, steps: int) -> None: ...

    def step_complete(self, name: str, step: int) -> None: ...

    def phase_finish(self, name: str) -> None: ...


@dataclass
class Messages:
    """What TensorRT said."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def clear(self) -> None:
        self.errors.clear()
        self.warnings.clear()


@dataclass(frozen=True)
class Built:
    """One engine: its serialised form, and how it came to be."""

    plan: memoryview
    seconds: float
    warnings: tuple[str, ...]


class EngineBuilder:
    """Builds engines, one after another, of ONNX files.

    Args:
        trt: the module `tensorrt`.
        options: how.
        plugins: the plugin library; None where its creators are registered already.
        log: receives every message of TensorRT with its severity (0 internal error ... 4 verbose).

    Raises:
        BuildError: TensorRT finds no usable GPU, or the plugin library does not load.
    """

    def __init__(
        self,
        trt: Any,
        options: BuildOptions | None = None,
        *,
        plugins: Path | None = None,
        log: Callable[[int, str], None] = lambda severity, text: None,
    ) -> None:
        self.version: str = trt.__version__
        self.options = options or BuildOptions()
        self._trt = trt
        self._messages = Messages()
        self._logger = _logger(trt, self._messages, log)
        try:
            self._builder = trt.Builder(self._logger)
        except TypeError as error:  # pybind11's way to say that there is none
            raise BuildError(explain_build("TensorRT cannot start", self._messages.errors)) from error
        if plugins is not None:
            _load_plugins(trt, plugins, self._messages)

    def build(
        self,
        name: str,
        onnx: Path,
        shapes: Shapes,
        tensors: Mapping[str, Mapping[str, str]],
        progress: Progress | None = None,
    ) -> Built:
        """Builds one engine.

        Args:
            name: what it is called, in the engine and in errors.
            onnx: the graph.
            shapes: smallest, typical and largest shape of every input that has a dynamic one.
            tensors: dtype by name, of `inputs` and of `outputs`: what the graph must have.
            progress: hears how far it is.

        Raises:
            BuildError: TensorRT cannot; the message says why and what to do.
            KeyboardInterrupt: Ctrl-C, as soon as TensorRT has finished a step.
        """
        trt, builder = self._trt, self._builder
        self._messages.clear()
        start = time.monotonic()
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        network.name = name
        self._parse(network, onnx, tensors)
        config = builder.create_builder_config()
        self._configure(config)
        profile = builder.create_optimization_profile()
        for tensor, (smallest, typical, largest) in shapes.items():
            profile.set_shape(tensor, smallest, typical, largest)
        # A profile that is empty, because all sizes are fixed, is refused.
        if shapes and config.add_optimization_profile(profile) < 0:
            raise BuildError(explain_build(f"{name}: sizes are refused", self._messages.errors))
        monitor = _monitor(trt, progress)
        config.progress_monitor = monitor
        with self._kept_timings(config), _stopping(monitor.stop):
            plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise BuildError(explain_build(f"{name}: no engine", self._messages.errors))
        return Built(memoryview(plan), time.monotonic() - start, tuple(self._messages.warnings))

    def _parse(self, network: Any, onnx: Path, tensors: Mapping[str, Mapping[str, str]]) -> None:
        trt = self._trt
        parser = trt.OnnxParser(network, self._logger)
        if not parser.parse_from_file(str(onnx)):
            problems = []
            for i in range(parser.num_errors):
                parser_error = parser.get_error(i)
                problems.append(
                    ParseProblem(
                        parser_error.code().name,
                        parser_error.desc(),
                        parser_error.node_name(),
                        parser_error.node_operator(),
                    )
                )
            raise BuildError(explain_parse(onnx, self.version, problems, self._messages.errors))
        # The parser accepts a file without any content.
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        outputs = [network.get_output(i) for i in range(network.num_outputs)]
        types = {
            trt.DataType.FLOAT: "float32",
            trt.DataType.HALF: "float16",
            trt.DataType.INT8: "int8",
            trt.DataType.INT32: "int32",
            trt.DataType.INT64: "int64",
            trt.DataType.UINT8: "uint8",
            trt.DataType.BOOL: "bool",
        }
        for what, found in (("inputs", inputs), ("outputs", outputs)):
            got = {io_tensor.name: types.get(io_tensor.dtype, str(io_tensor.dtype)) for io_tensor in found}
            if got != dict(tensors[what]):
                raise BuildError(
                    f"{onnx}: expected the {what} {_listed(tensors[what])}, TensorRT found {_listed(got)}; "
                    "export the bundle again"
                )

    def _configure(self, config: Any) -> None:
        trt, options = self._trt, self.options
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
        config.builder_optimization_level = options.level
        # Names of layers, for `zerograsp-edge profile`.
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if not options.tf32:
            config.clear_flag(trt.BuilderFlag.TF32)
        if options.target is not None:
            major, minor = options.target
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{major}{minor}"), 0)

    @contextmanager
    def _kept_timings(self, config: Any) -> Iterator[None]:
        """Uses the timing cache's file, and writes what is new to it, also when the build fails."""
        path = self.options.timing_cache
        if path is None:
            yield
            return
        old = path.read_bytes() if path.is_file() else b""
        timing_cache = config.create_timing_cache(old)
        # One of another TensorRT or GPU is refused; then a new one begins.
        if not config.set_timing_cache(timing_cache, False):
            timing_cache = config.create_timing_cache(b"")
            config.set_timing_cache(timing_cache, False)
        try:
            yield
        finally:
            plan = timing_cache.serialize()
            content = b"" if plan is None else bytes(plan)
            if content and content != old:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
                partial.write_bytes(content)
                partial.replace(path)


def build_engines(
    bundle: Bundle,
    builder: EngineBuilder,
    capability: tuple[int, int],
    typical: Sizes,
    *,
    stages: Sequence[str] = (),
    rebuild: bool = False,
    details: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    report: Callable[[str, Built | None], None] = lambda stage, built: None,
) -> Bundle:
    """Builds the engines that a bundle lacks for this machine and stores each as soon as it is there.

    Args:
        bundle: what to build; its manifest is written anew.
        builder: with what.
        capability: compute capability of the GPU that will run them.
        typical: sizes that TensorRT tunes for (`engine_profile.typical_sizes`).
        stages: which; all by default.
        rebuild: also those that are there.
        details: JSON values that go into the manifest with each engine (device, ...).
        progress: hears how far the current one is.
        report: called after every stage; with None when its engine was there.

    Returns:
        The bundle with its engines.

    Raises:
        BuildError: see `EngineBuilder.build`; engines that were finished before are kept.
        EngineError: the bundle cannot be written, or has no such stage.
    """
    if unknown := sorted(set(stages) - set(bundle.stages)):
        raise EngineError(
            f"no stage is called {', '.join(unknown)}; the bundle has {', '.join(bundle.stages)}"
        )
    ranges = stage_ranges(bundle, typical)
    options = builder.options
    for name in stages or bundle.stages:
        key = EngineKey(builder.version, capability, bundle.stages[name].precision)
        if not rebuild and _is_there(bundle, name, key):
            report(name, None)
            continue
        entry = bundle.manifest["stages"][name]
        tensors = {part: {t["name"]: t["dtype"] for t in entry[part]} for part in ("inputs", "outputs")}
        shapes = tensor_shapes(bundle, name, ranges[name])
        built = builder.build(name, bundle.stage_path(name), shapes, tensors, progress)
        how = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(built.seconds, 2),
            "workspace": options.workspace,
            "level": options.level,
            "tf32": options.tf32,
            "sizes": {dimension: list(r) for dimension, r in ranges[name].items()},
            **(details or {}),
        }
        bundle = store_engine(bundle, name, key, built.plan, how)
        report(name, built)
    return bundle


def _is_there(bundle: Bundle, stage: str, key: EngineKey) -> bool:
    try:
        find_engine(bundle, stage, key)
    except EngineError:
        return False
    return True


def _listed(tensors: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({dtype})" for name, dtype in sorted(tensors.items())) or "none"


def _load_plugins(trt: Any, path: Path, messages: Messages) -> None:
    """Registers the creators in a plugin library, once per process."""
    registry = trt.get_plugin_registry()
    if any(creator.plugin_namespace == "zerograsp" for creator in registry.all_creators):
        return
    if not path.is_file():
        raise BuildError(f"no plugin library at {path}")
    try:
        handle = registry.load_library(str(path))
    except Exception as error:
        messages.errors.append(str(error))
        handle = None
    if handle is None:
        raise BuildError(
            f"TensorRT {trt.__version__} cannot load the plugin library {path}: "
            f"{'; '.join(messages.errors) or 'no reason given'}; remove the file and run the command again, which "
            "builds it for this TensorRT"
        )


def _logger(trt: Any, messages: Messages, log: Callable[[int, str], None]) -> Any:
    class Logger(trt.ILogger):
        """Keeps errors and warnings; passes everything on."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                messages.errors.append(text)
            elif int(severity) == int(trt.ILogger.Severity.WARNING):
                messages.warnings.append(text)
            log(int(severity), text)

    return Logger()


def _monitor(trt: Any, progress: Progress | None) -> Any:
    class Monitor(trt.IProgressMonitor):
        """Passes progress on, and ends the build at the next step once `stop` is set."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.stop = threading.Event()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if progress is not None:
                progress.phase_start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if progress is not None:
                progress.step_complete(phase_name, step)
            return not self.stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            if progress is not None:
                progress.phase_finish(phase_name)

    return Monitor()


@contextmanager
def _stopping(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C sets `stop` and is raised at the end: an exception must not pass through TensorRT's frames."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if stop.is_set():
        raise KeyboardInterrupt
