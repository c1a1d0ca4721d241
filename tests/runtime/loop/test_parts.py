"""The loop's parts on their own: blacklist, gate for frames, absence of an object, poses, event lines."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerograsp_edge.runtime.errors import ConfigError, OutputError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.loop import BlacklistConfig, Event, EventLog, State, TipsPose, VerifyConfig
from zerograsp_edge.runtime.loop.blacklist import Blacklist
from zerograsp_edge.runtime.loop.freshness import FrameGate
from zerograsp_edge.runtime.loop.planning import checked_order
from zerograsp_edge.runtime.loop.verify import Absence, absence, visible_surface

K = np.array([[80.0, 0, 47.5], [0, 80.0, 35.5], [0, 0, 1]], np.float32)
DOWN = TipsPose((0.4, 0.0, 0.02)).matrix()


def shifted(pose: np.ndarray, x: float) -> np.ndarray:
    moved = pose.copy()
    moved[0, 3] += x
    return moved


def rotated(pose: np.ndarray, degrees: float, axis: int) -> np.ndarray:
    """About one of the hand's own axes."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    i, j = [k for k in range(3) if k != axis]
    turn = np.eye(4)
    turn[i, i] = turn[j, j] = c
    turn[i, j], turn[j, i] = -s, s
    return pose @ turn


class TestBlacklist:
    def test_blocks_what_is_like_the_failure_only(self) -> None:
        blacklist = Blacklist(BlacklistConfig(radius=0.02, angle=30))
        blacklist.add(DOWN, 0.0)
        grasps = np.stack(
            [DOWN, shifted(DOWN, 0.019), shifted(DOWN, 0.021), rotated(DOWN, 25, 2), rotated(DOWN, 35, 2)]
        )
        assert blacklist.blocks(grasps, 1.0).tolist() == [True, True, False, True, False]

    def test_a_hand_turned_by_half_a_turn_about_its_approach_is_the_same(self) -> None:
        blacklist = Blacklist(BlacklistConfig())
        blacklist.add(DOWN, 0.0)
        assert blacklist.blocks(np.stack([rotated(DOWN, 180, 0), rotated(DOWN, 90, 0)]), 1.0).tolist() == [True, False]

    def test_forgets_after_a_half_life_for_each_failure(self) -> None:
        blacklist = Blacklist(BlacklistConfig(half_life=10))
        blacklist.add(DOWN, 0.0)
        assert blacklist.blocks(DOWN[None], 10.0).all()
        assert not blacklist.blocks(DOWN[None], 10.1).any()
        blacklist.add(DOWN, 0.0)
        assert blacklist.blocks(DOWN[None], 20.0).all()
        assert not blacklist.blocks(DOWN[None], 20.1).any()
        blacklist.blocks(DOWN[None], 1000.0)
        assert len(blacklist) == 0, "what no longer counts is not kept"


def frame(timestamp: float, seed: int = 0, depth: float = 600.0) -> Frame:
    rng = np.random.default_rng(seed)
    return Frame(
        rng.integers(0, 255, (72, 96, 3), np.uint8),
        (depth + rng.normal(0, 0.5, (72, 96))).astype(np.float32),
        K, timestamp=timestamp,
    )  # fmt: skip


class TestGate:
    def test_an_own_clock_is_learnt_and_delays_show(self) -> None:
        gate = FrameGate("own", 0.5, refuse_identical=True)
        offset = 1000.0
        for index, delay in enumerate([0.03, 0.01, 0.02, 0.8, 0.02]):
            taken = index * 1.0
            arrival = taken + delay
            picture = frame(taken - offset, index)
            time = gate.time_of(picture, arrival)
            refusal = gate.refusal(picture, time, arrival, -1e9)
            assert refusal.startswith("stale") == (delay == 0.8)
            if index >= 1:
                assert abs(time - (taken + 0.01)) < 0.002, "late by no more than the least delay"

    def test_a_slow_clock_does_not_age_frames(self) -> None:
        """50 ppm over three hours are 0.5 s."""
        gate = FrameGate("own", 0.5, refuse_identical=False)
        for index in range(0, 11_000, 100):
            picture = frame(index * (1 - 5e-5))
            assert gate.refusal(picture, gate.time_of(picture, index), index, -1e9) == ""

    def test_a_buffer_that_is_reused_is_still_told_from_a_frozen_one(self) -> None:
        """The camera writes into the same array: comparing it with itself would always find it equal."""
        gate = FrameGate("robot", 0.5, refuse_identical=True)
        depth = np.full((72, 96), 600, np.float32)
        rgb = np.zeros((72, 96, 3), np.uint8)
        assert gate.refusal(Frame(rgb, depth, K, timestamp=1.0), 1.0, 1.0, 0) == ""
        depth[3, 4] = 601
        assert gate.refusal(Frame(rgb, depth, K, timestamp=2.0), 2.0, 2.0, 0) == ""
        assert "every pixel" in gate.refusal(Frame(rgb, depth, K, timestamp=3.0), 3.0, 3.0, 0)

    def test_a_frame_of_before_the_motion_ended_is_refused(self) -> None:
        gate = FrameGate("robot", 0.5, refuse_identical=True)
        assert "before the robot came to rest" in gate.refusal(frame(1.0), 1.0, 1.1, 1.05)

    def test_a_frame_of_the_future_does_not_lock_out_the_present(self) -> None:
        gate = FrameGate("robot", 0.5, refuse_identical=True)
        assert gate.refusal(frame(9.0, 0), 9.0, 1.0, 0).startswith("from the future")
        assert gate.refusal(frame(1.1, 1), 1.1, 1.1, 0) == ""


