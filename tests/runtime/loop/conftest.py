"""A scripted work cell on a virtual clock: robot, camera and perception that fail when they are told to.

A camera looks straight down on a table with blocks; what it shows follows what the gripper does. Everything that the
loop asks for is written into a journal, in order, so that tests can say what must not have happened.
"""

from __future__ import annotations

import json
import threading
import time as clocks
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.errors import CameraError, EndOfFrames, FrameError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.gripper import FRANKA
from zerograsp_edge.runtime.loop import GraspLoop, Limits, LoopConfig, TipsPose
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction, Result
from zerograsp_edge.runtime.robot.base import MotionRefused, RobotError, RobotState

PERIOD = 0.01
WIDTH, HEIGHT, FOCAL = 96, 72, 80.0
INTRINSICS = np.array([[FOCAL, 0, 47.5], [0, FOCAL, 35.5], [0, 0, 1]], np.float32)
CAMERA = np.array([[1.0, 0, 0, 0.4], [0, -1.0, 0, 0.0], [0, 0, -1.0, 0.6], [0, 0, 0, 1]])
HOME = TipsPose((0.4, 0.5, 0.4)).matrix()
DROP = TipsPose((0.4, 0.6, 0.2))
BLOCK = 0.04  # edge of every block, m


@dataclass
class Entry:
    """What the loop asked for: `command`, `read`, `perceive` or `stop`, and how it went."""

    time: float
    kind: str
    name: str
    good: bool = True


class Clock:
    """Virtual time; `real` seconds pass for every virtual one."""

    def __init__(self, real: float = 0.0) -> None:
        self.time, self.real, self.ticks = 100.0, real, 0
        self.on_tick: Callable[[float], object] = lambda now: None

    def sleep(self, seconds: float) -> None:
        self.ticks += 1
        assert self.ticks < 100_000, "the loop does not end"
        if self.real:
            clocks.sleep(seconds * self.real)
        self.time += seconds
        self.on_tick(self.time)


class ScriptedRobot:
    """Moves at 0.5 m/s in straight lines. Fault switches are public attributes."""

    name, gripper, control_period = "scripted", FRANKA, PERIOD

    def __init__(self, clock: Clock, journal: list[Entry], blocks: dict[int, np.ndarray]) -> None:
        self.clock, self.journal, self.blocks = clock, journal, blocks
        self.held: int | None = None
        self.fault = ""
        self.stops: list[float] = []
        self.reports_holding = True  # else: cannot tell
        self.refuse: Callable[[str, int], bool] = lambda name, count: False
        self.fails: Callable[[str, int], bool] = lambda name, count: False
        self.stuck: Callable[[str, int], bool] = lambda name, count: False  # never arrives
        self.short: Callable[[str, int], bool] = lambda name, count: False  # stops half-way, without a fault
        self.misses: Callable[[int], bool] = lambda count: False  # this closing holds nothing
        self.slips: Callable[[int], bool] = lambda count: False  # lost half-way through this motion
        self.recovers = True
        self.out_of_reach: Callable[[np.ndarray], bool] = lambda tips: False
        self.counts: dict[str, int] = {}
        self._tips, self._opening = HOME.copy(), 0.08
        self._from, self._to, self._opening_to = self._tips, self._tips, 0.08
        self._began = self._ends = clock.time
        self._breaks = False

    def now(self) -> float:
        return self.clock.time

    def sleep(self, seconds: float) -> None:
        self.clock.sleep(seconds)

    def state(self) -> RobotState:
        self._advance()
        moving = not self.fault and self.clock.time < self._ends
        holding = (self.held is not None) if self.reports_holding else None
        return RobotState(self._tips.copy(), self._opening, moving, holding, self.fault, self.clock.time)

    def camera_pose(self, time: float) -> np.ndarray:
        return CAMERA.copy()

    def reachable(self, tips: np.ndarray) -> np.ndarray:
        assert tips.ndim == 3
        return np.array([not self.out_of_reach(pose) for pose in tips])

    def reach(self, tips: np.ndarray, speed: float = 1.0) -> None:
        self._command("reach", tips)

    def follow(self, path: np.ndarray, speed: float = 1.0) -> None:
        self._command("follow", path[-1])

    def grip(self, opening: float, force: float | None = None) -> None:
        self._command("close" if opening == 0 else "open", None)
        if opening == 0:
            near = [i for i, at in self.blocks.items() if np.linalg.norm(at - self._tips[:3, 3]) < 0.015]
            self.held = near[0] if near and not self.misses(self.counts["close"]) else None
            self._opening_to = BLOCK if self.held is not None else 0.0
        else:
            self.held, self._opening_to = None, opening

    def stop(self) -> None:
        self._advance()
        self._ends = min(self._ends, self.clock.time)
        self._to, self._opening_to = self._tips.copy(), self._opening
        self.stops.append(self.clock.time)
        self.journal.append(Entry(self.clock.time, "stop", "stop"))

    def recover(self) -> None:
        if not self.recovers:
            raise RobotError("the brakes stay shut")
        self.fault = ""

    def close(self) -> None:
        self.stop()

    def _command(self, name: str, goal: np.ndarray | None) -> None:
        self._advance()
        assert not self.clock.time < self._ends, f"{name} while moving"
        count = self.counts[name] = self.counts.get(name, 0) + 1
        self.journal.append(Entry(self.clock.time, "command", name))
        if self.fault or self.refuse(name, count):
            raise MotionRefused(f"{name} number {count} is refused {self.fault}")
        self._from = self._tips
        self._to = self._tips if goal is None else np.asarray(goal, np.float64)
        way = float(np.linalg.norm(self._to[:3, 3] - self._from[:3, 3]))
        self._began, self._ends = self.clock.time, self.clock.time + max(way / 0.5, 0.05)
        self._breaks = self.fails(name, count)
        if self.stuck(name, count):
            self._ends = np.inf
        if self.short(name, count):
            middle = self._to.copy()
            middle[:3, 3] = (self._from[:3, 3] + self._to[:3, 3]) / 2
            self._to = middle
        if self.held is not None and self.slips(count) and name == "follow":
            self.held = None

    def _advance(self) -> None:
        done = min((self.clock.time - self._began) / max(self._ends - self._began, 1e-9), 1.0)
        if self._breaks and done > 0.4:
            self.fault, self._breaks = "joint 3: collision detected", False
            self._ends, self._to = self.clock.time, self._tips
            return
        self._tips = self._to.copy() if done >= 1 else np.array(self._from)
        if 0 < done < 1:
            self._tips[:3, 3] += done * (self._to[:3, 3] - self._from[:3, 3])
        if done >= 1:
            self._opening = self._opening_to
        if self.held is not None:
            self.blocks[self.held] = self._tips[:3, 3].copy()


