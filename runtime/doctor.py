"""What this machine has and lacks to run zerograsp-edge, with the command that fixes each lack."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from zerograsp_edge.runtime.camera.realsense.library import LIBUSB_FIX, librealsense
from zerograsp_edge.runtime.camera.realsense.usb import UDEV_FIX, udev_rules, usb_cameras
from zerograsp_edge.runtime.errors import MissingExtra
from zerograsp_edge.runtime.extras import install_command

if TYPE_CHECKING:
    from rich.console import Console

Status = Literal["ok", "missing", "warn"]

MIN_PYTHON = (3, 10)
MIN_MEMORY_GIB = 4.0
MIN_DISK_GIB = 2.0
_REINSTALL = "pip install --force-reinstall zerograsp-edge"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        group: heading in the report.
        name: what was looked at.
        status: `ok`, `warn` (works, with a limit), or `missing`.
        detail: what was found.
        fix: command or step that helps, empty when there is nothing to do.
        required: nothing runs without it.
    """

    group: str
    name: str
    status: Status
    detail: str
    fix: str = ""
    required: bool = False


def diagnose(root: Path = Path("/")) -> list[Check]:
    """All findings, in the order of the report. Nothing is changed, and torch is looked for but not imported.

    Args:
        root: file system root that /proc, /etc and /lib are read under; tests give another.
    """
    return [
        *_machine(root),
        *_native(),
        _segmentation(),
        *_packages(),
        *_nvidia(root),
        *_cameras(root),
    ]


def exit_code(checks: Iterable[Check]) -> int:
    """0 unless something required is missing."""
    return int(any(check.required and check.status == "missing" for check in checks))


