"""The RGB-D camera of a simulated robot: its world rendered, with the errors of a stereo camera and a segmenter."""

from __future__ import annotations

from types import TracebackType

import numpy as np

from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.robot.simulated import SimulatedRobot
from zerograsp_edge.runtime.simulation.physics import MM
from zerograsp_edge.runtime.simulation.render import Picture, WorldRenderer
from zerograsp_edge.runtime.simulation.scenes import HEIGHT, WIDTH, expose
from zerograsp_edge.runtime.simulation.sensor import MaskNoise, SensorNoise, measure_depth, segment

_GRIPPER_BOXES = 3


class RobotCamera:
    """Implements `Camera`, at the pose of the robot's camera mount. The gripper is in the picture.

    Args:
        robot: made with a CameraMount.
        intrinsics: (3, 3) pixels, of a picture of 640x480.
        seed: of textures, light and noise.
        sensor, masks: strength of the errors; by default drawn.

    Raises:
        RobotError: the robot has no camera. RenderError: no offscreen OpenGL.
    """

    def __init__(
        self,
        robot: SimulatedRobot,
        intrinsics: np.ndarray,
        seed: int = 0,
        sensor: SensorNoise | None = None,
        masks: MaskNoise | None = None,
    ) -> None:
        robot.camera_pose(robot.now())
        self._robot, self._seed, self._count = robot, seed, 0
        self.intrinsics = np.asarray(intrinsics, np.float32)
        rng = np.random.default_rng((seed, 0))
        self.sensor = SensorNoise.draw(rng) if sensor is None else sensor
        self.masks = MaskNoise.draw(rng) if masks is None else masks
        self._renderer = WorldRenderer(robot.world, rng, WIDTH, HEIGHT, boxes=_GRIPPER_BOXES)
        self.truth: Picture | None = None

    def read(self) -> Frame:
        """The world now; `truth` is then the picture without errors. The mask may hold no object."""
        self._count += 1
        rng = np.random.default_rng((self._seed, self._count))
        self.truth = picture = self.picture()
        depth = measure_depth(picture.depth, picture.rgb, self.intrinsics, self.sensor, rng)
        return Frame(
            expose(picture.rgb, rng),
            depth,
            self.intrinsics,
            mask=segment(picture.mask, depth, self.masks, rng),
            timestamp=self._robot.now(),
            name=f"robot-{self._seed}-{self._count:04d}",
            background=0,
        )

    def picture(self) -> Picture:
        """The world now as an ideal camera sees it, under a light that does not change."""
        robot = self._robot
        pose = robot.camera_pose(robot.now())
        pose[:3, 3] /= MM
        self._renderer.move(robot.object_poses(), robot.present(), robot.gripper_boxes())
        light = np.random.default_rng((self._seed, 0))
        return self._renderer.render(pose, self.intrinsics, light, fractions=False)

    def close(self) -> None:
        self._renderer.close()

    def __enter__(self) -> RobotCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
