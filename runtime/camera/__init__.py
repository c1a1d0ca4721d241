"""Sources of frames, all of one shape: `read() -> Frame` (EndOfFrames at the end), `close()`, `with`."""

from __future__ import annotations

from zerograsp_edge.runtime.camera.base import Camera, CameraCounters, FrameSource

__all__ = ["Camera", "CameraCounters", "FrameSource"]