def print_report(checks: list[Check], console: Console | None = None) -> int:
    """Print the findings as a table, then what to run; returns the exit code."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    styles = {"ok": "green", "warn": "yellow", "missing": "dim"}
    table = Table(title="zerograsp-edge doctor", title_justify="left", header_style="bold", expand=False)
    for column in ("", "Part", "State", "Found"):
        table.add_column(column, overflow="fold")
    group = ""
    for check in checks:
        if check.group != group and group:
            table.add_section()
        style = "bold red" if check.required and check.status == "missing" else styles[check.status]
        heading = check.group if check.group != group else ""
        table.add_row(
            Text(heading, style="bold"), Text(check.name), Text(check.status, style=style), Text(check.detail)
        )
        group = check.group
    console.print(table)
    fixes = [check for check in checks if check.fix and check.status != "ok"]
    for check in sorted(fixes, key=lambda check: not check.required):
        urgency = "required" if check.required else "optional" if check.status == "missing" else "advice"
        console.print(
            Text(f"{urgency:>8}  {check.name}: ", style="bold" if check.required else ""),
            Text(check.fix),
            soft_wrap=True,
        )
    code = exit_code(checks)
    console.print(
        Text(
            "Something required is missing." if code else "Ready.", style="bold red" if code else "bold green"
        )
    )
    return code


def _machine(root: Path) -> list[Check]:
    python = platform.python_version()
    recent = sys.version_info[:2] >= MIN_PYTHON
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return [
        Check(
            "machine",
            "Python",
            "ok" if recent else "missing",
            f"{python}, {sys.executable}",
            "" if recent else f"install Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer",
            required=True,
        ),
        _processor(root),
        _memory(root),
        Check(
            "machine",
            "disk",
            "ok" if free >= MIN_DISK_GIB else "warn",
            f"{free:.1f} GiB free in {Path.cwd()}",
            ""
            if free >= MIN_DISK_GIB
            else f"free some space: bundles and engines take up to {MIN_DISK_GIB:g} GiB",
        ),
    ]


def _processor(root: Path) -> Check:
    info = _text(root / "proc/cpuinfo")
    fields = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())
    }
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    levels = (
        ("AVX-512", {"avx512f", "avx512bw"}),
        ("AVX2 + FMA", {"avx2", "fma"}),
        ("NEON", {"asimd"}),
        ("SSE4", {"sse4_2"}),
    )
    level = next((name for name, needed in levels if needed <= flags), None)
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = f"{usable} of {os.cpu_count()} cores usable"
    fast = level not in (None, "SSE4")
    return Check(
        "machine",
        "processor",
        "ok" if fast else "warn",
        f"{fields.get('model name', platform.machine())}, {level or 'no known SIMD level'}, {cores}",
        "" if fast else "the CPU executor will be slow: use a processor with AVX2 or NEON",
    )


def _memory(root: Path) -> Check:
    fields = dict(line.split(":", 1) for line in _text(root / "proc/meminfo").splitlines() if ":" in line)
    if "MemAvailable" not in fields:
        return Check("machine", "memory", "warn", "unknown: /proc/meminfo cannot be read")
    total, available = (int(fields[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
    enough = available >= MIN_MEMORY_GIB
    fix = (
        ""
        if enough
        else f"close other programs: a bundle for large frames takes up to {MIN_MEMORY_GIB:g} GiB"
    )
    return Check(
        "machine", "memory", "ok" if enough else "warn", f"{available:.1f} of {total:.1f} GiB free", fix
    )


def _native() -> list[Check]:
    try:
        core = importlib.import_module("zerograsp_edge.kernels._core")
        first = Check("native core", "Python module", "ok", str(core.__file__), required=True)
    except ImportError as error:
        first = Check("native core", "Python module", "missing", str(error), _REINSTALL, required=True)
    kernels = importlib.util.find_spec("zerograsp_edge.kernels")
    folders = [Path(place) for place in kernels.submodule_search_locations or ()] if kernels else []
    library = next((path for folder in folders for path in folder.rglob("libzerograsp_ort.so")), None)
    found = str(library) if library else "libzerograsp_ort.so is not beside the Python module"
    second = Check(
        "native core",
        "ONNX Runtime operators",
        "ok" if library else "missing",
        found,
        "" if library else _REINSTALL,
        required=True,
    )
    return [first, second]


def _segmentation() -> Check:
    """Masks: whether the geometric segmenter runs here, on a picture made up for it."""
    try:
        from zerograsp_edge.runtime.segmentation.geometric import self_check

        found = self_check()
    except ImportError as error:
        return Check("segmentation", "geometric", "missing", str(error), _REINSTALL)
    return Check("segmentation", "geometric", "ok" if found == 2 else "warn", f"finds {found} of 2 boxes on a table",
                 "" if found == 2 else _REINSTALL)  # fmt: skip


def _packages() -> list[Check]:
    return [
        *(
            _imported(module, fix)
            for module, fix in (
                ("numpy", "pip install numpy"),
                ("onnxruntime", "pip install onnxruntime"),
                ("cv2", "pip install opencv-python-headless"),
            )
        ),
        _extra("mesh", ("skimage", "trimesh"), "watertight meshes"),
        _extra("sim", ("mujoco", "scipy", "skimage", "trimesh"), "simulated worlds"),
        _extra("calibration", ("scipy",), "hand-eye calibration"),
        _extra("franka", ("franky",), "a Franka arm"),
        _extra("view", ("viser",), "live 3D view"),
        _extra("export", ("torch", "ocnn", "segmentation_models_pytorch", "onnx"), "checkpoint to bundle"),
    ]


def _imported(module: str, fix: str) -> Check:
    """A required package: imported, because a package that is there may still fail (OpenCV without libGL)."""
    try:
        version = str(importlib.import_module(module).__version__)
    except ImportError as error:
        return Check("packages", module, "missing", str(error), fix, required=True)
    return Check("packages", module, "ok", version, required=True)


def _extra(extra: str, modules: tuple[str, ...], purpose: str) -> Check:
    absent = [module for module in modules if not _present(module)]
    detail = (
        f"{purpose}: {', '.join(absent)} not installed"
        if absent
        else f"{purpose}: {', '.join(map(_versioned, modules))}"
    )
    fix = install_command(extra) if absent else ""
    return Check("packages", f"extra [{extra}]", "missing" if absent else "ok", detail, fix)


def _nvidia(root: Path) -> list[Check]:
    release, model = (
        _text(root / "etc/nv_tegra_release"),
        _text(root / "proc/device-tree/model").strip("\0\n "),
    )
    if release or "jetson" in model.lower():
        return [
            Check(
                "NVIDIA",
                "Jetson",
                "ok",
                ", ".join(part for part in (model, release.split(", GCID")[0].strip("# \n")) if part),
            ),
            _power_mode(root),
            _python_package(
                "tensorrt",
                "sudo apt-get install nvidia-jetpack; virtual environments need --system-site-packages",
            ),
            _python_package("pycuda", install_command("jetson")),
        ]
    query = _output(
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,compute_cap", "--format=csv,noheader"]
    )
    if query is None:
        absent = "none found: the CPU executor is used"
        return [
            Check("NVIDIA", "GPU", "missing", absent),
            *(
                Check(
                    "NVIDIA",
                    module,
                    "ok" if _present(module) else "missing",
                    _versioned(module) if _present(module) else "not needed without a GPU",
                )
                for module in ("tensorrt", "pycuda")
            ),
        ]
    return [
        Check("NVIDIA", "GPU", "ok", "; ".join(line.strip() for line in query.splitlines())),
        _python_package("tensorrt", "pip install tensorrt"),
        _python_package("pycuda", install_command("jetson")),
    ]


def _power_mode(root: Path) -> Check:
    """A Jetson in a low power mode is the most common reason for figures that disappoint."""
    answer = _output(["nvpmodel", "-q"])
    if answer is None:
        return Check("NVIDIA", "power mode", "warn", "nvpmodel -q gave no answer", "sudo nvpmodel -q")
    mode = next(
        (line.split(":", 1)[1].strip() for line in answer.splitlines() if "Power Mode" in line),
        answer.strip(),
    )
    if mode.upper().startswith("MAXN"):
        return Check("NVIDIA", "power mode", "ok", mode)
    # The number of the fastest mode differs between modules.
    offered = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(MAXN\w*)", _text(root / "etc/nvpmodel.conf"))
    number = (
        max(offered, key=lambda entry: len(entry[1]))[0]
        if offered
        else "<number of MAXN in /etc/nvpmodel.conf>"
    )
    return Check("NVIDIA", "power mode", "warn", mode, f"sudo nvpmodel -m {number} && sudo jetson_clocks")


def _cameras(root: Path) -> list[Check]:
    rules = udev_rules(root)
    found = str(rules[0]) if rules else "no *realsense*.rules: a camera can only be opened as root"
    return [
        _librealsense(),
        Check("camera", "udev rules", "ok" if rules else "missing", found, "" if rules else UDEV_FIX),
        *_devices(root),
    ]


def _librealsense() -> Check:
    """Imported, because it is often there and lacks a library of the system."""
    if not _present("pyrealsense2"):
        return Check("camera", "pyrealsense2", "missing", "not installed", install_command("camera"))
    try:
        librealsense()
    except MissingExtra as error:
        cause = error.__cause__.__cause__ if isinstance(error.__cause__, MissingExtra) else error.__cause__
        fix = LIBUSB_FIX if "libusb" in str(cause) else install_command("camera")
        return Check("camera", "pyrealsense2", "missing", f"fails to import: {cause}", fix)
    return Check("camera", "pyrealsense2", "ok", _versioned("pyrealsense2"))


def _devices(root: Path) -> list[Check]:
    """Cameras on the bus; their firmware where librealsense can be asked."""
    on_bus = usb_cameras(root)
    if not on_bus:
        return [Check("camera", "devices", "missing", "no RealSense camera on the bus")]
    firmware = _firmware() if root == Path("/") else None
    checks = []
    for camera in on_bus:
        detail, fix = f"{camera.model}, link of {camera.megabits} Mbit/s", ""
        if camera.recovery:
            detail, fix = f"{detail}, waits for a firmware", "rs-fw-update -r -f SIGNED_IMAGE.bin"
        elif not camera.accessible:
            detail, fix = f"{detail}, this user may not open {camera.node}", UDEV_FIX
        elif camera.slow_link:
            detail, fix = f"{detail}: USB 2", "use a USB 3 port and the cable that came with the camera"
        checks.append(Check("camera", "device", "warn" if fix else "ok", detail, fix))
    return checks if firmware is None else [*checks, firmware]


def _firmware() -> Check | None:
    try:
        from zerograsp_edge.runtime.camera.realsense.devices import describe, version

        rs = librealsense()
        found = [describe(rs, device) for device in rs.context().query_devices()]
    except (MissingExtra, RuntimeError):
        return None  # another line says so
    if not found:
        return None
    old = [d for d in found if d.recommended_firmware and version(d.firmware) < version(d.recommended_firmware)]
    detail = "; ".join(f"{device.serial}: {device.firmware}" for device in found)
    if not old:
        return Check("camera", "firmware", "ok", detail)
    return Check("camera", "firmware", "warn", f"{detail}; recommended {old[0].recommended_firmware}",
                 f"rs-fw-update -s {old[0].serial} -f SIGNED_IMAGE.bin")  # fmt: skip


def _python_package(module: str, fix: str, group: str = "NVIDIA") -> Check:
    if _present(module):
        return Check(group, module, "ok", _versioned(module))
    return Check(group, module, "missing", "not installed", fix)


def _present(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # a module without __spec__ stands in its place
        return True


def _versioned(module: str) -> str:
    """`name version`, without importing; the name alone when its distribution is called otherwise."""
    names = _distributions().get(module, [module])
    try:
        return f"{module} {importlib.metadata.version(names[0])}"
    except importlib.metadata.PackageNotFoundError:
        return module


@cache
def _distributions() -> Mapping[str, list[str]]:
    """Distributions by import name; takes a second to gather."""
    return importlib.metadata.packages_distributions()


def _output(command: list[str]) -> str | None:
    """What a program prints, None when it is absent, fails or hangs."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
