"""What the loop does when nothing is wrong, and what it tells about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.loop import Ending, Limits, LoopConfig, State, TipsPose, VerifyConfig


def config(**changes: Any) -> LoopConfig:
    changes.setdefault("place", (TipsPose((0.4, 0.6, 0.2)),))
    changes.setdefault("limits", Limits(pause=0.05))
    return LoopConfig(**changes)


def test_it_picks_everything_and_says_that_nothing_is_left(new_cell: Any) -> None:
    cell = new_cell((0.4, 0.0), (0.3, 0.1), (0.5, -0.1))
    report = cell.loop().run()
    assert (report.ending, report.picks, report.attempts) == (Ending.EMPTY, 3, 3)
    assert not report.failures
    assert all(at[1] > 0.5 for at in cell.robot.blocks.values()), "every block lies at the drop pose"
    cell.assert_safe("empty")


def test_states_come_in_their_order(cell: Any) -> None:
    cell.loop(config(observe=TipsPose((0.4, 0.5, 0.4)), limits=Limits(picks=1))).run()
    entered = [e.state for e in cell.events if e.event == "enter"]
    assert entered == [
        State.START, State.OBSERVE, State.CAPTURE, State.PERCEIVE, State.CHOOSE, State.OPEN, State.PREGRASP,
        State.APPROACH, State.CLOSE, State.LIFT, State.VERIFY, State.PLACE, State.RELEASE, State.RETREAT,
    ]  # fmt: skip
    assert cell.commands() == [
        "reach", "open", "reach", "follow", "close", "follow", "reach", "open", "follow",
    ]  # fmt: skip


def test_the_log_has_what_a_user_needs(cell: Any) -> None:
    cell.loop(config(limits=Limits(picks=1))).run()
    lines = cell.lines()
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    chosen = next(line for line in lines if line["event"] == "chosen")
    assert chosen["object_id"] == 1
    assert chosen["score"] == pytest.approx(0.9)
    assert chosen["width"] == pytest.approx(0.06)
    np.testing.assert_allclose(np.array(chosen["tips"])[:3, 3], [0.4, 0.0, 0.02], atol=0.006)
    left = {line["state"]: line for line in lines if line["event"] == "leave"}
    assert left["approach"]["seconds"] > 0.1
    assert all(line["wall_ms"] >= 0 for line in left.values())
    assert lines[-1]["picks"] == 1
    assert set(lines[-1]["mean_latency_ms"]) >= {"capture", "perceive", "choose", "lift"}


def test_without_a_place_it_ends_with_the_object_in_the_hand(cell: Any) -> None:
    report = cell.loop(LoopConfig()).run()
    assert (report.ending, report.picks, report.holding) == (Ending.DONE, 1, True)
    assert cell.robot.held == 1
    assert cell.robot.blocks[1][2] > 0.1


def test_drop_poses_are_used_in_turn(new_cell: Any) -> None:
    cell = new_cell((0.4, 0.0), (0.3, 0.1))
    cell.loop(config(place=(TipsPose((0.4, 0.6, 0.2)), TipsPose((0.2, 0.6, 0.2))))).run()
    assert sorted(round(float(at[0]), 2) for at in cell.robot.blocks.values()) == [0.2, 0.4]


def test_the_order_decides_instead_of_the_score(new_cell: Any) -> None:
    cell = new_cell((0.4, 0.0), (0.3, 0.1))

    def last_first(grasps: Any, result: Any) -> np.ndarray:
        return np.flatnonzero(grasps.object_id == grasps.object_id.max())

    cell.loop(config(limits=Limits(picks=1)), order=last_first).run()
    chosen = next(e for e in cell.events if e.event == "chosen")
    assert chosen.data["object_id"] == 2
    assert chosen.data["removed"] == {"not chosen by the order": 3}


def test_a_hook_with_nonsense_is_a_fault_of_perception(cell: Any) -> None:
    report = cell.loop(order=lambda grasps, result: np.array([7])).run()
    assert report.ending is Ending.PERCEPTION
    assert "distinct positions of 3 grasps" in report.explanation
    assert cell.commands() == []


def test_reach_is_checked_before_motion_and_counted(cell: Any) -> None:
    cell.robot.out_of_reach = lambda tips: 0.1 < tips[2, 3] < 0.13 and tips[1, 3] < 0.3  # the pre-grasp
    report = cell.loop(config(limits=Limits(no_grasp_views=2, pause=0.05))).run()
    assert report.ending is Ending.NO_GRASP
    assert "3 out of reach (pre-grasp)" in report.explanation
    assert cell.commands() == []


def test_gripper_and_score_limits_remove_grasps(cell: Any) -> None:
    report = cell.loop(config(min_score=0.895, limits=Limits(picks=1))).run()
    chosen = next(e for e in cell.events if e.event == "chosen")
    assert chosen.data["removed"] == {"too low score": 2}
    assert report.ending is Ending.DONE


def test_a_gripper_that_cannot_tell_is_judged_by_its_opening(cell: Any) -> None:
    cell.robot.reports_holding = False
    cell.robot.misses = lambda count: count == 1
    report = cell.loop(config(limits=Limits(picks=1, no_grasp_views=1000, pause=1.0))).run()
    assert report.failures == {"nothing held": 1}
    assert report.picks == 1


def test_a_pick_that_left_the_object_behind_is_put_back(new_cell: Any) -> None:
    """The gripper says held, the new frame says that the object lies where it lay."""
    cell = new_cell((0.4, 0.0))
    picture = cell.camera._picture

    def haunted(timestamp: float) -> Any:
        moved, cell.camera.blocks = cell.camera.blocks, {1: np.array([0.4, 0.0, 0.02])}
        frame = picture(timestamp)
        cell.camera.blocks = moved
        return frame

    cell.camera._picture = haunted
    report = cell.loop(config(limits=Limits(failed_attempts=1))).run()
    assert report.ending is Ending.FAILED
    assert report.failures == {"still there": 1}
    assert cell.commands()[-3:] == ["follow", "open", "follow"], "down again, open, back"
    assert cell.robot.blocks[1][2] == pytest.approx(0.03, abs=0.006), "it was put down, not dropped"


def test_an_occluded_place_leaves_the_verdict_to_the_gripper(cell: Any) -> None:
    picture = cell.camera._picture

    def covered(timestamp: float) -> Any:
        frame = picture(timestamp)
        if cell.robot.held is not None:
            frame.depth[:] = 200.0 + frame.depth % 1
        return frame

    cell.camera._picture = covered
    report = cell.loop(config(limits=Limits(picks=1))).run()
    assert report.picks == 1
    verified = next(e for e in cell.events if e.event == "verified")
    assert "not conclusive" in verified.reason
    assert verified.data["unknown"] == 1.0


def test_verification_by_the_gripper_alone_takes_no_picture(cell: Any) -> None:
    cell.loop(config(limits=Limits(picks=1), verify=VerifyConfig(camera=False))).run()
    assert cell.camera.reads == 1


def test_a_loop_runs_once(cell: Any) -> None:
    loop = cell.loop(config(limits=Limits(picks=1)))
    loop.run()
    with pytest.raises(RuntimeError, match="make a new one"):
        loop.run()


def test_a_callback_that_raises_does_not_disturb(cell: Any) -> None:
    def bad(event: Any) -> None:
        raise ValueError("in the user's code")

    report = cell.loop(config(limits=Limits(picks=1)), callback=bad).run()
    assert report.ending is Ending.DONE
