"""Calibrations applied to frames: properties of the depth correction, refusals, files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zerograsp_edge.runtime import Frame
from zerograsp_edge.runtime.camera.correction import (
    CameraCalibration,
    CameraResiduals,
    CorrectedCamera,
    DepthCorrection,
    Pinhole,
)
from zerograsp_edge.runtime.camera.intrinsics import read_camera
from zerograsp_edge.runtime.camera.opening import open_camera
from zerograsp_edge.runtime.commands.run import Run
from zerograsp_edge.runtime.deployment import Deployment
from zerograsp_edge.runtime.errors import CameraError, ConfigError

W, H = 24, 16
FACTORY = Pinhole(20.0, 20.0, 11.5, 7.5)
REFINED = Pinhole(20.2, 20.1, 11.9, 7.25)
RESIDUALS = CameraResiduals(0.2, 0.1, 0.9, 0.1, 0.2, 0.5, 0.2, 12, 1)
CALIBRATION = CameraCalibration(
    W, H, "f0012", REFINED, FACTORY, DepthCorrection(1.007, 0.01, -0.02, 0.015), "apply", RESIDUALS,
    "2025-01-01T00:00:00+00:00", ("apply the file",),
)  # fmt: skip

depths = hnp.arrays(
    np.float32, (H, W), elements=st.one_of(st.just(0.0), st.floats(10, 10000, width=32))
)
corrections = st.builds(
    DepthCorrection, st.floats(0.95, 1.05), *3 * [st.floats(-0.02, 0.02)]
)


def frame_of(depth: np.ndarray, camera: Pinhole = FACTORY) -> Frame:
    return Frame(np.zeros((*depth.shape, 3), np.uint8), depth, camera.matrix)


class OneFrame:
    def __init__(self, serial: str = "f0012") -> None:
        self.serial, self.closed = serial, False

    def read(self) -> Frame:
        return frame_of(np.full((H, W), 500, np.float32))

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> OneFrame:
        return self

    def __exit__(self, *_: object) -> None: ...


@given(depths)
def test_the_identity_leaves_every_bit(depth: np.ndarray) -> None:
    identity = DepthCorrection()
    after = identity.apply(depth, identity.plane(FACTORY, W, H))
    np.testing.assert_array_equal(after.view(np.int32), depth.view(np.int32))
    depth[0, 0] = 400
    frame = frame_of(depth)
    kept = replace(CALIBRATION, intrinsics=FACTORY, depth_correction=identity).apply(frame)
    assert kept.depth is frame.depth and (kept.intrinsics == frame.intrinsics).all()


@given(depths, corrections)
def test_zeros_stay_and_the_rest_is_affine_in_inverse_depth(depth: np.ndarray, correction: DepthCorrection) -> None:
    before = depth.copy()
    after = correction.apply(depth, correction.plane(REFINED, W, H))
    assert after.dtype == np.float32 and (depth == before).all()
    assert ((after == 0) == (depth == 0)).all()
    v, u = np.nonzero(depth)
    x, y = (u - REFINED.cx) / REFINED.fx, (v - REFINED.cy) / REFINED.fy
    inverse = 1000 / depth[v, u].astype(np.float64)
    wanted = correction.scale * inverse + correction.offset + correction.tilt_x * x + correction.tilt_y * y
    np.testing.assert_allclose(1000 / after[v, u], wanted, rtol=1e-4)


@given(corrections, st.tuples(st.floats(-0.6, 0.6), st.floats(-0.6, 0.6), st.floats(300, 900)))
def test_planes_stay_planes(correction: DepthCorrection, plane: tuple[float, float, float]) -> None:
    x = (np.arange(W) - FACTORY.cx) / FACTORY.fx
    y = ((np.arange(H) - FACTORY.cy) / FACTORY.fy)[:, None]
    depth = np.float32(plane[2] / (1 + plane[0] * x + plane[1] * y))
    after = correction.apply(depth, correction.plane(FACTORY, W, H)).astype(np.float64)
    points = np.stack([x * after, y * after, after], axis=-1).reshape(-1, 3)
    centred = points - points.mean(axis=0)
    assert np.linalg.svd(centred, compute_uv=False)[2] / np.sqrt(len(points)) < 1e-3


def test_beyond_infinity_is_no_measurement_and_counted() -> None:
    depth = np.full((H, W), 500, np.float32)
    depth[3, 4] = 9000
    calibration = replace(CALIBRATION, depth_correction=DepthCorrection(1.0, -0.2))
    corrected = calibration.apply(frame_of(depth))
    assert corrected.depth[3, 4] == 0 and corrected.repaired_depth == 1
    assert corrected.depth[0, 0] == pytest.approx(500 / (1 - 0.1), rel=1e-5)


def test_intrinsics_are_replaced_and_masks_kept() -> None:
    mask = np.zeros((H, W), np.uint8)
    mask[4:8, 4:8] = 3
    frame = frame_of(np.full((H, W), 500, np.float32)).with_mask(mask)
    corrected = CALIBRATION.apply(frame)
    np.testing.assert_allclose(corrected.intrinsics, REFINED.matrix, rtol=1e-6)
    assert corrected.object_ids() == (3,) and frame.depth[0, 0] == 500


def test_other_frames_are_refused() -> None:
    with pytest.raises(CameraError, match="is 23x16 pixels, the calibration is for 24x16"):
        CALIBRATION.apply(frame_of(np.full((H, W - 1), 500, np.float32)))
    frame = frame_of(np.full((H, W), 500, np.float32))
    with pytest.raises(CameraError, match="corrected already"):
        CALIBRATION.apply(CALIBRATION.apply(frame))


def test_another_camera_is_refused_and_closed() -> None:
    source = OneFrame("f0099")
    with pytest.raises(CameraError, match="of camera f0012, this is camera f0099"):
        CorrectedCamera(source, CALIBRATION)
    assert source.closed
    with CorrectedCamera(OneFrame(""), CALIBRATION) as camera:  # it cannot be known
        assert camera.read().depth[0, 0] != 500


def test_file(tmp_path: Path) -> None:
    for name in ("camera.yaml", "camera.json"):
        path = CALIBRATION.save(tmp_path / name)
        assert CameraCalibration.load(path) == CALIBRATION
        as_camera = read_camera(path)  # what hand-eye calibration takes with --camera
        np.testing.assert_allclose(as_camera.intrinsics, REFINED.matrix, rtol=1e-6)
        assert as_camera.size == (W, H) and as_camera.serial == "f0012" and as_camera.depth_scale is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["camera.json", "camera.yaml"]
    with pytest.raises(ConfigError, match=r"expected a file NAME.yaml"):
        CALIBRATION.save(tmp_path / "camera.txt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "has version 2, expected 1"),
        ({"format": "other"}, "is no camera calibration"),
        ({"verdict": "good"}, "expected fine or apply"),
        ({"extra": 1}, "unknown entry extra"),
        ({"width": "wide"}, "expected a whole number"),
        ({"depth_correction": {"scale": 1.5}}, "scale of 0.9 to 1.1"),
        ({"depth_correction": {"scale": float("nan")}}, "scale of 0.9 to 1.1"),
        ({"intrinsics": {"fx": -1.0, "fy": 1.0, "cx": 0.0, "cy": 0.0}}, "positive focal lengths"),
    ],
)
def test_damaged_files(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(yaml.safe_dump({**CALIBRATION.to_dict(), **change}))
    with pytest.raises(ConfigError, match=message):
        CameraCalibration.load(path)


def test_missing_files_and_entries(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        CameraCalibration.load(tmp_path / "none.yaml")
    entries = CALIBRATION.to_dict()
    del entries["factory"]
    (tmp_path / "camera.yaml").write_text(yaml.safe_dump(entries))
    with pytest.raises(ConfigError, match="expected factory, missing"):
        CameraCalibration.load(tmp_path / "camera.yaml")


def test_opened_cameras_are_corrected(tmp_path: Path) -> None:
    with open_camera("sim:4") as camera:
        raw = camera.read()
    size = {"width": raw.width, "height": raw.height}
    known = Pinhole.of(raw.intrinsics)
    path = replace(CALIBRATION, **size, factory=known, intrinsics=known).save(tmp_path / "camera.yaml")
    with open_camera("sim:4", calibration=path) as camera:
        assert camera.name and camera.clock and camera.counters.frames == 0 and not camera.live
        corrected = camera.read()
    seen = (raw.depth > 0) & (corrected.depth > 0)
    ratio = np.median(corrected.depth[seen] / raw.depth[seen])
    assert abs(ratio - 1) > 0.003 and (corrected.rgb == raw.rgb).all()


def test_deployments_correct_their_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    module = types.ModuleType("my_bench")
    module.wrist = OneFrame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_bench", module)
    path = CALIBRATION.save(tmp_path / "camera.yaml")
    camera = Deployment(camera="my_bench:wrist", camera_calibration=path).open_camera()
    np.testing.assert_allclose(camera.read().intrinsics, REFINED.matrix, rtol=1e-6)
    with pytest.raises(ConfigError, match="cannot be read"):
        Deployment(camera="my_bench:wrist", camera_calibration=tmp_path / "none.yaml").open_camera()


def test_run_corrects_frames_of_its_camera_only(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.rgb.png"), np.zeros((H, W, 3), np.uint8))
    cv2.imwrite(str(folder / "a.depth.png"), np.full((H, W), 500, np.uint16))
    camera = {"fx": 20.0, "fy": 20.0, "cx": 11.5, "cy": 7.5}
    path = CALIBRATION.save(tmp_path / "camera.yaml")
    for serial in ("f0012", "f0099"):
        (folder / "camera.json").write_text(json.dumps({**camera, "serial": serial}))
        run = Run(folder=folder, calibration=path)
        frames = run._frames()
        if serial == "f0012":
            calibration = run._calibration(frames)
            assert calibration is not None and calibration.apply(frames[0]).depth[0, 0] != 500
        else:
            with pytest.raises(CameraError, match="this is camera f0099"):
                run._calibration(frames)
            # With a camera file of its own, that one says which camera it is.
            (tmp_path / "own.json").write_text(json.dumps({**camera, "serial_number": "f0012"}))
            own = Run(folder=folder, calibration=path, intrinsics=tmp_path / "own.json")
            assert own._calibration(own._frames()) is not None
    assert Run(folder=folder)._calibration(frames) is None