class ScriptedCamera:
    """One frame a call, of now. `script` names the fault of each call, by its number from 0."""

    def __init__(self, clock: Clock, journal: list[Entry], blocks: dict[int, np.ndarray]) -> None:
        self.clock, self.journal, self.blocks = clock, journal, blocks
        self.script: Callable[[int], str] = lambda index: ""
        self.release = threading.Event()  # lets a hanging call go on
        self.last: Frame | None = None
        self.reads = 0

    def read(self) -> Frame:
        fault = self.script(self.reads)
        self.reads += 1
        if fault in ("frozen", "identical") and self.last is None:
            fault = ""
        self.journal.append(Entry(self.clock.time, "read", fault, good=not fault))
        if fault == "gone":
            raise CameraError("USB device is gone")
        if fault == "end":
            raise EndOfFrames("all frames have been read")
        if fault == "broken":
            raise OSError(5, "Input/output error")
        if fault == "bad":
            raise FrameError("depth has no valid pixel")
        if fault == "hang":
            assert self.release.wait(30)
        if fault == "not a frame":
            return None  # type: ignore[return-value]
        last = self.last
        if fault == "frozen" and last is not None:
            return last
        if fault == "identical" and last is not None:
            return Frame(last.rgb, last.depth, INTRINSICS, last.mask, self.clock.time, "again", background=0)
        delay = {"stale": -3.0, "future": 3.0}.get(fault, 0.0)
        self.last = self._picture(self.clock.time + delay)
        return self.last

    def _picture(self, timestamp: float) -> Frame:
        rng = np.random.default_rng(self.reads)
        depth = np.full((HEIGHT, WIDTH), 600.0, np.float32)
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for number, at in self.blocks.items():
            x, y, z = (at - CAMERA[:3, 3]) @ CAMERA[:3, :3]
            z -= BLOCK / 2
            left, right = (round(FOCAL * (x + s * BLOCK / 2) / z + 47.5) for s in (-1, 1))
            top, bottom = (round(FOCAL * (y + s * BLOCK / 2) / z + 35.5) for s in (-1, 1))
            if left >= 0 and top >= 0 and right < WIDTH and bottom < HEIGHT:
                depth[top : bottom + 1, left : right + 1] = z * 1000
                mask[top : bottom + 1, left : right + 1] = number
        depth += rng.normal(0, 0.5, depth.shape).astype(np.float32)
        rgb = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        return Frame(rgb, depth, INTRINSICS, mask, timestamp, f"frame {self.reads}", background=0)

    def close(self) -> None: ...

    def __enter__(self) -> ScriptedCamera:
        return self

    def __exit__(self, *_: object) -> None: ...


