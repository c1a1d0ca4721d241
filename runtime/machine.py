"""The machine that a measurement was made on, with what decides its speed: power mode, clocks, governor."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any


def describe_machine(root: Path = Path("/")) -> dict[str, Any]:
    """What is known about this machine, by name; what does not apply is left out.

    On a Jetson: model, L4T release, `nvpmodel -q`, `jetson_clocks --show` (which needs root to say
    everything) and the devfreq clocks. Everywhere: processor, cores, load, and the CPU's frequency governor
    where the kernel tells.

    Args:
        root: file system root that /proc, /sys and /etc are read under; tests give another.
    """
    found: dict[str, Any] = {
        "processor": _processor(root),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
    }
    governors = {_text(p) for p in root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")}
    if governors - {""}:
        found["governor"] = ", ".join(sorted(governors - {""}))
    model = _text(root / "proc/device-tree/model").rstrip("\0")
    release = _text(root / "etc/nv_tegra_release")
    if release or "jetson" in model.lower():
        found["model"], found["l4t"] = model, release.split("\n")[0].lstrip("# ")
        found["power_mode"] = _answer(["nvpmodel", "-q"])
        found["jetson_clocks"] = _answer(["jetson_clocks", "--show"])
        found["devfreq"] = _devfreq(root)
    return found


def _processor(root: Path) -> str:
    match = re.search(r"^model name\s*:\s*(.+)$", _text(root / "proc/cpuinfo"), re.MULTILINE)
    return match[1] if match else platform.processor() or platform.machine()


def _devfreq(root: Path) -> dict[str, dict[str, str]]:
    """Governor and frequencies (Hz) of every device that scales, the GPU and the memory controller among them."""
    names = ("governor", "cur_freq", "min_freq", "max_freq")
    return {
        folder.name: {name: _text(folder / name) for name in names}
        for folder in sorted(root.glob("sys/class/devfreq/*"))
    }


def _answer(command: list[str]) -> str:
    """What a command says; what went wrong in its place, so that no record looks complete that is not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} gave no answer: {error}"
    text = done.stdout.strip()
    return text if done.returncode == 0 and text else f"{command[0]} failed: {(done.stderr or text).strip()}"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
