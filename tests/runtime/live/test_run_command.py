"""`zerograsp-edge run --camera`: the live pipeline from the command line, with the tiny bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.commands.live import live_line
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.live import Ending, LiveReport
from zerograsp_edge.runtime.live.report import Spread

FilesOf = Callable[..., list[str]]


def live(tiny_path: Path, *options: str) -> int:
    return main(["run", "--bundle", str(tiny_path), "--threads", "2", *options])


def test_folder_of_frames(
    tiny_path: Path, frame: Frame, other_frame: Frame, frame_files: FilesOf, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder, report = tmp_path / "frames", tmp_path / "out" / "live.json"
    for number, taken in enumerate((frame, other_frame, frame)):
        frame_files(taken, folder, f"{number}")
    assert live(tiny_path, "--camera", str(folder), "--json", str(report)) == 0
    output = capsys.readouterr().out
    assert "end of frames" in output and "3 frames captured, 3 perceived" in output and "fps" in output
    content = json.loads(report.read_text())
    assert content["ending"] == "end of frames" and content["consumed"] == 3
    assert content["latency_from"] == "arrival" and content["latency"]["p95"] > 0
    assert set(content["dropped"]) == {"camera", "capture", "consumer"}
    assert content["faults"] == {"camera": 0, "perception": 0, "consumer": 0}
    assert content["objects"] == 3 and content["timings"]["octree_encoder"] > 0
    assert not (tmp_path / "out" / "run").exists()


def test_limit_of_frames_and_quiet(
    tiny_path: Path, frame: Frame, frame_files: FilesOf, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, report = tmp_path / "frames", tmp_path / "live.json"
    for number in range(3):
        frame_files(frame, folder, f"{number}")
    options = ["--frames", "2", "--no-refine", "--quiet", "--json", str(report)]
    assert live(tiny_path, "--camera", str(folder), *options) == 0
    assert capfd.readouterr() == ("", "")
    assert json.loads(report.read_text())["explanation"] == "2 frames perceived"


def test_camera_that_fails_is_no_success(
    tiny_path: Path, frame: Frame, frame_files: FilesOf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "frames"
    for number in range(2):
        frame_files(frame, folder, f"{number}")
    depth = folder / "1.depth.png"
    depth.write_bytes(depth.read_bytes()[:-40])
    assert live(tiny_path, "--camera", str(folder)) == 1
    output = capsys.readouterr().out
    assert "1.depth.png" in output and "faults: 1 of the camera" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--camera", "sim", "--rgb", "a.png"], "--rgb: for frames from files"),
        (["--camera", "camera.json", "--depth", "d.png", "--rgb", "a.png"], "--intrinsics"),
        (["frames", "--seconds", "3"], "--seconds: for a live run; expected --camera"),
        (["frames", "--view"], "--view: for a live run"),
        (["--camera", "sim", "--speed", "1"], "--speed is for recordings"),
        (["--camera", "webcam"], "'webcam' is no camera"),
        (["--camera", "sim", "--frames", "0"], "frames: expected 1 or more"),
    ],
)
def test_wrong_usage(
    tiny_path: Path, failing_command: Callable[[list[str]], str], options: list[str], message: str
) -> None:
    assert message in failing_command(["run", "--bundle", str(tiny_path), *options])


def test_line() -> None:
    report = LiveReport(
        fps=12.34, latency=Spread(80, 120, 140), latency_from="sensor", objects=5, grasps=41,
        dropped={"camera": 3, "capture": 2, "consumer": 0}, faults={"camera": 1}, last_fault="camera: unplugged",
        silence=4.2,
    )  # fmt: skip
    text = live_line(report).plain
    first, *more = text.splitlines()
    assert first.split("   ") == [
        "12.3 fps", "latency 80 / 120 ms (p50 / p95, from sensor)", "dropped 5", "objects 5", "grasps 41", "faults 1",
    ]  # fmt: skip
    assert more == ["no frame for 4 s", "camera: unplugged"]
    ended = LiveReport(ending=Ending.DONE, silence=4.2)
    assert "no frame" not in live_line(ended).plain