class TestAbsence:
    SURFACE = np.stack([*np.meshgrid(np.linspace(-20, 20, 15), np.linspace(-20, 20, 15)), np.full((15, 15), 560.0)], -1)
    BASE = TipsPose((0.4, 0.1, 0.6), approach=(0, 0, -1)).matrix()

    def points(self) -> np.ndarray:
        """m, base frame."""
        return (self.SURFACE.reshape(-1, 3) / 1000) @ self.BASE[:3, :3].T + self.BASE[:3, 3]

    @pytest.mark.parametrize(
        ("depth", "verdict"), [(560.0, False), (600.0, True), (400.0, None), (563.0, False)]
    )
    def test_verdict_follows_the_depth(self, depth: float, verdict: bool | None) -> None:
        found = absence(self.points(), frame(1.0, depth=depth), self.BASE, 0.008)
        assert found.verdict(VerifyConfig()) is verdict
        assert found.gone + found.there + found.unknown == pytest.approx(1)

    def test_outside_the_picture_nothing_is_known(self) -> None:
        aside = self.BASE.copy()
        aside[0, 3] += 2.0
        assert absence(self.points(), frame(1.0), aside, 0.008) == Absence(0.0, 0.0, 1.0)

    def test_nothing_seen_before_is_nothing_known(self) -> None:
        assert absence(np.empty((0, 3)), frame(1.0), self.BASE, 0.008).verdict(VerifyConfig()) is None

    def test_only_what_the_camera_saw_counts(self) -> None:
        """Of a reconstruction with a far side, the points where the measured depth agrees."""
        class Item:
            points = np.concatenate([TestAbsence.SURFACE, TestAbsence.SURFACE + np.array([0, 0, 40])]).reshape(-1, 3)

        near = visible_surface(Item(), frame(1.0, depth=560.0), self.BASE)  # type: ignore[arg-type]
        assert len(near) == self.SURFACE[..., 0].size
        # A point stands for the whole pixel that it falls on: half of one, at this distance, is 3.5 mm.
        np.testing.assert_allclose(near, self.points(), atol=2.5e-3)


finite = st.floats(-1, 1)


@given(st.tuples(finite, finite, finite), st.tuples(finite, finite, finite), st.tuples(finite, finite, finite))
def test_tips_poses_are_rigid_and_survive_the_way_back(position: Any, approach: Any, closing: Any) -> None:
    try:
        pose = TipsPose(position, approach, closing)
    except ConfigError:
        assert np.linalg.norm(np.cross(approach, closing)) < 2e-3
        return
    matrix = pose.matrix()
    np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-9)
    assert np.linalg.det(matrix[:3, :3]) > 0
    np.testing.assert_allclose(matrix[:3, 0] * np.linalg.norm(approach), approach, atol=1e-9)
    assert matrix[:3, 1] @ closing > 0
    np.testing.assert_allclose(TipsPose.of(matrix).matrix(), matrix, atol=1e-9)


@pytest.mark.parametrize(
    "positions", [[0, 0], [3], [-1], [0.5], [[0]], ["a"]], ids=["twice", "beyond", "negative", "half", "nested", "text"]
)
def test_orders_that_are_none_are_refused(positions: Any) -> None:
    with pytest.raises(ValueError, match="order: expected"):
        checked_order(np.array(positions), 3)


def test_event_lines_are_strict_json(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "deep" / "events.jsonl")
    data = {"score": float("nan"), "tips": np.eye(4, dtype=np.float32), "count": np.int64(3), "path": tmp_path}
    log.write(Event(1.23456, State.CHOOSE, "chosen", "", data))
    log.close()
    log.close()

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    line = json.loads((tmp_path / "deep" / "events.jsonl").read_text(), parse_constant=refuse)
    assert line["score"] is None
    assert line["tips"][0] == [1, 0, 0, 0]
    assert (line["count"], line["state"], line["time"]) == (3, "choose", 1.2346)


def test_a_log_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"event log .* cannot be made"):
        EventLog(tmp_path / "file" / "events.jsonl")


def test_a_full_disk_does_not_disturb() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    log = EventLog("/dev/full")
    for _ in range(3):
        log.write(Event(0.0, State.START, "enter"))
    log.close()
