"""What a source of frames is: live camera, recording, folder or simulation, all of one shape.

    with open_camera("realsense") as camera:     # runtime/camera/opening.py
        frame = camera.read()
        print(camera.counters)
"""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from zerograsp_edge.runtime.frame import Frame

# Of which clock `Frame.timestamp` is: `monotonic` is time.monotonic() of this computer at the moment of exposure, so
# that the age of a frame can be told; `own` is the source's and has no relation to this computer's.
TimestampClock = Literal["monotonic", "own"]


@dataclass
class CameraCounters:
    """What became of everything a source has delivered since it was opened.

    `frames + superseded + corrupted + duplicated + reordered + warm_up` is the number of colour-and-depth pairs that
    arrived, apart from the one that may be waiting for `read`.

    Attributes:
        frames: handed out by `read`.
        superseded: sound pairs that a newer one replaced before anybody read them.
        lost: numbers missing in the sequence of depth pictures: never arrived, dropped on the bus or by the driver.
        duplicated: pairs that had been delivered before.
        corrupted: pairs with a picture of the wrong size, all zero, or noise instead of a picture.
        reordered: pairs that arrived after a newer one.
        unpaired: depth without colour or colour without depth.
        warm_up: pairs left out while the exposure settled.
        stalls: times that nothing came for longer than allowed, though the device was there.
        unplugged: times that the device vanished.
        restarts: of the streams, to recover.
        resets: of the hardware, to recover.
    """

    frames: int = 0
    superseded: int = 0
    lost: int = 0
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0
    unpaired: int = 0
    warm_up: int = 0
    stalls: int = 0
    unplugged: int = 0
    restarts: int = 0
    resets: int = 0

    @property
    def dropped(self) -> int:
        """Pictures of the scene that nobody got to see: lost on the way, or superseded here."""
        return self.lost + self.superseded

    def __str__(self) -> str:
        named = {"dropped": self.dropped} | {name: getattr(self, name) for name in _FAULTS}
        return f"{self.frames} frames" + "".join(f", {count} {name}" for name, count in named.items() if count)


_FAULTS = ("duplicated", "corrupted", "reordered", "unpaired", "stalls", "unplugged", "restarts", "resets")


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


class FrameSource(Camera, Protocol):
    """A camera that can also say what it is and what became of its frames: what `open_camera` returns.

    Only `read` may block. A live source returns the newest frame that has not been read yet and raises CameraError when
    none comes in time; it goes on recovering by itself, so that `read` may be called again. `close` may be called from
    another thread, which ends a waiting `read` with CameraError.

    Attributes:
        name: what messages call it.
        clock: of `Frame.timestamp`.
        live: frames come by themselves, and those that are not read in time are superseded; False: they wait.
    """

    @property
    def name(self) -> str: ...

    @property
    def clock(self) -> TimestampClock: ...

    @property
    def live(self) -> bool: ...

    @property
    def counters(self) -> CameraCounters:
        """A copy, as of now."""
        ...

    def __enter__(self) -> FrameSource: ...
