"""Runs in a process of its own, for TensorRT aborts rather than raises at some errors: builds what it is told to.

    python rtx_worker.py TASK.json

The task names a function below and its arguments; its result, or the error's type and text, is printed as JSON on the
last line.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import stand_ins

from zerograsp_edge.export.tensorrt import BuildOptions, EngineBuilder, build_engines
from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.engines import EngineKey, find_engine

TARGET = (8, 6)  # Ampere, as Orin (8.7), which TensorRT for RTX does not build for
kept_alive: list[Any] = []


def load() -> Any:
    import tensorrt_rtx_bindings as trt
    import tensorrt_rtx_libs  # noqa: F401

    return trt


def make_builder(
    trt: Any, library: str | None = None, without: tuple[str, ...] = (), log: Any = None, **options: Any
) -> EngineBuilder:
    """A builder with the plugin library, or with stand-ins."""
    if "timing_cache" in options:
        options["timing_cache"] = Path(options["timing_cache"])
    builder = EngineBuilder(
        trt,
        BuildOptions(target=TARGET, **options),
        plugins=None if library is None else Path(library),
        log=log or (lambda severity, text: None),
    )
    if library is None:
        error = trt.ILogger.Severity.ERROR
        kept_alive.extend(stand_ins.register(trt, lambda text: builder._logger.log(error, text), without))
    return builder


def build(
    bundle: str, typical: dict[str, dict[str, int]], stages: list[str], **options: Any
) -> dict[str, Any]:
    """Builds a bundle's engines in place; returns for every stage the plan's size, seconds and warnings."""
    trt = load()
    built: dict[str, Any] = {}
    rebuild = options.pop("rebuild", False)
    progress: list[str] = []

    class Progress:
        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            progress.append(f"start {name}")

        def step_complete(self, name: str, step: int) -> None:
            progress.append(f"step {name}")

        def phase_finish(self, name: str) -> None:
            progress.append(f"finish {name}")

    result = build_engines(
        load_bundle(bundle),
        make_builder(trt, **options),
        TARGET,
        typical,
        stages=stages,
        rebuild=rebuild,
        details={"device": "none"},
        progress=Progress(),
        report=lambda stage, b: built.update(
            {stage: b and {"bytes": b.plan.nbytes, "seconds": b.seconds, "warnings": b.warnings}}
        ),
    )
    for name, stage in result.stages.items():
        if name in built:
            find_engine(result, name, EngineKey(trt.__version__, TARGET, stage.precision))
    return {"version": trt.__version__, "built": built, "progress": progress}


def build_graph(
    onnx: str, shapes: dict[str, Any], tensors: dict[str, dict[str, str]], **options: Any
) -> dict[str, Any]:
    """Builds an engine of one ONNX file."""
    trt = load()
    built = make_builder(trt, **options).build(Path(onnx).stem, Path(onnx), shapes, tensors)
    return {"bytes": built.plan.nbytes}


def parse(graphs: list[str], library: str | None) -> dict[str, Any]:
    """What plugins make of graphs: dtype and shape of the first output, None where refused; and the creators."""
    trt = load()
    builder = make_builder(trt, library)
    answers: list[Any] = []
    for graph in graphs:
        network = builder._builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, builder._logger)
        parsed = parser.parse_from_file(graph)
        output = network.get_output(0) if parsed else None
        answers.append(output and [output.dtype.name, list(output.shape)])
    creators = {
        f"{creator.name} {creator.plugin_version}": [
            [field.name, field.type.name] for field in creator.field_names
        ]
        for creator in trt.get_plugin_registry().all_creators
        if creator.plugin_namespace == stand_ins.NAMESPACE
    }
    return {"answers": answers, "creators": creators}


def interfaces() -> int:
    """The major version of TensorRT whose C++ interfaces these are; the flag's number differs between them."""
    return 10 if int(load().NetworkDefinitionCreationFlag.STRONGLY_TYPED) == 1 else 11


def members(classes: list[str]) -> dict[str, list[str] | None]:
    """What these classes of the package have, and the package itself; None for one that it lacks."""
    trt = load()
    places = {"tensorrt": trt, "Severity": trt.ILogger.Severity}
    found = {name: places.get(name, getattr(trt, name, None)) for name in classes}
    return {name: None if place is None else sorted(dir(place)) for name, place in found.items()}


def interrupted(onnx: str, shapes: dict[str, Any], tensors: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Ctrl-C at the first step of a build."""
    import os
    import signal

    class Progress:
        def phase_start(self, name: str, parent: str | None, steps: int) -> None: ...

        def step_complete(self, name: str, step: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)

        def phase_finish(self, name: str) -> None: ...

    builder = make_builder(load())
    try:
        builder.build("graph", Path(onnx), shapes, tensors, Progress())
    except KeyboardInterrupt:
        # The builder is as good as before.
        again = builder.build("graph", Path(onnx), shapes, tensors)
        return {"interrupted": True, "bytes": again.plan.nbytes}
    return {"interrupted": False}


def command(arguments: list[str]) -> dict[str, Any]:
    """The command line, with TensorRT for RTX as TensorRT and a GPU that is not there."""
    from zerograsp_edge.export import tensorrt as module
    from zerograsp_edge.runtime import cli, device, plugin_library
    from zerograsp_edge.runtime.backends import tensorrt as backend

    trt = load()

    class Device:
        name, capability = "a test's GPU", TARGET

        def __enter__(self) -> Device:
            return self

        def __exit__(self, *error: object) -> None: ...

    class Builder(EngineBuilder):
        def __init__(self, trt: Any, options: BuildOptions, *, plugins: Path, log: Any) -> None:
            assert plugins == Path("built")
            super().__init__(trt, options, log=log)
            kept_alive.extend(stand_ins.register(trt, print))

    built: list[object] = []
    device.Device = Device  # type: ignore[assignment, misc]
    backend.load_tensorrt = lambda: trt
    module.EngineBuilder = Builder  # type: ignore[misc]
    plugin_library.find_library = lambda version, capability: None
    plugin_library.build_library = lambda *key: built.append(key[:2]) or Path("built")  # type: ignore[func-returns-value]
    status = cli.main(arguments)
    return {"status": status, "version": trt.__version__, "libraries": built}


if __name__ == "__main__":
    task = json.loads(Path(sys.argv[1]).read_text())
    try:
        answer = {"result": globals()[task.pop("function")](**task)}
    except Exception as error:
        traceback.print_exc()
        answer = {"error": str(error), "type": type(error).__name__}
    print(json.dumps(answer), flush=True)
