"""Injected faults: each ends in a safe state, is in the log, and never moves the robot without having seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.loop import Ending, Limits, LoopConfig, State, Timeouts, TipsPose
from zerograsp_edge.runtime.segmentation.external import ExternalConfig, ExternalSegmenter, SharedMemoryMasks
from zerograsp_edge.runtime.segmentation.mask_message import MaskError

PLACE = (TipsPose((0.4, 0.6, 0.2)),)
CAMERA_FAULTS = ("gone", "broken", "bad", "frozen", "identical", "stale", "future", "not a frame")
PERCEPTION_FAULTS = ("raise", "wrong")


def reasons(cell: Any, event: str) -> list[str]:
    return [line.get("reason", "") for line in cell.lines() if line["event"] == event]


@pytest.mark.parametrize("fault", CAMERA_FAULTS)
def test_a_camera_that_fails_from_the_start_moves_nothing(cell: Any, fault: str) -> None:
    # Frozen and identical need a frame before: the first one finds nothing to grasp.
    cell.camera.script = lambda index: "" if index == 0 and fault in ("frozen", "identical") else fault
    cell.perceive.script = lambda index: "no grasp"
    report = cell.loop().run()
    assert report.ending is Ending.PERCEPTION
    assert report.perception_faults == Limits().perception_faults
    assert cell.commands() == []
    cell.assert_safe("perception")


@pytest.mark.parametrize(
    ("fault", "word"),
    [("frozen", "frozen: the same timestamp"), ("identical", "every pixel equals"), ("stale", "stale: 3.0"),
     ("future", "camera_clock")],
)  # fmt: skip
def test_a_refused_frame_is_in_the_log_with_its_reason(cell: Any, fault: str, word: str) -> None:
    cell.camera.script = lambda index: fault if index in (1, 2, 3) else ""
    report = cell.loop(LoopConfig(place=PLACE, limits=Limits(picks=1, pause=0.05))).run()
    assert report.ending is Ending.DONE, "it recovers"
    assert any(word in reason for reason in reasons(cell, "frame_refused"))
    assert report.frames_refused == 1, "told once, not once a control period"


@pytest.mark.parametrize("fault", PERCEPTION_FAULTS)
def test_perception_that_fails_is_tried_again_and_then_given_up(cell: Any, fault: str) -> None:
    cell.perceive.script = lambda index: fault
    report = cell.loop().run()
    assert report.ending is Ending.PERCEPTION
    assert cell.perceive.calls == Limits().perception_faults
    assert cell.commands() == []
    assert len(reasons(cell, "perception_fault")) == Limits().perception_faults
    cell.assert_safe("perception")


def test_faults_in_a_row_count_not_faults_altogether(new_cell: Any) -> None:
    cell = new_cell((0.4, 0.0), (0.3, 0.1))
    cell.perceive.script = lambda index: "raise" if index % 4 else ""
    report = cell.loop(LoopConfig(place=PLACE, limits=Limits(perception_faults=4, pause=0.05))).run()
    assert (report.ending, report.picks) == (Ending.EMPTY, 2)
    assert report.perception_faults == 12, "three between every two views"


@pytest.mark.parametrize("fault", ["no grasp", "nan", "empty"])
def test_views_without_a_grasp_move_nothing_and_say_why(cell: Any, fault: str) -> None:
    cell.perceive.script = lambda index: fault
    report = cell.loop().run()
    assert report.ending is (Ending.EMPTY if fault == "empty" else Ending.NO_GRASP)
    assert cell.commands() == []
    if fault == "nan":
        assert "3 not finite" in report.explanation


def test_the_end_of_a_recording_is_not_tried_again(cell: Any) -> None:
    cell.camera.script = lambda index: "end"
    report = cell.loop().run()
    assert (report.ending, cell.camera.reads) == (Ending.PERCEPTION, 1)


@pytest.mark.parametrize("who", ["camera", "perceive"])
def test_what_hangs_is_timed_out_and_its_late_result_thrown_away(cell: Any, who: str) -> None:
    hanging = getattr(cell, who)
    hanging.script = lambda index: "hang" if index == 0 else ""
    told = []

    def let_go(event: Any) -> None:
        slow = "the camera took longer" if who == "camera" else "perception took longer"
        if event.event == "perception_fault" and event.reason.startswith(slow) and not told:
            told.append(len(cell.journal))
            hanging.release.set()

    limits = Limits(picks=1, perception_faults=10_000)
    config = LoopConfig(place=PLACE, limits=limits, timeouts=Timeouts(perceive=2.0))
    # Real time for the threads: 0.05 s of virtual time take 5 ms.
    cell.clock.real = 0.1
    report = cell.loop(config, threaded=True, callback=let_go).run()
    assert told
    assert reasons(cell, "late_result")
    assert report.ending is Ending.DONE
    first_move = next(i for i, e in enumerate(cell.journal) if e.kind == "command")
    between = cell.journal[told[0] : first_move]
    assert [e.kind for e in between[-2:]] == ["read", "perceive"], "moved after a new picture and perception"


def test_what_hangs_for_ever_ends_the_run(cell: Any) -> None:
    cell.perceive.script = lambda index: "hang"
    timeouts = Timeouts(perceive=2.0, capture=10.0)
    cell.clock.real = 0.1
    limits = Limits(pause=0, perception_faults=2)
    report = cell.loop(LoopConfig(limits=limits, timeouts=timeouts), threaded=True).run()
    cell.perceive.release.set()
    assert report.ending is Ending.PERCEPTION
    assert "has still not returned" in report.explanation
    assert cell.commands() == []
    assert cell.perceive.calls == 1, "no second call is piled on the first"
    cell.assert_safe("perception")


def test_nothing_held_is_let_go_retreated_from_and_not_tried_again_there(cell: Any) -> None:
    cell.robot.misses = lambda count: True
    report = cell.loop().run()
    # All three grasps of the block count as the same place: one attempt, and then nothing that may be executed.
    assert report.failures == {"nothing held": 1}
    assert report.ending is Ending.NO_GRASP
    assert "failed lately" in report.explanation
    assert cell.commands() == ["open", "reach", "follow", "close", "open", "follow"]
    assert cell.robot.state().tips[2, 3] > 0.1, "back along the approach"
    cell.assert_safe("no grasp")


def test_a_failed_place_is_tried_again_after_a_while(cell: Any) -> None:
    cell.robot.misses = lambda count: count == 1
    limits = Limits(picks=1, no_grasp_views=1000, pause=1.0)
    report = cell.loop(LoopConfig(place=PLACE, limits=limits)).run()
    assert (report.picks, report.attempts) == (1, 2)
    closes = [e.time for e in cell.journal if e.name == "close"]
    assert closes[1] - closes[0] >= 60, "the half-life of a failure"


def test_an_object_lost_on_the_way_up_is_a_failed_attempt(cell: Any) -> None:
    cell.robot.slips = lambda count: count == 2
    report = cell.loop(LoopConfig(place=PLACE, limits=Limits(failed_attempts=1))).run()
    assert report.failures == {"lost": 1}
    cell.assert_safe("failed")


@pytest.mark.parametrize(("name", "count"), [("open", 1), ("reach", 1), ("follow", 1)])
def test_a_refused_motion_leads_to_the_next_grasp(new_cell: Any, name: str, count: int) -> None:
    cell = new_cell((0.4, 0.0), (0.3, 0.1))
    cell.robot.refuse = lambda n, c: (n, c) == (name, count)
    report = cell.loop(LoopConfig(place=PLACE, limits=Limits(picks=1))).run()
    assert report.ending is Ending.DONE
    assert (report.refused, report.failures) == (1, {"refused": 1})
    assert "is refused" in reasons(cell, "motion_refused")[0]


def test_a_robot_that_refuses_everything_ends_the_run(cell: Any) -> None:
    cell.robot.refuse = lambda name, count: True
    report = cell.loop().run()
    assert report.ending in (Ending.FAILED, Ending.NO_GRASP)
    cell.assert_safe(report.ending.value)


def test_a_refused_drop_pose_leads_to_the_next_one_and_none_keeps_hold(cell: Any) -> None:
    cell.robot.refuse = lambda name, count: name == "reach" and count >= 2
    report = cell.loop(LoopConfig(place=(*PLACE, TipsPose((0.2, 0.6, 0.2))))).run()
    assert report.ending is Ending.ROBOT
    assert report.refused == 2
    assert report.holding
    assert cell.robot.held == 1, "it is not dropped"
    cell.assert_safe("robot")


def test_a_refused_retreat_ends_the_run(cell: Any) -> None:
    cell.robot.misses = lambda count: True
    cell.robot.refuse = lambda name, count: name == "follow" and count == 2
    assert cell.loop().run().ending is Ending.ROBOT


MOTIONS = [
    ("open", 1), ("reach", 1), ("follow", 1), ("close", 1), ("follow", 2), ("reach", 2), ("open", 2), ("follow", 3),
]  # fmt: skip


@pytest.mark.parametrize("recovers", [True, False])
@pytest.mark.parametrize(("name", "count"), MOTIONS)
def test_a_fault_in_any_motion_stops_recovers_and_ends(cell: Any, name: str, count: int, recovers: bool) -> None:
    cell.robot.fails = lambda n, c: (n, c) == (name, count)
    cell.robot.recovers = recovers
    report = cell.loop().run()
    assert report.ending is Ending.ROBOT
    assert "joint 3: collision detected" in report.explanation
    after = [e for e in cell.journal if e.kind == "command"][-1]
    assert (after.name, cell.robot.counts[name]) == (name, count), "no motion after the fault"
    assert ("recovered" in {e.event for e in cell.events}) == recovers
    assert "fault" in {e.event for e in cell.events}
    cell.assert_safe("robot")


@pytest.mark.parametrize(("name", "count"), [("follow", 1), ("close", 1), ("follow", 2)])
def test_a_fault_at_the_object_may_be_pardoned(new_cell: Any, name: str, count: int) -> None:
    cell = new_cell((0.4, 0.0), (0.3, 0.1))
    cell.robot.fails = lambda n, c: (n, c) == (name, count)
    report = cell.loop(LoopConfig(place=PLACE, limits=Limits(picks=1, robot_faults=1))).run()
    assert report.ending is Ending.DONE
    assert (report.robot_faults, report.failures) == (1, {"fault": 1})
    cell = new_cell((0.4, 0.0), (0.3, 0.1))
    cell.robot.fails = lambda n, c: n == name
    report = cell.loop(LoopConfig(place=PLACE, limits=Limits(robot_faults=1))).run()
    assert report.ending is Ending.ROBOT, "one more ends the run"


@pytest.mark.parametrize(("name", "count"), MOTIONS)
def test_a_motion_that_never_ends_is_stopped(cell: Any, name: str, count: int) -> None:
    cell.robot.stuck = lambda n, c: (n, c) == (name, count)
    report = cell.loop().run()
    assert report.ending is Ending.ROBOT
    assert "took longer than" in report.explanation
    cell.assert_safe("robot")


def test_a_blocked_approach_is_retreated_from(cell: Any) -> None:
    cell.robot.short = lambda name, count: (name, count) == ("follow", 1)
    report = cell.loop(LoopConfig(place=PLACE, limits=Limits(failed_attempts=1))).run()
    assert report.failures == {"blocked": 1}
    assert cell.commands() == ["open", "reach", "follow", "open", "follow"], "not closed"


def test_a_blocked_free_motion_ends_the_run(cell: Any) -> None:
    cell.robot.short = lambda name, count: (name, count) == ("reach", 1)
    report = cell.loop().run()
    assert report.ending is Ending.ROBOT
    assert "from its goal" in report.explanation


@pytest.mark.parametrize("fault", ["gone", "stale", "frozen"])
def test_a_camera_that_stops_while_an_object_is_held_keeps_still(cell: Any, fault: str) -> None:
    cell.camera.script = lambda index: fault if index >= 1 else ""
    report = cell.loop().run()
    assert report.ending is Ending.PERCEPTION
    assert "still holds" in report.explanation
    assert report.holding
    assert cell.commands() == ["open", "reach", "follow", "close", "follow"], "nothing after the lift"
    cell.assert_safe("perception")


def test_a_fault_at_the_start_is_cleared_or_ends(new_cell: Any) -> None:
    cell = new_cell((0.4, 0.0))
    cell.robot.fault = "emergency stop"
    assert cell.loop(LoopConfig(place=PLACE, limits=Limits(picks=1))).run().ending is Ending.DONE
    cell = new_cell((0.4, 0.0))
    cell.robot.fault, cell.robot.recovers = "emergency stop", False
    report = cell.loop().run()
    assert report.ending is Ending.ROBOT
    assert cell.commands() == []


def test_a_full_gripper_at_the_start_ends(cell: Any) -> None:
    cell.robot.held = 1
    assert cell.loop().run().ending is Ending.ROBOT
    assert cell.commands() == []


def test_unreachable_place_poses_end_before_anything_moves(cell: Any) -> None:
    cell.robot.out_of_reach = lambda tips: tips[1, 3] > 0.55
    report = cell.loop().run()
    assert "none of the 1 place poses" in report.explanation
    assert cell.commands() == []


def test_a_camera_pose_that_is_no_pose_is_a_fault_of_perception(cell: Any) -> None:
    cell.robot.camera_pose = lambda time: np.full((4, 4), np.nan)
    report = cell.loop().run()
    assert report.ending is Ending.PERCEPTION
    assert "camera's pose is not known" in report.explanation
    assert cell.commands() == []


def test_an_old_plan_is_not_executed(cell: Any) -> None:
    original = cell.perceive.__class__.__call__

    def slow(frame: Any, pose: Any) -> Any:
        cell.clock.time += 40
        return original(cell.perceive, frame, pose)

    loop = cell.loop()
    loop.perceive = slow
    report = loop.run()
    assert report.ending is Ending.NO_GRASP
    assert "30 s are allowed" in report.explanation
    assert cell.commands() == []


def test_a_defect_in_the_robot_class_stops_the_robot(cell: Any) -> None:
    def broken(tips: Any) -> Any:
        raise ZeroDivisionError("inverse kinematics")

    cell.robot.reachable = broken
    report = cell.loop(LoopConfig()).run()
    assert report.ending is Ending.ERROR
    assert "ZeroDivisionError" in report.explanation
    cell.assert_safe("error")


def test_every_state_has_a_timeout_or_stands_still() -> None:
    without = {s for s in State if not hasattr(Timeouts(), s.value)}
    assert without == {State.WAIT, State.END}


def test_masks_that_do_not_come_move_nothing(cell: Any) -> None:
    """A publisher of masks that is gone is a fault of perception, never an empty scene."""
    segment = ExternalSegmenter(SharedMemoryMasks("zerograsp-test-nobody"), ExternalConfig(timeout=0.01))
    perceive = cell.perceive

    def with_masks(frame: Frame, base_from_camera: np.ndarray) -> Any:
        return perceive(segment(frame).apply(frame), base_from_camera)

    cell.perceive = with_masks
    report = cell.loop().run()
    assert report.ending is Ending.PERCEPTION
    assert report.perception_faults == Limits().perception_faults and perceive.calls == 0
    assert cell.commands() == []
    told = reasons(cell, "perception_fault")
    assert len(told) == report.perception_faults and all("there is no publisher" in reason for reason in told)
    cell.assert_safe("perception")


def test_masks_that_stop_while_a_grasp_is_under_way_are_no_success(cell: Any) -> None:
    """Whether the object is gone from the scene must be seen; not to see is not that."""
    perceive, calls = cell.perceive, []

    def with_masks(frame: Frame, base_from_camera: np.ndarray) -> Any:
        calls.append(frame.timestamp)
        if len(calls) > 1:
            raise MaskError("no masks for frame 'frame' within 0.5 s")
        return perceive(frame, base_from_camera)

    cell.perceive = with_masks
    report = cell.loop().run()
    assert report.ending is Ending.PERCEPTION
    assert any("no masks" in reason for reason in reasons(cell, "perception_fault"))
    cell.assert_safe("perception")
