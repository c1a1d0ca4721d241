"""A simulated work cell: a random world, the simulated robot in it, and its camera (extra `sim`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from zerograsp_edge.runtime.errors import ConfigError

if TYPE_CHECKING:
    from zerograsp_edge.runtime.robot.simulated import SimulatedRobot
    from zerograsp_edge.runtime.robot.simulated_camera import RobotCamera
    from zerograsp_edge.runtime.simulation.world import World

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class CellConfig:
    """A simulated work cell; a deployment file fills it (`robot: {sim: ...}`).

    Attributes:
        seed: of world, textures and noise.
        scene: one object, clutter on a table, or a pile in a bin.
        objects: fewest and most.
        families: `trained`: shapes like those that the edge model was trained on; `unseen`: other ones.
        eye, target: where the camera is and what it looks at, m, base frame.
        focal: of the camera, pixels, at 640x480.
    """

    seed: int = 0
    scene: Literal["single", "clutter", "pile"] = "clutter"
    objects: tuple[int, int] = (4, 5)
    families: Literal["trained", "unseen"] = "trained"
    eye: Vector = (-0.25, -0.38, 0.52)
    target: Vector = (0.0, 0.0, 0.02)
    focal: float = 600.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed: expected 0 or more, got {self.seed}")
        if not 1 <= self.objects[0] <= self.objects[1] <= 12:
            raise ConfigError(f"objects: expected fewest and most, 1 to 12, got {self.objects}")
        if not 100 <= self.focal <= 5000:
            raise ConfigError(f"focal: expected 100 to 5000 pixels, got {self.focal}")
        if not all(math.isfinite(v) for v in (*self.eye, *self.target)):
            raise ConfigError(f"eye, target: expected finite lengths, got {self.eye} and {self.target}")
        if np.hypot(self.eye[0] - self.target[0], self.eye[1] - self.target[1]) < 1e-3:
            raise ConfigError("eye: expected a place that is not straight above or below the target")

    def intrinsics(self) -> np.ndarray:
        """(3, 3) float32, pixels, of a picture of 640x480."""
        return np.array([[self.focal, 0, 319.5], [0, self.focal, 239.5], [0, 0, 1]], np.float32)


@dataclass(frozen=True, eq=False)
class Cell:
    """A world with a robot and a camera in it."""

    world: World
    robot: SimulatedRobot
    camera: RobotCamera


def make_cell(config: CellConfig) -> Cell:
    """Settle a world and put robot and camera into it.

    Raises:
        MissingExtra: no MuJoCo (extra `sim`). RenderError: no offscreen OpenGL. SceneError: no world from the seed.
    """
    from zerograsp_edge.runtime.robot.simulated import CameraMount, SimulatedRobot
    from zerograsp_edge.runtime.robot.simulated_camera import RobotCamera
    from zerograsp_edge.runtime.simulation.physics import MM, load_mujoco
    from zerograsp_edge.runtime.simulation.scenes import look_at, make_world
    from zerograsp_edge.runtime.simulation.sensor import MaskNoise, SensorNoise

    load_mujoco()
    split: Literal["test_trained", "test_unseen"] = (
        "test_trained" if config.families == "trained" else "test_unseen"
    )
    world = make_world(config.seed, split, config.scene, objects=config.objects)
    pose = look_at(np.asarray(config.eye) / MM, np.asarray(config.target) / MM)
    pose[:3, 3] *= MM
    robot = SimulatedRobot(world, CameraMount(pose))
    masks = MaskNoise(grow=(-1.0, 1.0), wobble=1.0, shift=0.4)
    return Cell(world, robot, RobotCamera(robot, config.intrinsics(), config.seed, SensorNoise(), masks))
