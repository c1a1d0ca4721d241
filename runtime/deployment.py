"""One YAML file that says how a robot is deployed: model, camera, hand-eye, refinement, loop, robot."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerograsp_edge.runtime.configuration import build
from zerograsp_edge.runtime.errors import ConfigError
from zerograsp_edge.runtime.grasp.antipodal import AntipodalConfig
from zerograsp_edge.runtime.grasp.constraints import ApproachCone, Support
from zerograsp_edge.runtime.grasp.gripper import Gripper, gripper_preset
from zerograsp_edge.runtime.grasp.refine import RefineConfig
from zerograsp_edge.runtime.loop.config import LoopConfig
from zerograsp_edge.runtime.models import EDGE_MODEL

if TYPE_CHECKING:
    from zerograsp_edge.runtime.camera import Camera

# For a robot on a table at z = 0 of its base frame. What benchmarks/picking.py measures best.
_REFINE = RefineConfig(
    approach=ApproachCone(angle=75.0),
    support=Support(clearance=0.002, thickness=0.006),
    antipodal=AntipodalConfig(),
)


@dataclass(frozen=True)
class Deployment:
    """What the loop runs with.

    Attributes:
        bundle: the bundle to run; by default the edge model that ships with the package.
        threads: CPU threads; 0 takes all.
        hand_eye: file of a hand-eye calibration; None: the robot knows where the camera is.
        camera: `package.module:function` that returns a `Camera`, whose frames carry instance masks.
        camera_calibration: file that `zerograsp-edge calibrate camera` writes, applied to the camera's frames; None:
            frames are used as they come.
        refine: how grasps are refined; workspace, approach and support in the robot's base frame. An entry of the
            file changes that entry only; `gripper` is the name of a preset or its entries, and the robot's own where it
            is left out.
        loop: see `LoopConfig`.
        robot: entries of the robot's own configuration, by kind: `sim`, `franka`.
    """

    bundle: Path = EDGE_MODEL
    threads: int = 0
    hand_eye: Path | None = None
    camera: str = ""
    camera_calibration: Path | None = None
    refine: RefineConfig | None = None
    loop: LoopConfig = field(default_factory=LoopConfig)
    robot: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def refinement(self, gripper: Gripper) -> RefineConfig:
        """Refinement for a robot with that gripper, and an approach at least as long as the loop's is checked."""
        refine = replace(_REFINE, gripper=gripper) if self.refine is None else self.refine
        way = self.loop.motion.pregrasp_distance
        if refine.approach_distance is not None and refine.approach_distance < way:
            raise ConfigError(
                f"refine.approach_distance is {refine.approach_distance:g} m, shorter than the approach itself "
                f"(loop.motion.pregrasp_distance, {way:g} m): part of the way would not be checked"
            )
        return refine

    def open_camera(self) -> Camera:
        """The camera that the file names, with its calibration applied.

        Raises:
            ConfigError: none is named, it cannot be found or made, or the calibration cannot be read.
            CameraError: the calibration is of another camera.
        """
        module, _, name = self.camera.partition(":")
        if not (module and name):
            raise ConfigError(
                "camera: expected package.module:function, a function that returns a camera (read() -> Frame with an "
                f"instance mask), got {self.camera!r}"
            )
        try:
            make: Callable[[], Camera] = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"camera: {self.camera} cannot be found ({error})") from error
        calibration = None
        if self.camera_calibration is not None:  # read before a device is opened
            from zerograsp_edge.runtime.camera.correction import CameraCalibration, CorrectedCamera

            calibration = CameraCalibration.load(self.camera_calibration)
        camera = make()
        if not callable(getattr(camera, "read", None)):
            raise ConfigError(f"camera: {self.camera} returned {type(camera).__name__}, which has no read()")
        return camera if calibration is None else CorrectedCamera(camera, calibration)


def load_deployment(path: str | Path, robot: str) -> Deployment:
    """Read a deployment file; paths in it are relative to its folder.

    Args:
        robot: kind of the robot; its own presets are the defaults of `refine.gripper`.

    Raises:
        ConfigError: the file cannot be read, or an entry is unknown or wrong; the message names file and entry.
    """
    import yaml

    path = Path(path)
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if entries is None:
        entries = {}
    if not isinstance(entries, Mapping):
        raise ConfigError(f"{path}: expected a mapping, got {type(entries).__name__}")

    def read_path(value: Any, where: str) -> Path:
        if not isinstance(value, str):
            raise ConfigError(f"{where}: expected a path, got {value!r}")
        return path.parent / value

    readers = {
        Path: read_path,
        Gripper: _read_gripper,
        RefineConfig: lambda value, where: _read_refine(value, where, robot),
        dict[str, Mapping[str, Any]]: _read_robots,
    }
    try:
        return build(Deployment, entries, "deployment", readers)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


# The gripper that comes with each kind of robot.
GRIPPER_OF = {"sim": "simulated", "franka": "franka"}


def _read_refine(value: Any, where: str, robot: str) -> RefineConfig:
    """The entries given; the others as in _REFINE, for the robot's gripper."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {value!r}")
    readers = {Gripper: _read_gripper}
    given = build(RefineConfig, {"gripper": GRIPPER_OF[robot], **value}, where, readers)
    kept = {name: getattr(_REFINE, name) for name in ("approach", "support", "antipodal") if name not in value}
    return replace(given, **kept)


def _read_gripper(value: Any, where: str) -> Gripper:
    if not isinstance(value, str):
        return build(Gripper, value, where)
    try:
        return gripper_preset(value)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _read_robots(value: Any, where: str) -> dict[str, Mapping[str, Any]]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {value!r}")
    if unknown := [str(kind) for kind in value if kind not in GRIPPER_OF]:
        raise ConfigError(f"{where}: unknown entry {', '.join(unknown)}; known are {', '.join(GRIPPER_OF)}")
    return {kind: dict(entries or {}) for kind, entries in value.items()}