class ScriptedPerception:
    """Finds every block of the mask, with a top-down grasp each. `script` names the fault of each call."""

    def __init__(self, clock: Clock, journal: list[Entry]) -> None:
        self.clock, self.journal = clock, journal
        self.script: Callable[[int], str] = lambda index: ""
        self.release = threading.Event()
        self.calls = 0
        self.grasps_per_object = 3

    def __call__(self, frame: Frame, base_from_camera: np.ndarray) -> Result:
        fault = self.script(self.calls)
        self.calls += 1
        ids = frame.object_ids()
        good = not fault and len(ids) > 0
        self.journal.append(Entry(self.clock.time, "perceive", fault, good))
        if fault == "raise":
            raise RuntimeError("tensor is not finite")
        if fault == "hang":
            assert self.release.wait(30)
        if fault == "wrong":
            return {"grasps": []}  # type: ignore[return-value]
        objects = () if fault == "empty" else tuple(
            self._object(frame, base_from_camera, i, number, fault) for i, number in enumerate(ids)
        )  # fmt: skip
        return Result(objects=objects, timings={"network": 1.0}, name=frame.name, timestamp=frame.timestamp)

    def _object(
        self, frame: Frame, base_from_camera: np.ndarray, index: int, number: int, fault: str
    ) -> ObjectReconstruction:
        assert frame.mask is not None
        points = frame.point_image()[frame.mask == number]
        top = points.mean(axis=0) / 1000
        count = 0 if fault == "no grasp" else self.grasps_per_object
        base = TipsPose((0, 0, 0)).matrix()[:3, :3]
        rotation = (base_from_camera[:3, :3].T @ base).astype(np.float32)
        spread = np.array([[0.0, 0.0, 0.0], [0.001, 0, 0], [0.002, 0, 0]], np.float32)[:count]
        nan = np.float32(np.nan if fault == "nan" else 0)
        grasps = Grasps(
            score=(0.9 - 0.1 * index - 0.01 * np.arange(count)).astype(np.float32),
            width=np.full(count, 0.06, np.float32),
            depth=np.full(count, BLOCK / 2, np.float32),
            rotation=np.tile(rotation, (count, 1, 1)),
            translation=top.astype(np.float32) + spread + nan,
            object_id=np.full(count, number, np.int32),
        )
        empty = np.zeros((0, 3), np.float32)
        return ObjectReconstruction(
            number, index, points, empty, np.zeros(0, np.float32), empty.astype(np.int32), empty, 2.5, grasps
        )


@dataclass
class Cell:
    """Everything together."""

    clock: Clock
    journal: list[Entry]
    robot: ScriptedRobot
    camera: ScriptedCamera
    perceive: ScriptedPerception
    log: Path
    events: list[Any] = field(default_factory=list)

    def loop(self, config: LoopConfig | None = None, **options: Any) -> GraspLoop:
        """Events go to `events` and to the file `log`."""
        options.setdefault("threaded", False)
        callback = options.pop("callback", lambda event: None)

        def hear(event: Any) -> None:
            self.events.append(event)
            callback(event)

        config = LoopConfig(place=(DROP,), limits=Limits(pause=0.05)) if config is None else config
        return GraspLoop(
            self.robot, self.camera, self.perceive, config, log=self.log, callback=hear, **options
        )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def commands(self) -> list[str]:
        return [entry.name for entry in self.journal if entry.kind == "command"]

    def assert_safe(self, ending: str) -> None:
        """The robot was stopped last, nothing moves, and the log says why."""
        assert self.journal[-1].kind == "stop"
        assert not self.robot.state().moving
        last = self.lines()[-1]
        assert (last["state"], last["ending"]) == ("end", ending)
        assert last["explanation"]


def make_cell(log: Path, positions: tuple[tuple[float, float], ...] = ((0.4, 0.0),), real: float = 0.0) -> Cell:
    clock, journal = Clock(real), []
    blocks = {i + 1: np.array([x, y, BLOCK / 2]) for i, (x, y) in enumerate(positions)}
    return Cell(
        clock, journal, ScriptedRobot(clock, journal, blocks), ScriptedCamera(clock, journal, blocks),
        ScriptedPerception(clock, journal), log,
    )  # fmt: skip


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    """One block."""
    return make_cell(tmp_path / "loop.jsonl")


@pytest.fixture
def new_cell(tmp_path: Path) -> Callable[..., Cell]:
    return lambda *positions, **options: make_cell(tmp_path / "loop.jsonl", positions, **options)
