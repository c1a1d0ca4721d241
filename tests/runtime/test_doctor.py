"""The doctor runs anywhere, names what is missing, and says how to get it."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from zerograsp_edge.runtime import doctor
from zerograsp_edge.runtime.doctor import Check, diagnose, exit_code, print_report


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def printed(checks: list[Check]) -> tuple[str, int]:
    stream = io.StringIO()
    code = print_report(checks, Console(file=stream, width=200))
    return stream.getvalue(), code


def test_looks_at_everything_without_importing_torch() -> None:
    loaded = "torch" in sys.modules
    checks = by_name(diagnose())
    assert {
        "Python",
        "processor",
        "memory",
        "disk",
        "Python module",
        "ONNX Runtime operators",
        "onnxruntime",
        "cv2",
    } <= set(checks)
    assert {"extra [mesh]", "extra [export]", "tensorrt", "pycuda", "pyrealsense2", "udev rules"} <= set(
        checks
    )
    assert checks["Python"].status == "ok" and checks["numpy"].status == "ok"
    assert ("torch" in sys.modules) == loaded
    for check in checks.values():
        assert check.detail
        assert check.fix or check.status == "ok" or check.name in ("GPU", "tensorrt", "pycuda", "memory", "devices")


def test_missing_extra_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    check = by_name(diagnose())["extra [mesh]"]
    assert check.status == "missing" and "skimage not installed" in check.detail
    assert check.fix == "pip install 'zerograsp-edge[mesh]'"
    text, code = printed([check])
    assert code == 0 and "pip install 'zerograsp-edge[mesh]'" in text and "Ready" in text


def test_missing_required_package_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    checks = diagnose()
    check = by_name(checks)["onnxruntime"]
    assert check.status == "missing" and check.required and check.fix == "pip install onnxruntime"
    text, code = printed(checks)
    assert code == exit_code(checks) == 1 and "Something required is missing" in text


def test_missing_native_core_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zerograsp_edge.kernels._core", None)
    check = by_name(diagnose())["Python module"]
    assert check.status == "missing" and check.required and "pip install" in check.fix


def fake_jetson(root: Path) -> None:
    files = {
        "proc/cpuinfo": "processor : 0\nFeatures : fp asimd evtstrm\n",
        "proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable: 2000000 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        "lib/udev/rules.d/99-realsense-libusb.rules": "",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def test_jetson_in_a_low_power_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_jetson(tmp_path)
    monkeypatch.setattr(
        doctor, "_output", lambda command: {"nvpmodel": "NV Power Mode: 15W\n0"}.get(command[0])
    )
    checks = by_name(diagnose(tmp_path))
    assert "NEON" in checks["processor"].detail
    assert checks["memory"].status == "warn" and "1.9 of 7.6 GiB" in checks["memory"].detail
    assert "Orin Nano" in checks["Jetson"].detail and "R36" in checks["Jetson"].detail
    assert checks["power mode"].status == "warn" and checks["power mode"].detail == "15W"
    assert checks["power mode"].fix == "sudo nvpmodel -m 2 && sudo jetson_clocks"
    assert checks["udev rules"].status == "ok"
    monkeypatch.setattr(doctor, "_output", lambda command: "NV Power Mode: MAXN_SUPER\n2")
    assert by_name(diagnose(tmp_path))["power mode"].status == "ok"


def test_desktop_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "NVIDIA RTX 4000, 560.35, 20475 MiB, 8.9"
    monkeypatch.setattr(doctor, "_output", lambda command: answer if command[0] == "nvidia-smi" else None)
    checks = by_name(diagnose(tmp_path))
    assert checks["GPU"].status == "ok" and checks["GPU"].detail == answer
    assert checks["memory"].status == "warn"  # no /proc under this root: unknown, not an exception


def test_program_that_fails_gives_no_answer() -> None:
    assert doctor._output(["false"]) is None
    assert doctor._output(["no-such-program-here"]) is None
    assert doctor._output([sys.executable, "-c", "print('hello')"]) == "hello"
