"""A GPU with TensorRT that is none: the CUDA kernels on the CPU, doubles of driver, PyCUDA and TensorRT."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorrt_double
from driver_double import DriverDouble

from zerograsp_edge.export.engine_profile import Range, size_limits, tensor_shapes
from zerograsp_edge.kernels import launchers
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.engines import EngineKey, store_engine


class DeferredLaunchers(launchers.Launchers):
    """The kernels compiled for the CPU; a launch puts one on the driver's stream instead of running it."""

    def __init__(self, path: Path, driver: DriverDouble) -> None:
        self._driver = driver
        self.launched: list[str] = []
        super().__init__(path)

    def _launcher(self, library: ctypes.CDLL, name: str) -> Callable[..., None]:
        function, convert = launchers._function(
            library, name, launchers.LAUNCHERS[name], ctypes.c_int, ctypes.c_void_p
        )

        def launch(stream: int, **arguments: Any) -> None:
            values = convert(arguments)
            self.launched.append(name)

            def run() -> None:
                code = function(*values, None)
                assert code == 0, f"{name}: {self._error().decode()}"

            assert self._driver.enqueue(stream, run) == 0

        return launch


@dataclass
class Gpu:
    """What the doubles have seen."""

    driver: DriverDouble
    tensorrt: Any
    launchers: DeferredLaunchers


def profile(bundle: Bundle, stage: str) -> dict[str, Any]:
    """Smallest, typical and largest shape of a stage's inputs, as the engine builder derives them from the limits."""
    ranges = {name: Range(low, low, high) for name, (low, high) in size_limits(bundle)[stage].items()}
    return tensor_shapes(bundle, stage, ranges)


def add_engines(bundle: Bundle, capability: tuple[int, int] = (8, 7)) -> Bundle:
    """Stores an engine of every stage in the bundle."""
    for name, stage in list(bundle.stages.items()):
        key = EngineKey(tensorrt_double.VERSION, capability, stage.precision)
        tensors = bundle.manifest["stages"][name]
        plan = tensorrt_double.make_plan(bundle.stage_path(name).resolve(), tensors, profile(bundle, name))
        bundle = store_engine(bundle, name, key, plan, {})
    return bundle
