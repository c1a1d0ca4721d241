"""A GPU with TensorRT that is none: the CUDA kernels on the CPU and the doubles of driver, PyCUDA and TensorRT, together."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorrt_double
from driver_double import DriverDouble

from zerograsp_edge.kernels import launchers
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.engines import EngineKey, store_engine
from zerograsp_edge.runtime.network import node_limits


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


def profile(bundle: Bundle, stage: str) -> dict[str, Any]:
    """Smallest, typical and largest shape of a stage's inputs, as engines are built for the bundle's limits."""
    g, limits = bundle.geometry, bundle.limits
    nodes = {d: most // 8 * 8 for d, most in node_limits(g, limits).items()}
    rows = (limits.max_objects << (3 * g.min_lod)) + (2 * g.residual_blocks + 1) ** 3
    multiple = g.image_multiple
    padded = {k: -(-n // multiple) * multiple for k, n in (("H", limits.max_height), ("W", limits.max_width))}
    most = {"B": limits.max_objects, "H": limits.max_height, "W": limits.max_width, "V": nodes[g.max_lod], "R": rows}
    most |= padded if stage == "image_encoder" else {}
    for d in g.depths:
        most |= {f"N{d}": nodes[d], f"S{d - 1}": nodes[d] // 8}
    if stage.startswith("decoder_") and (depth := int(stage[8:])) > g.min_lod:
        parents = rows if depth == g.min_lod + 1 else nodes[depth - 1]
        most |= {"P": parents, "S": nodes[depth] // 8, "N": nodes[depth], "M": nodes[depth]}
    shapes = {}
    for tensor in bundle.manifest["stages"][stage]["inputs"]:
        if any(isinstance(size, str) for size in tensor["shape"]):
            high = [most[size] if isinstance(size, str) else size for size in tensor["shape"]]
            low = [1 if isinstance(size, str) else size for size in tensor["shape"]]
            shapes[tensor["name"]] = [low, low, high]
    return shapes


def add_engines(bundle: Bundle, capability: tuple[int, int] = (8, 7)) -> Bundle:
    """Stores an engine of every stage in the bundle."""
    for name, stage in list(bundle.stages.items()):
        key = EngineKey(tensorrt_double.VERSION, capability, stage.precision)
        tensors = bundle.manifest["stages"][name]
        plan = tensorrt_double.make_plan(bundle.stage_path(name).resolve(), tensors, profile(bundle, name))
        bundle = store_engine(bundle, name, key, plan, {})
    return bundle
