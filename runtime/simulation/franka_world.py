"""A simulated Franka before a table with objects, and pictures of it: franky-sim in a process of its own.

The robot is reached as a real one is, through libfranka's protocol on a loopback address; this module has no other way
to move it. Objects, arm and hand share one MuJoCo world, and the pictures are of that world.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np

from zerograsp_edge.runtime.errors import CameraError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.hand_eye import HandEye, HandEyeResiduals, intrinsics_hash
from zerograsp_edge.runtime.robot.base import RobotError
from zerograsp_edge.runtime.simulation.physics import MM, body_name, load_mujoco, world_spec
from zerograsp_edge.runtime.simulation.render import ModelRenderer
from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

# Arm above the table, hand straight down, out of the camera's view of the table; rad.
READY = (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785)
TABLE_TOP_M = 0.1
_TABLE_MM = np.array([250.0, 400.0, 20.0])  # half edges
_START_S, _ANSWER_S = 180.0, 60.0
_WOOD = "0.55 0.42 0.30 1"


class FrankaWorld:
    """Starts the simulated robot; `close` ends it.

    Args:
        objects: on the table; poses in mm, in a frame in the middle of the table's top with the axes of the robot's
            base.
        table: (3,) middle of the table's top in the base frame, m.
        joints: (7,) where the arm begins, rad.

    Raises:
        RobotError: the process does not start; the message holds the end of what it said.
        MissingExtra: no MuJoCo.
    """

    def __init__(
        self,
        objects: Sequence[WorldObject],
        table: Sequence[float] = (0.5, 0.0, TABLE_TOP_M),
        joints: Sequence[float] = READY,
    ) -> None:
        mujoco = load_mujoco()
        self.objects = tuple(objects)
        self.base_from_table = np.eye(4)
        self.base_from_table[:3, 3] = table
        self._said: list[str] = []
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "zerograsp_edge.runtime.simulation.franka_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for pipe in (self._hear_answers, self._hear_errors):
            threading.Thread(target=pipe, daemon=True).start()
        assets, bodies = self._elements()
        started = self._request({"assets": assets, "bodies": bodies, "joints": list(joints)}, _START_S)
        self.host: str = started["host"]
        self.model = mujoco.MjModel.from_xml_string(started["scene"])
        self._data = mujoco.MjData(self.model)

    def state(self) -> tuple[float, Any]:
        """The time, s of `time.monotonic`, and the world's `MjData` as it was then, forward-computed; a copy."""
        answer = self._request({"ask": "state"}, _ANSWER_S)
        self._data.qpos[:] = answer["qpos"]
        load_mujoco().mj_forward(self.model, self._data)
        return float(answer["time"]), self._data

    def object_pose(self, object_id: int) -> np.ndarray:
        """(4, 4) float64, base <- object, m, now."""
        _, data = self.state()
        body = self.model.body(body_name(object_id)).id
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = data.xmat[body].reshape(3, 3), data.xpos[body]
        return pose

    def steps(self) -> int:
        """Milliseconds that the world has lived."""
        return int(self._request({"ask": "state"}, _ANSWER_S)["steps"])

    def reflex(self) -> None:
        """Let the robot stop with a reflex, as after a collision."""
        self._request({"ask": "reflex"}, _ANSWER_S)

    def close(self) -> None:
        """End the process. Twice is once."""
        if self._process.poll() is None:
            try:
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process.wait(3.0)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> FrankaWorld:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _elements(self) -> tuple[str, str]:
        """MJCF of table and objects, for the robot's scene: assets, and elements of the world body."""
        shift = self.base_from_table[:3, 3] / MM
        items = []
        for item in self.objects:
            pose = item.pose.copy()
            pose[:3, 3] += shift
            items.append(replace(item, pose=pose))
        table = SupportBox(shift - [0, 0, _TABLE_MM[2]], _TABLE_MM, np.eye(3))
        spec = world_spec(World("table", (table,), tuple(items), 0))
        spec.compile()
        root = ET.fromstring(spec.to_xml())
        bodies = root.find("worldbody")
        assert bodies is not None
        for geom in bodies.findall("geom"):
            geom.set("rgba", _WOOD)
        for item in items:
            shown = " ".join(f"{v:.3f}" for v in np.asarray(item.colour) ** (1 / 2.2))
            for geom in bodies.findall(f"body[@name='{body_name(item.object_id)}']/geom"):
                geom.set("rgba", f"{shown} 1")
        assets = root.find("asset")
        return (
            "<asset/>" if assets is None else ET.tostring(assets, encoding="unicode"),
            ET.tostring(bodies, encoding="unicode"),
        )

    def _request(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            deadline = time.monotonic() + seconds
            while True:
                try:
                    return self._answers.get(timeout=0.2)
                except queue.Empty:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        raise
        except (OSError, ValueError, queue.Empty) as error:
            self.close()
            said = " | ".join(line.strip() for line in self._said[-5:]) or "nothing"
            raise RobotError(f"the simulated Franka does not answer; it said: {said}") from error

    def _hear_answers(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(json.loads(line))

    def _hear_errors(self) -> None:
        assert self._process.stderr is not None
        self._said.extend(self._process.stderr)


class FrankaCamera:
    """An RGB-D camera beside the simulated robot, with exact depth and masks; see `Camera`.

    Pictures are rendered in the thread that calls `read`, always the same one.

    Args:
        world: what it looks at.
        pose: (4, 4) base <- camera optical frame, m.
        width, height: picture size, pixels; the focal length is 615 at width 640.
    """

    def __init__(self, world: FrankaWorld, pose: np.ndarray, width: int = 640, height: int = 480) -> None:
        self.world, self.pose, self._size = world, np.array(pose, np.float64), (width, height)
        focal = 615.0 * width / 640
        self.intrinsics = np.array(
            [[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]], np.float32
        )
        model = world.model
        model.vis.global_.offwidth, model.vis.global_.offheight = width, height
        # Antialiasing would blend depths and object numbers.
        model.vis.quality.offsamples, model.vis.quality.shadowsize = 0, 1024
        model.vis.headlight.ambient[:], model.vis.headlight.diffuse[:] = 0.25, 0.3
        ids = np.zeros(model.ngeom, np.uint8)
        for item in world.objects:
            ids[model.geom_bodyid == model.body(body_name(item.object_id)).id] = item.object_id
        self._renderer: ModelRenderer | None = ModelRenderer(model, world.state()[1], ids, width, height)
        self._count = 0

    @property
    def hand_eye(self) -> HandEye:
        """Where it stands, as a calibration without error."""
        return HandEye(
            mode="eye-to-hand",
            transform=self.pose,
            residuals=HandEyeResiduals(0.0, 0.0, 0.0, 0.0, 0.0, 0, 0),
            sufficient=True,
            date="",
            intrinsics=self.intrinsics,
            intrinsics_sha256=intrinsics_hash(self.intrinsics, None, self._size),
        )

    def read(self) -> Frame:
        """A picture of the world now; its timestamp is of `time.monotonic`."""
        if self._renderer is None:
            raise CameraError("this camera has been closed; make a new one")
        taken, _ = self.world.state()
        pose = self.pose.copy()
        pose[:3, 3] /= MM
        depth, mask = self._renderer.geometry(pose, self.intrinsics)
        self._count += 1
        return Frame(
            rgb=self._renderer.rgb(pose, self.intrinsics),
            depth=depth,
            intrinsics=self.intrinsics,
            mask=mask,
            timestamp=taken,
            name=f"franka-{self._count:04d}",
            background=0,
        )

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def __enter__(self) -> FrankaCamera:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
