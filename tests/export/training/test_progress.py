"""Log and curves of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from zerograsp_edge.export.training.progress import ProgressLog, draw_curves, read_log


def test_a_resumed_run_reads_as_if_uninterrupted(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    log.write("start", 0, {})
    for step in (10, 20, 30):
        log.write("train", step, {"loss": step, "session": 1})
    log.write("start", 20, {"resumed": True})
    for step in (30, 40):
        log.write("train", step, {"loss": step, "session": 2})
    train = [r for r in read_log(tmp_path) if r["event"] == "train"]
    assert [(r["step"], r["session"]) for r in train] == [(10, 1), (20, 1), (30, 2), (40, 2)]


def test_a_half_written_line_spoils_nothing(tmp_path: Path) -> None:
    log = ProgressLog(tmp_path)
    log.write("train", 1, {})
    with log.path.open("a") as file:
        file.write('{"event": "train", "st')
    log.write("train", 2, {"loss": float("nan")})
    assert [r["step"] for r in read_log(tmp_path)] == [1, 2]
    assert json.loads(log.path.read_text().splitlines()[-1])["loss"] is None
    assert read_log(tmp_path / "elsewhere") == []


def test_curves_are_drawn_from_the_log(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra `train`")
    log = ProgressLog(tmp_path)
    first = draw_curves(tmp_path).read_bytes()
    for step in range(40):
        log.write("train", step, {"loss": 10 / (step + 1), "loss/occupancy_3": 0.1, "learning_rate": 1e-3})
    log.write("validation", 40, {"chamfer": 3.0, "f1_5": 50.0, "loss/sdf": 0.2, "normal_consistency": None})
    drawn = draw_curves(tmp_path).read_bytes()
    assert drawn.startswith(b"\x89PNG") and drawn != first
    assert not list(tmp_path.glob("*.part"))
