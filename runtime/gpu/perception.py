"""How the GPU does what `runtime.perception` describes: TensorRT engines and CUDA kernels on one stream."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from zerograsp_edge.kernels.launchers import LaunchError, Launchers
from zerograsp_edge.runtime.backends.tensorrt import TensorRTExecutor, load_tensorrt
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.device import Device
from zerograsp_edge.runtime.engines import build_command
from zerograsp_edge.runtime.errors import DeviceError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.gpu.network import DeviceNetwork
from zerograsp_edge.runtime.gpu.result import DeviceResult
from zerograsp_edge.runtime.gpu.watch import DeviceWatch, drained
from zerograsp_edge.runtime.grasp.decode import OctreeCube
from zerograsp_edge.runtime.grasp.refine import RefineConfig
from zerograsp_edge.runtime.network import Stopwatch, Taps
from zerograsp_edge.runtime.perception import DrawNoise, Perceived
from zerograsp_edge.runtime.plugin_library import find_library


class DevicePerception:
    """Runs frames on the GPU. All its memory is allocated here.

    Args:
        bundle: with engines for this machine.
        device: the GPU.
        launch: the CUDA kernels.
        threads: CPU threads of what runs beside the engines.
        refine: how grasps are refined; without antipodal ones that is done here.
    """

    def __init__(
        self, bundle: Bundle, device: Device, launch: Launchers, threads: int, refine: RefineConfig | None
    ) -> None:
        self._device, self._geometry = device, bundle.geometry
        with device:
            self.executor = TensorRTExecutor(bundle, device, launch.path, threads)
            self._result = DeviceResult(bundle, device, launch, refine)
            self._network = DeviceNetwork(bundle, device, self.executor, launch, self._result.workspace)
            self._watch = DeviceWatch(device)

    def describe(self) -> dict[str, str]:
        major, minor = self._device.capability
        return {
            "gpu": f"{self._device.name}, compute capability {major}.{minor}",
            "tensorrt": self.executor.version,
        }

    def run(
        self,
        frame: Frame,
        ids: tuple[int, ...],
        watch: Stopwatch,
        draw_noise: DrawNoise,
        *,
        world_from_camera: np.ndarray | None = None,
        forced_splits: Mapping[int, np.ndarray] | None = None,
        taps: Taps | None = None,
    ) -> Perceived:
        network, result, marks, g = self._network, self._result, self._watch, self._geometry
        stream = network.stream
        try:
            with self._device, drained(stream):
                marks.start(watch, stream)
                seen = network.see(frame, ids, marks)
                noise = draw_noise(len(seen.ids))
                surface = network.run(frame, seen, marks, noise=noise, forced_splits=forced_splits, taps=taps)
                layout = result.enqueue(
                    frame, surface, network.scene, len(seen.ids), world_from_camera, network.scratch, stream
                )
                marks.mark("decode", stream)
                stream.synchronize()
                marks.finish()
                cube = OctreeCube(seen.z_min, g.grid_size, g.min_lod, g.max_lod)
                with watch("collect"):
                    objects, refined = result.collect(layout, seen.ids, cube, frame)
        except LaunchError as error:
            raise DeviceError(
                f"frame '{frame.name}': a CUDA kernel could not be launched: {error}"
            ) from error
        return Perceived(objects, tuple(seen.skipped), seen.z_min, refined)


def open_device_perception(bundle: Bundle, threads: int, refine: RefineConfig | None) -> DevicePerception:
    """The GPU of this machine, if it has all that is needed.

    Raises:
        MissingExtra: PyCUDA or TensorRT is not installed.
        DeviceError: there is no GPU, or the library of kernels and plugins is not built.
        EngineError: the bundle has no engines for this machine.
    """
    device, version = Device(), load_tensorrt().__version__
    library = find_library(version, device.capability)
    if library is None:
        major, minor = device.capability
        raise DeviceError(
            f"the CUDA kernels and plugins are not built for TensorRT {version} and compute capability "
            f"{major}.{minor}: run `{build_command(bundle)}` on this machine"
        )
    try:
        launch = Launchers(library)
    except ImportError as error:
        raise DeviceError(f"{error}; run `{build_command(bundle)}` on this machine") from error
    return DevicePerception(bundle, device, launch, threads, refine)
