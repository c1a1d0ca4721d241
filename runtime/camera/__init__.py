"""Sources of frames, all of one shape: `read() -> Frame` (EndOfFrames at the end), `close()`, `with`."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from zerograsp_edge.runtime.frame import Frame


class Camera(Protocol):
    """What the pipeline and the grasp loop expect of a source of frames."""

    def read(self) -> Frame:
        """The next frame. Raises EndOfFrames when a finite source is used up, CameraError on a failure."""

    def close(self) -> None:
        """Give the device back. Calling it twice is allowed."""

    def __enter__(self) -> Camera: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
