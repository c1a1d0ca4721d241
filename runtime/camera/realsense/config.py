"""How a RealSense camera is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zerograsp_edge.runtime.camera.recovery import RecoveryConfig
from zerograsp_edge.runtime.errors import ConfigError


@dataclass(frozen=True)
class FilterConfig:
    """librealsense's depth filters, all off by default; they run in the order that its documentation recommends:
    decimation, range, disparity, spatial, temporal, depth again, holes; then depth is aligned to colour.

    Attributes:
        decimation: 2 to 8 shrinks depth by that factor before everything else; 1 leaves it. Alignment brings it back to
            the size of colour.
        range: nearest and farthest depth that is kept, m.
        spatial: smooths within surfaces and keeps edges.
        temporal: averages over frames; for scenes and cameras that stand still. It sees only the frames that are read.
        holes: fills pixels without depth: from the left, with the farthest or with the nearest neighbour. That is made
            up, not measured.
    """

    decimation: int = 1
    range: tuple[float, float] | None = None
    spatial: bool = False
    temporal: bool = False
    holes: Literal["none", "left", "farthest", "nearest"] = "none"

    def __post_init__(self) -> None:
        if not 1 <= self.decimation <= 8:
            raise ConfigError(f"filters.decimation must lie in 1..8, got {self.decimation}")
        if self.range is not None and not 0 <= self.range[0] < self.range[1] <= 16:
            raise ConfigError(f"filters.range must be nearest < farthest, 0 to 16 m, got {self.range}")
        if self.holes not in ("none", "left", "farthest", "nearest"):
            raise ConfigError(f"filters.holes must be none, left, farthest or nearest, got '{self.holes}'")


@dataclass(frozen=True)
class RealSenseConfig:
    """Which camera, which streams, and how they are processed.

    Attributes:
        serial: serial number; None takes the only camera there is.
        width, height: of colour, and so of the frames, pixels.
        depth_width, depth_height: of depth as it is streamed; 0: those of colour.
        fps: pictures a second, of both.
        filters: of depth.
        preset: of the depth engine: default, hand, high_accuracy, high_density, medium_density; empty leaves it.
        advanced: JSON file of the advanced mode, as RealSense Viewer writes it.
        exposure: of depth, us; None: automatic.
        colour_exposure: in units of 100 us; None: automatic.
        emitter: the projector: on, off, or left as it is.
        sync: of several cameras on a sync cable: `none`, `master` or `slave`.
        warm_up: frames left out after every start, while the exposure settles.
        timeout: `read` gives up after this time, s, and may be called again.
        clock: of the timestamps: `monotonic` is this computer's time.monotonic(), `own` the device's.
        recovery: what is done when it stalls.
    """

    serial: str | None = None
    width: int = 640
    height: int = 480
    depth_width: int = 0
    depth_height: int = 0
    fps: int = 30
    filters: FilterConfig = field(default_factory=FilterConfig)
    preset: str = ""
    advanced: Path | None = None
    exposure: int | None = None
    colour_exposure: int | None = None
    emitter: Literal["on", "off", "keep"] = "keep"
    sync: Literal["none", "master", "slave"] = "none"
    warm_up: int = 15
    timeout: float = 1.0
    clock: Literal["monotonic", "own"] = "monotonic"
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)

    def __post_init__(self) -> None:
        for name in ("width", "height", "fps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if (self.depth_width > 0) != (self.depth_height > 0) or min(self.depth_width, self.depth_height) < 0:
            raise ConfigError(
                "depth_width and depth_height are given together, or neither; "
                f"got {self.depth_width} and {self.depth_height}"
            )
        for name, known in (
            ("emitter", ("on", "off", "keep")),
            ("sync", ("none", "master", "slave")),
            ("clock", ("monotonic", "own")),
            ("preset", ("", *PRESETS)),
        ):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got '{getattr(self, name)}'")
        if self.warm_up < 0 or not self.timeout > 0:
            raise ConfigError(
                f"warm_up must be 0 or more and timeout positive, got {self.warm_up} and {self.timeout:g}"
            )
        if self.advanced is not None and not self.advanced.is_file():
            raise ConfigError(f"advanced: {self.advanced} is not a file; expected JSON from RealSense Viewer")

    @property
    def depth_size(self) -> tuple[int, int]:
        """(width, height) of depth as it is streamed."""
        return (self.depth_width or self.width, self.depth_height or self.height)


# Names of rs2_rs400_visual_preset that every model of the family knows.
PRESETS = ("default", "hand", "high_accuracy", "high_density", "medium_density")
