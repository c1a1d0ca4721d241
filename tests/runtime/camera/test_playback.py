"""Recording and playback through librealsense: bit by bit, every frame once, from any position, at any speed."""

from __future__ import annotations

import time
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyrealsense2", reason="needs the extra `camera` and the system's libusb-1.0", exc_type=ImportError)

import zerograsp_edge.runtime.camera.playback as playback_module
from zerograsp_edge.runtime.camera.base import CameraCounters
from zerograsp_edge.runtime.camera.files import FrameFolder
from zerograsp_edge.runtime.camera.opening import open_camera
from zerograsp_edge.runtime.camera.playback import Playback
from zerograsp_edge.runtime.camera.realsense.camera import RealSenseCamera
from zerograsp_edge.runtime.camera.realsense.config import FilterConfig, RealSenseConfig
from zerograsp_edge.runtime.camera.software import Optics, Shot, SoftwareBackend
from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames
from zerograsp_edge.runtime.frame import Frame

from .conftest import FakeClock
from .test_software import COLOUR, CONFIG, DEPTH, H, K, W, WakingClock, read_all

COUNT = 40
APART = np.eye(4)
APART[0, 3] = 0.015


def numbered(number: int) -> Shot:
    """A shot that no other equals."""
    depth, colour = DEPTH.copy(), COLOUR.copy()
    depth[0, 0], colour[0, 0, 0] = 700 + number, number
    return Shot(number, 5000 + number * 1000 / 30, depth, colour)


def recorded(path: Path, shots: list[Shot], pose: np.ndarray | None = None) -> Path:
    clock = WakingClock()
    optics = Optics(K, K, (W, H), (W, H), np.eye(4) if pose is None else pose)
    backend = SoftwareBackend(shots, optics, CONFIG, clock, record=path)
    with RealSenseCamera(CONFIG, backend=backend, clock=clock, keep_all=True) as camera:  # type: ignore[arg-type]
        read_all(camera)
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("recording") / "forty.db3", [numbered(n) for n in range(1, COUNT + 1)])


def fingerprint(frame: Frame) -> tuple[float, str, int, int]:
    return frame.timestamp, frame.name, zlib.crc32(frame.rgb), zlib.crc32(frame.depth)


def test_every_frame_once_as_it_was_recorded(recording: Path) -> None:
    with Playback(recording) as playback:
        for number, frame in enumerate(playback, 1):
            shot = numbered(number)
            assert np.array_equal(frame.rgb, shot.colour) and np.array_equal(frame.depth, shot.depth)
            assert frame.timestamp == pytest.approx(shot.time / 1000, abs=1e-6)
            assert np.array_equal(frame.intrinsics, K)
        assert playback.counters == CameraCounters(frames=COUNT)
        with pytest.raises(EndOfFrames, match="played to its end"):
            playback.read()


