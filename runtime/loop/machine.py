"""The grasp loop's state machine."""

from __future__ import annotations

import math
import threading
import time as clocks
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from zerograsp_edge.runtime.camera import Camera
from zerograsp_edge.runtime.errors import EndOfFrames, NoObjectError, ZeroGraspError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.hand_eye import HandEye, HandEyeError, checked_pose
from zerograsp_edge.runtime.loop.blacklist import Blacklist
from zerograsp_edge.runtime.loop.config import LoopConfig, TipsPose
from zerograsp_edge.runtime.loop.events import Event, EventLog
from zerograsp_edge.runtime.loop.freshness import FrameGate
from zerograsp_edge.runtime.loop.job import Job
from zerograsp_edge.runtime.loop.planning import Choice, Order, Plan, checked_order, choose
from zerograsp_edge.runtime.loop.report import Ending, LoopReport
from zerograsp_edge.runtime.loop.signals import stop_on_signals
from zerograsp_edge.runtime.loop.states import State
from zerograsp_edge.runtime.loop.verify import Absence, absence, visible_surface
from zerograsp_edge.runtime.result import Result
from zerograsp_edge.runtime.robot.base import MotionRefused, Robot, RobotError, RobotState, withdrawn

_PUT_BACK_M = 0.01

T = TypeVar("T")
Perceive = Callable[[Frame, np.ndarray], Result]


class _End(Exception):
    """The run ends here."""

    def __init__(self, ending: Ending, explanation: str) -> None:
        super().__init__(explanation)
        self.ending, self.explanation = ending, explanation


class _PerceptionFault(Exception):
    """Nothing was seen, for a reason that may go away."""


