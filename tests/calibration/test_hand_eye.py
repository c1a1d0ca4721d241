"""The whole calibration against known truth: from pictures, with wrong views, with sets that do not suffice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zerograsp_edge.calibration.board import Board
from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.calibration.hand_eye import View, calibrate
from zerograsp_edge.calibration.pose_set import _candidates, condition_number, rotation_diversity
from zerograsp_edge.calibration.simulation import Rig, board_views, make_rig
from zerograsp_edge.calibration.transforms import angle_between, from_vector, invert


def unmet(calibration) -> set[str]:
    return {c.name for c in calibration.assessment.criteria if c.binding and not c.met}


def test_from_rendered_pictures(rig: Rig, rendered_views: list[View], error_of) -> None:
    result = calibrate(rig.mode, rendered_views, rig.board, rig.camera)
    degrees, millimetres = error_of(result, rig)
    assert degrees < 0.1 and millimetres < 1.0
    assert result.assessment.sufficient and not result.rejected and not result.notes
    assert result.assessment.shortfalls == ()
    assert result.sigma_rotation_deg < 0.05 and result.sigma_translation_mm < 0.5
    # The board's place comes out too.
    assert np.linalg.norm(result.board_transform[:3, 3] - rig.board_mounted[:3, 3]) < 2e-3
    assert all(v.reprojection_px < 0.25 and v.sigmas < 5 for v in result.views)


def test_all_five_classical_solvers_come_close(rig: Rig, rendered_views: list[View]) -> None:
    result = calibrate(rig.mode, rendered_views, rig.board, rig.camera)
    assert set(result.classical) == {"Tsai", "Park", "Horaud", "Andreff", "Daniilidis"}
    for name, classical in result.classical.items():
        assert classical.transform is not None, f"{name}: {classical.failure}"
        assert classical.rotation_deg < 0.2 and classical.translation_mm < 2.0, name


def test_refinement_beats_every_classical_solver_on_average(rig: Rig, corner_views) -> None:
    errors: dict[str, list[float]] = {}
    for seed in range(6):
        views = corner_views(rig, board_views(rig, 10, np.random.default_rng(seed)), seed)
        result = calibrate(rig.mode, views, rig.board, rig.camera)
        answers = {name: c.transform for name, c in result.classical.items()} | {"refined": result.transform}
        for name, x in answers.items():
            errors.setdefault(name, []).append(float(np.sum((x[:3, 3] - rig.mounted[:3, 3]) ** 2)))
    rms = {name: np.sqrt(np.mean(values)) for name, values in errors.items()}
    assert rms["refined"] == min(rms.values()), rms


def test_wrong_robot_poses_are_rejected(rig: Rig, rendered_views: list[View], error_of) -> None:
    views = list(rendered_views)
    views[2] = replace(views[2], hand=views[7].hand)  # the pose of another view
    views[5] = replace(views[5], hand=views[5].hand @ from_vector(np.array([0.01, 0, 0, 0, 0.005, 0])))
    views[9] = replace(views[9], hand=views[9].hand @ from_vector(np.array([0, 0, 0, 0.003, 0, 0])))
    result = calibrate(rig.mode, views, rig.board, rig.camera)
    assert [v.name for v in result.rejected] == ["view02", "view05", "view09"]
    assert all("robot pose and picture disagree" in v.reason for v in result.rejected)
    assert result.rejected[2].translation_mm == pytest.approx(3.0, abs=0.8)
    degrees, millimetres = error_of(result, rig)
    assert degrees < 0.1 and millimetres < 1.0 and result.assessment.sufficient


def test_a_moved_board_is_told_from_wrong_poses(rig: Rig, corner_views, error_of) -> None:
    poses = board_views(rig, 14, np.random.default_rng(8))
    hands = rig.hand_pose(poses)
    moved = replace(rig, board_mounted=rig.board_mounted @ from_vector(np.array([0, 0, 0.02, 0.015, 0, 0])))
    poses[10:] = moved.camera_from_board(hands[10:])
    reported = rig.reported(hands, np.random.default_rng(8))
    views = [replace(v, hand=h) for v, h in zip(corner_views(rig, poses, 8), reported, strict=True)]
    result = calibrate(rig.mode, views, rig.board, rig.camera)
    assert [v.name for v in result.rejected] == ["view10", "view11", "view12", "view13"]
    for v in result.rejected:
        assert "views view10, view11, view12, view13 agree that the board sat elsewhere" in v.reason
    degrees, millimetres = error_of(result, rig)
    assert degrees < 0.1 and millimetres < 1.0


def test_no_majority_is_no_result(rig: Rig, corner_views) -> None:
    views = corner_views(rig, board_views(rig, 10, np.random.default_rng(9)), 9)
    rng = np.random.default_rng(9)
    for i in range(0, 10, 2):
        away = np.append(rng.normal(0, 0.1, 3), rng.normal(0, 0.05, 3))
        views[i] = replace(views[i], hand=views[i].hand @ from_vector(away))
    result = calibrate(rig.mode, views, rig.board, rig.camera)
    assert not result.assessment.sufficient
    assert unmet(result) & {"robot's pose error over its repeatability", "share of poses that agree"}


def test_pure_translation_does_not_suffice(rig: Rig, corner_views) -> None:
    poses = np.repeat(board_views(rig, 1, np.random.default_rng(0)), 10, axis=0)
    poses[:, :3, 3] += np.random.default_rng(1).uniform(-0.03, 0.03, (10, 3))
    result = calibrate(rig.mode, corner_views(rig, poses), rig.board, rig.camera)
    assert {"rotation amplitude", "rotation about a second axis"} <= unmet(result)
    assert not result.rejected
    assert result.assessment.next_pose.hand is None  # nobody could say where that is
    assert "30 deg" in result.assessment.next_pose.instruction


def test_one_rotation_axis_does_not_suffice(rig: Rig, corner_views) -> None:
    start = board_views(rig, 1, np.random.default_rng(0))[0]
    about = from_vector(np.append(np.zeros(3), rig.board.centre))
    turns = from_vector(np.linspace(-0.6, 0.6, 10)[:, None] * np.array([0.0, 0, 1, 0, 0, 0]))
    views = corner_views(rig, start @ about @ turns @ invert(about))
    result = calibrate(rig.mode, views, rig.board, rig.camera)
    assert "rotation about a second axis" in unmet(result)
    assert "rotation amplitude" not in unmet(result)
    assert not result.rejected


def test_too_few_and_too_similar(rig: Rig, corner_views) -> None:
    poses = board_views(rig, 12, np.random.default_rng(0))
    with pytest.raises(CalibrationError, match="at least 3 views of the board, got 2"):
        calibrate(rig.mode, corner_views(rig, poses[:2]), rig.board, rig.camera)
    four = calibrate(rig.mode, corner_views(rig, poses[:4]), rig.board, rig.camera)
    assert {"poses that agree"} <= unmet(four) <= {"poses that agree", "expected error, rotation (1 sigma)"}
    assert "poses that agree: 4, needed at least 8" in four.assessment.shortfalls
    timid = board_views(rig, 12, np.random.default_rng(0), tilt_deg=4)
    timid[:, :3, :3] = from_vector(np.zeros(6))[:3, :3]
    small = from_vector(
        np.append(np.random.default_rng(2).normal(0, 0.05, (12, 3)), np.zeros((12, 3)), axis=1)
    )
    result = calibrate(rig.mode, corner_views(rig, timid @ small), rig.board, rig.camera)
    assert {"rotation amplitude", "rotation about a second axis"} <= unmet(result)


def test_the_pose_advised_is_worth_more_than_an_average_one(rig: Rig, corner_views) -> None:
    poses = board_views(rig, 6, np.random.default_rng(6))
    before = calibrate(rig.mode, corner_views(rig, poses, 6), rig.board, rig.camera)
    advised = before.assessment.next_pose.hand
    assert advised is not None

    def sigma(extra: np.ndarray) -> float:
        """With the same noise level for all, so that only the pose counts."""
        from zerograsp_edge.calibration.refine import covariance_of_camera, one_view_information, refine

        from_corners = corner_views(rig, poses, 6)
        refined = refine(views_tuple(rig, from_corners), rig.mounted, rig.board_mounted)
        added = one_view_information(rig.mode, extra, rig.board, rig.camera, refined)
        return float(np.trace(covariance_of_camera(refined.information + added)[3:, 3:]))

    others = rig.hand_pose(board_views(rig, 10, np.random.default_rng(60)))
    assert sigma(advised) < np.mean([sigma(hand) for hand in others])
    # And the whole board is in the picture there.
    seen = rig.camera_from_board(advised)
    points = rig.board.corners @ seen[:3, :3].T + seen[:3, 3]
    pixels = (points @ rig.camera.intrinsics.T)[:, :2] / points[:, 2:]
    assert (points[:, 2] > 0).all() and (pixels > 0).all() and (pixels < [640, 480]).all()


def views_tuple(rig: Rig, views: list[View]):
    from zerograsp_edge.calibration.refine import Views

    hand = np.stack([v.hand for v in views])
    return Views.of(rig.mode, hand, [v.detection for v in views], rig.board, rig.camera)


def test_advice_names_the_side_that_comes_nearer() -> None:
    rig = make_rig("eye-to-hand")
    board, names = rig.board, ("right", "bottom", "left", "top")
    sides = {"right": [1, 0], "bottom": [0, 1], "left": [-1, 0], "top": [0, -1]}
    for pose, candidate in _candidates(board_views(rig, 3, np.random.default_rng(0)), board, rig.camera):
        if candidate.direction % 2:
            continue
        points = board.corners @ pose[:3, :3].T + pose[:3, 3]
        centre = (pose @ np.append(board.centre, 1))[:3]
        along = (points - centre)[:, :2] @ np.array(sides[names[candidate.direction // 2]])
        assert np.corrcoef(along, points[:, 2])[0, 1] < -0.9


def test_a_print_of_another_size_is_noticed(rig: Rig, corner_views) -> None:
    views = corner_views(rig, board_views(rig, 14, np.random.default_rng(10)), 10)
    result = calibrate(rig.mode, views, Board(square_m=0.0303, marker_m=0.022), rig.camera)
    assert len(result.notes) == 1 and "square is 30.0" in result.notes[0]
    assert "board size against the robot's motion" in unmet(result)


IN_ITS_OWN_BASE: dict = {}


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_the_choice_of_the_base_frame_does_not_matter(rig: Rig, corner_views, move: list[float]) -> None:
    """Robot poses in another base frame: eye-in-hand has the same answer, eye-to-hand the same in that frame."""
    change = from_vector(np.array(move))
    views = corner_views(rig, board_views(rig, 9, np.random.default_rng(12)), 12)
    views[4] = replace(views[4], hand=views[4].hand @ from_vector(np.array([0.02, 0, 0, 0.01, 0, 0])))
    other = [replace(v, hand=change @ v.hand) for v in views]
    if rig.mode not in IN_ITS_OWN_BASE:
        IN_ITS_OWN_BASE[rig.mode] = calibrate(rig.mode, views, rig.board, rig.camera)
    a = IN_ITS_OWN_BASE[rig.mode]
    b = calibrate(rig.mode, other, rig.board, rig.camera)
    expected = a.transform if rig.mode == "eye-in-hand" else change @ a.transform
    assert np.linalg.norm(b.transform[:3, 3] - expected[:3, 3]) < 2e-6
    assert angle_between(b.transform, expected) < 2e-6
    assert [v.used for v in a.views] == [v.used for v in b.views] == [i != 4 for i in range(9)]
    assert b.sigma_translation_mm == pytest.approx(a.sigma_translation_mm, rel=1e-2)


def test_measures_of_diversity() -> None:
    axis = from_vector(np.array([[0.0, 0, a, 0, 0, 0] for a in (-0.5, 0, 0.5)]))
    largest, rms, axes = rotation_diversity(axis)
    assert largest == pytest.approx(1.0)
    assert rms[0] == pytest.approx(np.sqrt((0.25 + 0.25 + 1) / 3)) and rms[1] < 1e-9
    np.testing.assert_allclose(np.abs(axes[:, 0]), [0, 0, 1], atol=1e-12)
    assert condition_number(np.diag([4.0, 1, 1, 4, 4, 4]), 0.5) == pytest.approx(4.0)
    assert condition_number(np.full((6, 6), np.inf), 1.0) == np.inf