def test_replay_is_the_same_whatever_the_reader_does(recording: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Playback(recording) as playback:
        first = [fingerprint(frame) for frame in playback]
    monkeypatch.setattr(playback_module, "_PATIENCE", 0.2)  # a reader so slow that the file is put aside
    with Playback(recording) as playback:
        slow = []
        for number, frame in enumerate(playback):
            slow.append(fingerprint(frame))
            if number in (0, 5, 20):
                time.sleep(0.5)
        assert playback.counters == CameraCounters(frames=COUNT)
    assert slow == first


@pytest.mark.parametrize("frame", [0, 1, 7, 38, 39])
def test_seeking(recording: Path, frame: int) -> None:
    with Playback(recording) as playback:
        playback.read()
        playback.seek(frame / 30)
        assert playback.read().name == f"{frame + 1:06d}"
        playback.seek(max(frame / 30 - 0.01, 0))  # between two frames: the next one
        assert [f.name for f in playback] == [f"{n:06d}" for n in range(frame + 1, COUNT + 1)]


def test_seeking_outside(recording: Path) -> None:
    with Playback(recording) as playback:
        for seconds, said in ((-1.0, "0 s or later"), (1e6, "the last frame was taken"), (float("nan"), "later")):
            with pytest.raises(CameraError, match=said):
                playback.seek(seconds)
        playback.seek(0)
        assert playback.read().name == "000001"


@pytest.mark.parametrize("speed", [1.0, 4.0])
def test_recorded_speed(recording: Path, speed: float) -> None:
    clock = FakeClock()
    with Playback(recording, speed=speed, wait_clock=clock) as playback:
        playback.read()
        began = clock.now()
        names = [frame.name for frame in playback]
    assert len(names) == COUNT - 1
    assert clock.now() - began == pytest.approx((COUNT - 1) / 30 / speed, abs=1e-3)


def test_looping_keeps_time_rising(recording: Path) -> None:
    with Playback(recording, loop=True) as playback:
        frames = [playback.read() for _ in range(2 * COUNT + 5)]
    stamps = np.array([frame.timestamp for frame in frames])
    assert np.diff(stamps) == pytest.approx(1 / 30, abs=1e-5)
    assert [f.name for f in frames[:5]] == [f.name for f in frames[COUNT : COUNT + 5]] == [f.name for f in frames[-5:]]


def test_pictures_without_partner_are_counted(tmp_path: Path) -> None:
    shots = [numbered(n) for n in range(1, 13)]
    shots[3] = Shot(4, shots[3].time, shots[3].depth, None)
    shots[7] = Shot(8, shots[7].time, None, shots[7].colour)
    with Playback(recorded(tmp_path / "lone.db3", shots)) as playback:
        assert [int(f.name) for f in playback] == [1, 2, 3, 5, 6, 7, 9, 10, 11, 12]
        assert playback.counters == CameraCounters(frames=10, unpaired=2, lost=2)


def test_unequal_timestamps_pair_with_the_nearest(tmp_path: Path) -> None:
    """Depth and colour of a real camera are some milliseconds apart."""
    shots = []
    for n in range(1, 13):
        shot = numbered(n)
        shots += [Shot(n, shot.time, shot.depth, None), Shot(n, shot.time + 9, None, shot.colour)]
    path = _recorded_raw(tmp_path / "apart.db3", shots)
    with Playback(path) as playback:
        frames = list(playback)
        assert [int(f.rgb[0, 0, 0]) for f in frames] == [int(f.depth[0, 0]) - 700 for f in frames] == list(range(1, 13))
    with Playback(path, tolerance=5) as playback, pytest.raises(EndOfFrames, match="24 unpaired"):
        playback.read()


def _recorded_raw(path: Path, shots: list[Shot]) -> Path:
    """Through the recorder without a reader, which would take halves for faults."""
    import gc

    import pyrealsense2 as rs

    from zerograsp_edge.runtime.camera.software import SoftwareDevice

    device = SoftwareDevice(rs, Optics(K, K, (W, H), (W, H), np.eye(4)), 30)
    recorder, sink = rs.recorder(str(path), device.device), rs.frame_queue(1)
    sensors = recorder.query_sensors()
    for sensor in sensors:
        sensor.open(sensor.get_stream_profiles())
        sensor.start(sink)
    for shot in shots:
        device.push(shot)
    for sensor in sensors:
        sensor.stop()
        sensor.close()
    del sensor, sensors, recorder, device
    gc.collect()
    return path


def test_alignment_and_filters_are_those_of_the_live_camera(tmp_path: Path) -> None:
    shots, filters = [numbered(n) for n in range(1, 6)], FilterConfig(spatial=True, temporal=True)
    path = recorded(tmp_path / "apart.db3", shots, APART)
    clock = WakingClock()
    config = RealSenseConfig(width=W, height=H, warm_up=0, clock="own", timeout=30, filters=filters)
    backend = SoftwareBackend(shots, Optics(K, K, (W, H), (W, H), APART), config, clock)
    live = RealSenseCamera(config, backend=backend, clock=clock, keep_all=True)  # type: ignore[arg-type]
    with live, Playback(path, filters) as playback:
        for frame in playback:
            expected = live.read()
            assert np.array_equal(frame.depth, expected.depth) and np.array_equal(frame.rgb, expected.rgb)
        assert playback.counters.frames == 5


def test_what_cannot_be_played_is_said(tmp_path: Path, recording: Path) -> None:
    junk = tmp_path / "junk.db3"
    junk.write_bytes(b"SQLite format 3\0" + bytes(4000))
    bag = tmp_path / "junk.bag"
    bag.write_bytes(b"#ROSBAG V2.0\n" + bytes(4000))
    cut = tmp_path / "cut.db3"
    cut.write_bytes(recording.read_bytes()[:4096])
    for path in (junk, bag, cut):
        with pytest.raises(CameraError, match=path.name):
            Playback(path)
    with pytest.raises(CameraError, match="is not there"):
        Playback(tmp_path / "absent.db3")
    with pytest.raises(CameraError, match="speed"):
        Playback(recording, speed=0)


def test_reading_a_closed_recording(recording: Path) -> None:
    playback = Playback(recording)
    playback.close()
    playback.close()
    with pytest.raises(CameraError, match="closed"):
        playback.read()


def test_closing_in_the_middle_ends_librealsenses_threads(recording: Path) -> None:
    for _ in range(10):
        with Playback(recording) as playback:
            playback.read()


def test_record_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    folder, out = tmp_path / "frames", tmp_path / "out" / "r.db3"
    folder.mkdir()
    for n in range(3):
        shot = numbered(n + 1)
        cv2.imwrite(str(folder / f"{n}.rgb.png"), shot.colour[:, :, ::-1])  # type: ignore[index]
        cv2.imwrite(str(folder / f"{n}.depth.png"), shot.depth)  # type: ignore[arg-type]
    (folder / "camera.json").write_text('{"fx": 90, "fy": 90, "cx": 47.5, "cy": 31.5}')
    assert main(["record", str(out), "--camera", str(folder)]) == 0
    assert "recorded 3 frames" in capsys.readouterr().out
    for played, given in zip(open_camera(out), FrameFolder(folder), strict=True):  # type: ignore[call-overload]
        assert np.array_equal(played.rgb, given.rgb) and np.array_equal(played.depth, given.depth)
    assert main(["record", str(out), "--camera", str(folder)]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["record", str(out), "--camera", str(folder), "--overwrite", "--seconds", "0.02"]) == 0
    assert "recorded 2 frames" in capsys.readouterr().out
    assert main(["record", str(tmp_path / "r.bag"), "--camera", str(folder)]) == 1
    assert ".db3" in capsys.readouterr().err
    before = out.read_bytes()
    assert main(["record", str(out), "--camera", "webcam", "--overwrite"]) == 1
    assert "expected realsense" in capsys.readouterr().err
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]


def test_recording_without_a_camera_leaves_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyrealsense2 as rs

    if len(rs.context().query_devices()):
        pytest.skip("a camera is connected")
    assert main(["record", str(tmp_path / "r.db3")]) == 1
    assert "no RealSense camera" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
