"""The lean side: camera in, complete shapes and grasps out. Imports neither torch nor anything of `export`.

Names are resolved on first use, so that `import zerograsp_edge.runtime` costs next to nothing:

    from zerograsp_edge.runtime import Frame, SimulatedCamera
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULE_OF = {
    "CameraError": "errors",
    "DeviceError": "errors",
    "EndOfFrames": "errors",
    "ExternalSegmenter": "segmentation.external",
    "FolderSegmenter": "segmentation.folder",
    "Frame": "frame",
    "FrameError": "errors",
    "FrameFolder": "camera.files",
    "GeometricSegmenter": "segmentation.geometric",
    "GraspLoop": "loop.machine",
    "Grasps": "result",
    "LoopConfig": "loop.config",
    "MaskPublisher": "segmentation.mask_publisher",
    "MissingExtra": "errors",
    "Bundle": "bundle",
    "BundleError": "bundle",
    "LimitError": "errors",
    "LiveConfig": "live.pipeline",
    "LivePipeline": "live.pipeline",
    "ObjectReconstruction": "result",
    "Pipeline": "pipeline",
    "Playback": "camera.playback",
    "RealSenseCamera": "camera.realsense.camera",
    "RealSenseConfig": "camera.realsense.config",
    "Result": "result",
    "Sam2Segmenter": "segmentation.sam2",
    "Segmentation": "segmentation",
    "Segmenter": "segmentation",
    "SharedMemoryMasks": "segmentation.external",
    "SimulatedCamera": "camera.simulated",
    "Viewer": "view",
    "SoftwareCamera": "camera.software",
    "ZeroGraspError": "errors",
    "ZmqMaskPublisher": "segmentation.mask_publisher",
    "ZmqMasks": "segmentation.external",
    "diagnose": "doctor",
    "load_bundle": "bundle",
    "load_sam2_bundle": "segmentation.sam2_bundle",
    "open_camera": "camera.opening",
    "read_frame": "camera.files",
    "write_outputs": "outputs",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
