"""`zerograsp-edge profile`, and the record of the machine that goes with its figures."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.machine import describe_machine
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.profile import WHOLE, Percentiles, profile


def test_percentiles() -> None:
    figures = Percentiles.of(float(n) for n in range(1, 102))
    assert (figures.p50, figures.p95, figures.p99, figures.mean, figures.most, figures.frames) == (
        51,
        96,
        100,
        51,
        101,
        101,
    )


def test_profile(pipeline: Pipeline, frame: Frame, other_frame: Frame) -> None:
    report = profile(pipeline, [frame, other_frame] * 3, warmup=2)
    assert (report.backend, report.clock, report.device, report.precision) == (
        "onnxruntime",
        "CPU clock",
        {},
        "fp32",
    )
    assert list(report.parts)[-1] == WHOLE and "octree_encoder" in report.parts
    assert all(
        figures.frames == 4 and 0 <= figures.p50 <= figures.p95 <= figures.p99
        for figures in report.parts.values()
    )
    parts = sum(figures.mean for name, figures in report.parts.items() if name != WHOLE)
    assert 0 < parts <= report.parts[WHOLE].mean
    assert report.sizes["width"] == 160 and report.sizes["objects"] == len(frame.object_ids())
    with pytest.raises(ValueError, match="more than the 2 of the warm-up, got 2"):
        profile(pipeline, [frame] * 2, warmup=2)


@pytest.mark.parametrize("source", ["reference", "simulated"])
def test_the_command(
    tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    file = tmp_path / "profile.json"
    arguments = ["--frames", "3", "--warmup", "1", "--source", source, "--threads", "2", "--json", str(file)]
    assert main(["profile", str(tiny_path), *arguments]) == 0
    output = capsys.readouterr().out
    assert "p50" in output and "decoder_6" in output and "the bundle has no TensorRT engines" in output
    figures = json.loads(file.read_text())
    assert figures["parts"][WHOLE]["frames"] == 3 and figures["machine"]["cores"] >= 1


def test_the_command_with_a_folder(
    tiny_path: Path, frame: Frame, frame_files: object, tmp_path: Path
) -> None:
    frame_files(frame, tmp_path / "frames")  # type: ignore[operator]
    assert (
        main(
            [
                "profile",
                str(tiny_path),
                "--folder",
                str(tmp_path / "frames"),
                "--frames",
                "2",
                "--warmup",
                "0",
            ]
        )
        == 0
    )


def test_counts_that_make_no_sense(tiny_path: Path, failing_command: object) -> None:
    assert "expected --frames of 1 or more" in failing_command(["profile", str(tiny_path), "--frames", "0"])  # type: ignore[operator]


def tool(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


def test_a_jetson_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0\nmore",
        "sys/class/devfreq/17000000.gpu/governor": "nvhost_podgov\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "bin").mkdir()
    tool(tmp_path / "bin", "nvpmodel", "echo 'NV Power Mode: MAXN'; echo 0")
    tool(tmp_path / "bin", "jetson_clocks", "echo 'Error: must be root' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    found = describe_machine(tmp_path)
    assert (
        found["model"] == "NVIDIA Jetson AGX Orin Developer Kit"
        and found["l4t"] == "R36 (release), REVISION: 4.0"
    )
    assert found["power_mode"] == "NV Power Mode: MAXN\n0" and found["governor"] == "schedutil"
    assert found["jetson_clocks"] == "jetson_clocks failed: Error: must be root"
    assert found["devfreq"]["17000000.gpu"] == {
        "governor": "nvhost_podgov", "cur_freq": "1300500000", "min_freq": "", "max_freq": ""
    }  # fmt: skip


def test_another_machine_claims_nothing(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU @ 3 GHz\n")
    found = describe_machine(tmp_path)
    assert found["processor"] == "Some CPU @ 3 GHz"
    assert not {"model", "power_mode", "jetson_clocks", "devfreq", "governor"} & set(found)