class _Nothing(Exception):
    """Something was seen, and there is nothing to do about it."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class _AttemptFailed(Exception):
    """After contact: the attempt is over, the loop goes on.

    Attributes:
        put_back: something is held that should go back to where it came from.
    """

    def __init__(self, kind: str, reason: str, *, put_back: bool = False) -> None:
        super().__init__(reason)
        self.kind, self.put_back = kind, put_back


class _RobotFault(RobotError):
    """The robot says that it is in a fault."""


class _Blocked(Exception):
    """A motion ended, without a fault, away from its goal."""


@dataclass(frozen=True, eq=False)
class _View:
    """A frame that passed the gate, and when and from where it was taken (robot's clock; base <- camera, m)."""

    frame: Frame
    time: float
    base_from_camera: np.ndarray


class GraspLoop:
    """Picks objects until there are none, a limit is reached, something fails, or it is asked to stop.

    Perception never moves the robot unless it has just succeeded: a camera that is gone, frames that are old or frozen,
    perception that raises or hangs, and views without a grasp are counted and tried again while the robot stands still,
    and end the run at a limit. A failed grasp is let go, retreated from and not tried again for a while. A fault of the
    robot ends the run. Whatever ends it, the robot is stopped first.

    `stop` may be called from any thread, a signal handler included; it is honoured within one control period in every
    state. Everything else runs in the thread of `run`, camera and perception in one of their own.

    Args:
        robot: not closed by the loop.
        camera: `read() -> Frame`; not closed by the loop.
        perceive: (frame, base <- camera (4, 4), m) -> Result, such as a `Pipeline` with `refine`, whose workspace,
            cone and support then are in the robot's base frame.
        config: limits, timeouts, places.
        hand_eye: where the camera is; None: `robot.camera_pose` knows.
        tips_in_hand: (4, 4) hand <- tips, m, where the hand is what the hand-eye calibration calls so; only needed for
            a camera on the hand.
        order: chooses among the grasps instead of their score: (grasps in the base frame, best first; result) ->
            positions of those to try, in order.
        log: file of JSON lines, one event each.
        callback: called with every event, in the loop's thread.
        threaded: False calls camera and perception in the loop's thread, for simulated worlds, whose time stands still
            meanwhile and whose renderer belongs to one thread. Then neither can be interrupted or time out.

    Raises:
        HandEyeError: a camera on the hand without `tips_in_hand`.
        OutputError: the log cannot be made.
    """

    def __init__(
        self,
        robot: Robot,
        camera: Camera,
        perceive: Perceive,
        config: LoopConfig | None = None,
        *,
        hand_eye: HandEye | None = None,
        tips_in_hand: np.ndarray | None = None,
        order: Order | None = None,
        log: str | Path | None = None,
        callback: Callable[[Event], object] | None = None,
        threaded: bool = True,
    ) -> None:
        if hand_eye is not None and hand_eye.mode == "eye-in-hand" and tips_in_hand is None:
            raise HandEyeError(
                "the camera is mounted on the hand (eye-in-hand): expected tips_in_hand, the pose of the finger tips "
                "in the calibration's hand frame, got None"
            )
        self.robot, self.camera, self.perceive = robot, camera, perceive
        self.config = config = LoopConfig() if config is None else config
        self._hand_eye = hand_eye
        self._hand_in_tips = (
            None if tips_in_hand is None else np.linalg.inv(checked_pose(tips_in_hand, "tips_in_hand"))
        )
        self._order, self._threaded = order, threaded
        self._log = EventLog(log, callback)
        self.blacklist = Blacklist(config.blacklist)
        self._gate = FrameGate(
            config.camera_clock,
            config.limits.frame_age,
            refuse_identical=config.identical_frames == "refuse",
        )
        self.report = LoopReport()
        self._stop = threading.Event()
        self._stop_reason = ""
        self._started = False
        self._state = State.START
        self._entered, self._entered_wall = 0.0, 0.0
        self._deadline = math.inf
        self._rest_since = -math.inf
        self._unfinished: Job[Any] | None = None
        self._faults = self._empty = self._no_grasp = self._failed = 0
        self._drops: list[np.ndarray] = []
        self._next_drop = 0

    @property
    def state(self) -> State:
        """Where the loop is; may be read from any thread."""
        return self._state

    def stop(self, reason: str = "stop() was called") -> None:
        """Ask the loop to stop the robot and end; returns at once. From any thread, also before `run`."""
        if not self._stop.is_set():
            self._stop_reason = reason
            self._stop.set()

    def run(self, *, signals: bool = True) -> LoopReport:
        """Work until the end; a loop runs once.

        Args:
            signals: SIGINT and SIGTERM stop the loop; in the main thread only.

        Returns:
            How it ended. Faults of camera, perception and robot are in there, not raised.
        """
        if self._started:
            raise RuntimeError("this grasp loop has run already; make a new one")
        self._started = True
        began = self.robot.now()
        with stop_on_signals(self.stop) if signals else nullcontext():
            try:
                try:
                    self._work()
                except RobotError as error:
                    self._recover(error)
            except _End as end:
                self.report.ending, self.report.explanation = end.ending, end.explanation
            except Exception as error:
                self.report.ending = Ending.ERROR
                self.report.explanation = f"{type(error).__name__}: {error}"
            except BaseException as error:
                self.report.ending, self.report.explanation = Ending.STOPPED, type(error).__name__
                raise
            finally:
                self.robot.stop()
                self.report.seconds = self.robot.now() - began
                self._finish()
        return self.report

    # -- The course of events ------------------------------------------------------------------------------------

    def _work(self) -> None:
        self._start()
        self._observe()
        while True:
            try:
                view, result = self._look()
                choice = self._choose(view, result)
                self._check_age(view)
            except _PerceptionFault as fault:
                self._count_fault(str(fault))
            except _Nothing as nothing:
                self._faults = 0
                self._count_nothing(nothing)
            else:
                self._faults = self._empty = self._no_grasp = 0
                self._attempt(view, result, choice)
                self._observe()
                continue
            self._wait()

    def _start(self) -> None:
        self._enter(State.START)
        self._check_stop()
        state = self.robot.state()
        if state.fault:
            self._event("fault", state.fault)
            self.robot.recover()
            state = self.robot.state()
            if state.fault:
                raise _End(Ending.ROBOT, f"{self.robot.name} is in a fault that does not clear: {state.fault}")
            self._event("recovered")
        while state.moving:
            if self.robot.now() > self._deadline:
                raise _End(Ending.ROBOT, "the robot moves although no motion was asked for")
            self._tick()
            state = self._robot_state()
        if state.holding:
            self.report.holding = True
            raise _End(Ending.ROBOT, "the gripper already holds something: take it out first")
        self._drops = self._reachable(self.config.place, "place")
        if self.config.place and not self._drops:
            raise _End(Ending.ROBOT, f"the robot can reach none of the {len(self.config.place)} place poses")
        if self.config.observe is not None and not self._reachable((self.config.observe,), "observe"):
            raise _End(Ending.ROBOT, "the robot cannot reach the observe pose")
        self._rest_since = self.robot.now()

    def _reachable(self, poses: tuple[TipsPose, ...], what: str) -> list[np.ndarray]:
        if not poses:
            return []
        matrices = [pose.matrix() for pose in poses]
        within = self.robot.reachable(np.stack(matrices))
        for pose, good in zip(poses, within, strict=True):
            if not good:
                self._event("unreachable", f"the {what} pose at {pose.position} is out of reach")
        return [m for m, good in zip(matrices, within, strict=True) if good]

    def _observe(self) -> None:
        """To the observe pose: at the start and after an attempt."""
        if self.config.observe is None:
            return
        goal = self.config.observe.matrix()
        try:
            self._move(State.OBSERVE, lambda: self.robot.reach(goal, self.config.motion.speed), goal)
        except MotionRefused as error:
            raise _End(Ending.ROBOT, f"the way to the observe pose was refused: {error}") from error

    def _look(self) -> tuple[_View, Result]:
        self._enter(State.CAPTURE)
        view = self._capture()
        self._enter(State.PERCEIVE)
        try:
            result = self._await(lambda: self.perceive(view.frame, view.base_from_camera), "perception")
        except NoObjectError as error:
            raise _Nothing("no_object", str(error)) from error
        if not isinstance(result, Result):
            raise _PerceptionFault(f"perception returned {type(result).__name__}, expected Result")
        self._event(
            "perceived",
            objects=len(result.objects), skipped=len(result.skipped), grasps=len(result.grasps),
            timings_ms=result.timings, frame=view.frame.name,
            removed={} if result.refinement is None else {k: v for k, v in result.refinement.removed.items() if v},
        )  # fmt: skip
        if not result.objects and not result.skipped:
            raise _Nothing("no_object", "no object is in sight")
        if len(result.grasps) == 0:
            said = [*result.notes, *(f"object {s.object_id} skipped: {s.reason}" for s in result.skipped)]
            raise _Nothing("no_grasp", "; ".join(said) or "perception found no grasp")
        return view, result

    def _capture(self) -> _View:
        """A frame that passes the gate, in what is left of the state's time. The robot stands still."""
        refused = told = ""
        while True:
            self._tick()
            state = self._robot_state()
            if state.moving:
                raise RobotError("the robot moves although no motion was asked for")
            if self.robot.now() > self._deadline:
                raise _PerceptionFault(f"no usable frame in time; the last one was {refused or 'too late'}")
            frame = self._await(self.camera.read, "the camera")
            if not isinstance(frame, Frame):
                raise _PerceptionFault(f"the camera returned {type(frame).__name__}, expected Frame")
            now = self.robot.now()
            taken = self._gate.time_of(frame, now)
            refused = self._gate.refusal(frame, taken, now, self._rest_since)
            if refused:
                # Once for each kind: a camera that is asked faster than it delivers repeats itself.
                if refused.split()[0] != told:
                    told = refused.split()[0]
                    self.report.frames_refused += 1
                    self._event("frame_refused", refused, frame=frame.name, timestamp=frame.timestamp)
                continue
            try:
                return _View(frame, taken, self._camera_pose(taken, state))
            except (RobotError, HandEyeError) as error:
                raise _PerceptionFault(f"the camera's pose is not known: {error}") from error

    def _camera_pose(self, time: float, state: RobotState) -> np.ndarray:
        """(4, 4) base <- camera, m, at that time; the robot has stood still since before."""
        if self._hand_eye is None:
            return checked_pose(self.robot.camera_pose(time), "camera_pose")
        if self._hand_in_tips is None:
            return self._hand_eye.camera_in_base()
        return self._hand_eye.camera_in_base(state.tips @ self._hand_in_tips)

    def _choose(self, view: _View, result: Result) -> Choice:
        self._enter(State.CHOOSE)
        self._check_stop()
        grasps = result.grasps.transformed(view.base_from_camera)
        positions = np.arange(len(grasps))
        if self._order is not None:
            order = self._order
            try:
                positions = self._await(lambda: checked_order(order(grasps, result), len(grasps)), "the order")
            except NoObjectError as error:
                raise _PerceptionFault(str(error)) from error
        choice = choose(grasps, positions, self.robot, self.blacklist, self.config, self._check_choosing)
        numbers: dict[str, Any] = {"grasps": choice.total, "removed": choice.removed}
        if not choice.plans:
            self._event("chosen", choice.explain(), candidates=0, **numbers)
            raise _Nothing("no_grasp", choice.explain())
        self._event(
            "chosen", candidates=len(choice.plans), not_looked_at=choice.not_looked_at, **numbers,
            **choice.plans[0].describe(),
        )  # fmt: skip
        return choice

    def _check_choosing(self) -> None:
        self._check_stop()
        if self.robot.now() > self._deadline:
            raise _PerceptionFault(f"choosing took longer than {self.config.timeouts.choose:g} s")

    def _check_age(self, view: _View) -> None:
        age = self.robot.now() - view.time
        if age > self.config.limits.plan_age:
            raise _Nothing("no_grasp", f"the view is {age:.1f} s old, {self.config.limits.plan_age:g} s are allowed")

    def _attempt(self, view: _View, result: Result, choice: Choice) -> None:
        """Try the chosen grasps until the robot does not refuse one."""
        for plan in choice.plans:
            try:
                self._check_age(view)
            except _Nothing as nothing:
                self._event("plan_expired", f"{nothing}: looking again")
                return
            surface = np.concatenate(
                [visible_surface(o, view.frame, view.base_from_camera) for o in result.objects
                 if o.object_id == plan.object_id] or [np.empty((0, 3))]
            )  # fmt: skip
            try:
                self._go_in(plan)
            except MotionRefused as error:
                self._refused(plan, error)
                continue
            except _AttemptFailed as failure:
                self._let_go(plan, failure)
                return
            try:
                self._close_and_lift(plan)
                self._verify(plan, surface)
                self._place(plan)
            except _AttemptFailed as failure:
                self._let_go(plan, failure)
                return
            self._picked(plan)
            return

    def _go_in(self, plan: Plan) -> None:
        """Open, to the pre-grasp, straight in. Raises MotionRefused while nothing has been touched."""
        motion, robot = self.config.motion, self.robot
        self.report.attempts += 1
        self._move(State.OPEN, lambda: robot.grip(plan.opening))
        self._move(State.PREGRASP, lambda: robot.reach(plan.pregrasp, motion.speed), plan.pregrasp)
        try:
            self._move(State.APPROACH, lambda: robot.follow(plan.tips[None], motion.approach_speed), plan.tips)
        except _Blocked as error:
            raise _AttemptFailed("blocked", f"on the way in: {error}") from error
        except _RobotFault as fault:
            raise self._pardoned(fault) from fault

    def _close_and_lift(self, plan: Plan) -> None:
        motion, robot = self.config.motion, self.robot
        try:
            closed = self._move(State.CLOSE, lambda: robot.grip(0.0, motion.grip_force))
            if not self._holds(closed):
                raise _AttemptFailed("nothing held", f"after closing ({closed.opening * 1000:.1f} mm open)")
            self.report.holding = True
            self._move(State.LIFT, lambda: robot.follow(plan.lifted[None], motion.carry_speed), plan.lifted)
        except _Blocked as error:
            raise _AttemptFailed("blocked", f"on the way up: {error}") from error
        except MotionRefused as error:
            self._check_refusal(error)
            raise _AttemptFailed("refused", f"{self._state.value}: {error}") from error
        except _RobotFault as fault:
            raise self._pardoned(fault) from fault

    def _pardoned(self, fault: _RobotFault) -> _AttemptFailed:
        """A fault at the object as a failed attempt, if it clears and the limit allows; else raises it again."""
        if self.report.robot_faults >= self.config.limits.robot_faults:
            raise fault
        self.report.robot_faults += 1
        self._clear(fault)
        self._check_stop()
        return _AttemptFailed("fault", str(fault))

    def _verify(self, plan: Plan, surface: np.ndarray) -> None:
        while True:
            self._enter(State.VERIFY)
            state = self._robot_state()
            if not self._holds(state):
                raise _AttemptFailed("lost", f"on the way up ({state.opening * 1000:.1f} mm open)")
            if not self.config.verify.camera:
                self._event("verified", "by the gripper", opening=state.opening)
                return
            try:
                view = self._capture()
            except _PerceptionFault as fault:
                self._count_fault(str(fault))
                self._wait()
                continue
            except _Nothing as nothing:
                gone = Absence(0.0, 0.0, 1.0)
                self._event("view_inconclusive", str(nothing))
            else:
                gone = absence(
                    surface, view.frame, view.base_from_camera, self.config.verify.depth_tolerance
                )
            self._faults = 0
            break
        numbers = {"gone": gone.gone, "there": gone.there, "unknown": gone.unknown, "opening": state.opening}
        verdict = gone.verdict(self.config.verify)
        if verdict is False:
            raise _AttemptFailed(
                "still there",
                f"{gone.there:.0%} of object {plan.object_id}'s surface is where it was, {gone.gone:.0%} is gone",
                put_back=True,
            )
        how = "by the gripper and a new frame" if verdict else "by the gripper; the new frame is not conclusive"
        self._event("verified", how, **numbers)

    def _place(self, plan: Plan) -> None:
        """To a drop pose, open, back; without a drop pose, the run ends here."""
        motion = self.config.motion
        if not self._drops:
            self._picked(plan)
            raise _End(Ending.DONE, f"object {plan.object_id} is held; no place is configured")
        refusals = []
        for _ in self._drops:
            drop = self._drops[self._next_drop]
            self._next_drop = (self._next_drop + 1) % len(self._drops)
            try:
                state = self._move(State.PLACE, lambda d=drop: self.robot.reach(d, motion.carry_speed), drop)  # type: ignore[misc]
            except MotionRefused as error:
                self._check_refusal(error)
                refusals.append(str(error))
                continue
            if not self._holds(state):
                raise _AttemptFailed("lost", "on the way to the drop pose")
            self._release(plan.opening)
            self._retreat(drop)
            return
        raise _End(
            Ending.ROBOT, f"object {plan.object_id} is held, and every place pose was refused: {refusals[-1]}"
        )

    # -- What comes of it ----------------------------------------------------------------------------------------

    def _picked(self, plan: Plan) -> None:
        self._failed = 0
        self.report.picks += 1
        self._event("picked", **plan.describe(), picks=self.report.picks)
        if self._drops and self.report.picks == self.config.limits.picks:
            raise _End(Ending.DONE, f"{self.report.picks} of {self.config.limits.picks} picks are done")

    def _refused(self, plan: Plan, error: MotionRefused) -> None:
        """Before contact: the next grasp."""
        self._check_refusal(error)
        self.blacklist.add(plan.tips, self.robot.now())
        self._event("motion_refused", str(error), **plan.describe())
        self._count_failure("refused", str(error))

    def _check_refusal(self, error: MotionRefused) -> None:
        self.report.refused += 1
        state = self.robot.state()
        if state.fault:
            raise RobotError(f"{error}; the robot is in a fault: {state.fault}") from error

    def _let_go(self, plan: Plan, failure: _AttemptFailed) -> None:
        """After contact: put back what should not be held, open, back along the approach, and not there again."""
        self.blacklist.add(plan.tips, self.robot.now())
        self._event("attempt_failed", f"{failure.kind}: {failure}", kind=failure.kind, **plan.describe())
        if failure.put_back:
            # A little higher than it was taken: it may hang lower in the hand now.
            down = plan.tips.copy()
            down[2, 3] += _PUT_BACK_M
            speed = self.config.motion.carry_speed
            self._move_or_end(State.RETREAT, lambda: self.robot.follow(down[None], speed), down)
        self._release(plan.opening)
        self._retreat(self.robot.state().tips)
        self._count_failure(failure.kind, str(failure))

    def _release(self, opening: float) -> None:
        self._move_or_end(State.RELEASE, lambda: self.robot.grip(opening))
        self.report.holding = False

    def _retreat(self, tips: np.ndarray) -> None:
        back = withdrawn(tips, self.config.motion.pregrasp_distance)
        speed = self.config.motion.approach_speed
        self._move_or_end(State.RETREAT, lambda: self.robot.follow(back[None], speed), back)

    def _move_or_end(self, state: State, command: Callable[[], None], goal: np.ndarray | None = None) -> None:
        try:
            self._move(state, command, goal)
        except MotionRefused as error:
            raise _End(Ending.ROBOT, f"{state.value} was refused: {error}") from error

    def _count_failure(self, kind: str, reason: str) -> None:
        self.report.failures[kind] = self.report.failures.get(kind, 0) + 1
        self._failed += 1
        if self._failed >= self.config.limits.failed_attempts:
            raise _End(Ending.FAILED, f"{self._failed} attempts failed in a row, the last one: {kind}, {reason}")

    def _count_fault(self, reason: str) -> None:
        self._faults += 1
        self.report.perception_faults += 1
        self._event("perception_fault", reason, in_a_row=self._faults)
        if self._faults >= self.config.limits.perception_faults:
            held = "; the gripper still holds an object" if self.report.holding else ""
            raise _End(
                Ending.PERCEPTION, f"perception failed {self._faults} times in a row, the last time: {reason}{held}"
            )

    def _count_nothing(self, nothing: _Nothing) -> None:
        limits = self.config.limits
        if nothing.kind == "no_object":
            self._empty += 1
            self._event("no_object", str(nothing), count=self._empty)
            if self._empty >= limits.empty_views:
                raise _End(Ending.EMPTY, f"no object in {self._empty} views: nothing is left to pick")
        else:
            self._no_grasp += 1
            self._event("no_grasp", str(nothing), count=self._no_grasp)
            if self._no_grasp >= limits.no_grasp_views:
                raise _End(Ending.NO_GRASP, f"no grasp in {self._no_grasp} views, the last time: {nothing}")

    def _recover(self, error: RobotError) -> None:
        """After a fault: stop, try to clear it without moving, and end."""
        self._clear(error)
        held = "; the gripper may still hold an object" if self.report.holding else ""
        raise _End(Ending.ROBOT, f"{error}{held}")

    def _clear(self, error: RobotError) -> None:
        self.robot.stop()
        self._enter(State.RECOVER)
        self._event("fault", str(error))
        try:
            self.robot.recover()
        except RobotError as failure:
            raise _End(Ending.ROBOT, f"{error}; it does not clear: {failure}") from error
        self._event("recovered")

    # -- Motion, waiting, telling --------------------------------------------------------------------------------

    def _move(self, state: State, command: Callable[[], None], goal: np.ndarray | None = None) -> RobotState:
        """Start a motion and wait for its end.

        Raises:
            MotionRefused: nothing moved.
            RobotError: fault or timeout.
            _Blocked: in approach and lift, where things may be in the way: it ended short of its goal.
        """
        self._enter(state)
        self._check_stop()
        command()
        while True:
            self._tick()
            now = self._robot_state()
            if not now.moving:
                break
            if self.robot.now() > self._deadline:
                raise RobotError(f"{state.value} took longer than {self._timeout(state):g} s")
        self._rest_since = now.time
        if goal is not None:
            self._check_arrival(state, now.tips, goal)
        return now

    def _check_arrival(self, state: State, tips: np.ndarray, goal: np.ndarray) -> None:
        short = float(np.linalg.norm(tips[:3, 3] - goal[:3, 3]))
        cosine = (np.trace(tips[:3, :3].T @ goal[:3, :3]) - 1) / 2
        turned = math.degrees(math.acos(float(np.clip(cosine, -1, 1))))
        motion = self.config.motion
        if short <= motion.position_tolerance and turned <= motion.angle_tolerance:
            return
        message = f"the motion ended {short * 1000:.0f} mm and {turned:.0f} degrees from its goal"
        if state in (State.APPROACH, State.LIFT):
            raise _Blocked(message)
        raise RobotError(f"{state.value}: {message}")

    def _robot_state(self) -> RobotState:
        state = self.robot.state()
        if state.fault:
            raise _RobotFault(state.fault)
        return state

    def _holds(self, state: RobotState) -> bool:
        if state.holding is not None:
            return state.holding
        return state.opening > self.config.motion.min_held_opening

    def _await(self, call: Callable[[], T], what: str) -> T:
        """What the call returns, unless it takes longer than the state may.

        Raises:
            _PerceptionFault: it took too long, an earlier one still has not returned, or it raised.
            NoObjectError: it says that there is no object.
        """
        self._check_stop()
        if self._unfinished is not None:
            self._finish_late(self._unfinished, what)
        job = Job(call, threaded=self._threaded)
        while not job.done:
            self._tick()
            if self.robot.now() > self._deadline and not job.done:
                self._unfinished = job
                raise _PerceptionFault(f"{what} took longer than {self._timeout(self._state):g} s")
        try:
            return job.result()
        except EndOfFrames as error:
            raise _End(Ending.PERCEPTION, f"the camera has no more frames: {error}") from error
        except NoObjectError as error:
            if self._state in (State.CAPTURE, State.VERIFY):
                raise _Nothing("no_object", str(error)) from error
            raise
        except Exception as error:
            kind = "" if isinstance(error, ZeroGraspError) else f"{type(error).__name__}: "
            raise _PerceptionFault(f"{what} failed: {kind}{error}") from error

    def _finish_late(self, job: Job[Any], what: str) -> None:
        """Wait for a call that took too long; what it returned is thrown away."""
        while not job.done:
            self._tick()
            if self.robot.now() > self._deadline:
                raise _PerceptionFault(f"{what} cannot begin: the call before has still not returned")
        self._unfinished = None
        self._event("late_result", "came after its timeout and was thrown away")

    def _wait(self) -> None:
        self._enter(State.WAIT)
        until = self.robot.now() + self.config.limits.pause
        while self.robot.now() < until:
            self._tick()

    def _tick(self) -> None:
        self._check_stop()
        self.robot.sleep(self.robot.control_period)
        self._check_stop()

    def _check_stop(self) -> None:
        if self._stop.is_set():
            self.robot.stop()
            raise _End(Ending.STOPPED, f"stopped in state {self._state.value}: {self._stop_reason}")

    def _timeout(self, state: State) -> float:
        return float(getattr(self.config.timeouts, state.value, math.inf))

    def _enter(self, state: State) -> None:
        self._leave()
        self._state = state
        self._entered, self._entered_wall = self.robot.now(), clocks.perf_counter()
        self._deadline = self._entered + self._timeout(state)
        self._event("enter")

    def _leave(self) -> None:
        if not self._entered_wall:
            return
        wall_ms = (clocks.perf_counter() - self._entered_wall) * 1000
        self.report.add_latency(self._state.value, wall_ms)
        self._event("leave", seconds=self.robot.now() - self._entered, wall_ms=wall_ms)

    def _finish(self) -> None:
        self._leave()
        with suppress(RobotError):
            holding = self.robot.state().holding
            self.report.holding = self.report.holding if holding is None else holding
        self._state = State.END
        self._event(self.report.ending.value.replace(" ", "_"), self.report.explanation, **self.report.to_dict())
        self._log.close()

    def _event(self, event: str, reason: str = "", **data: Any) -> None:
        self._log.write(Event(self.robot.now(), self._state, event, reason, data))
