"""An aarch64 Python with the package's kernels, on a machine of another kind: the core's tests run in it as Arm code.

    python tests/kernels/arm_environment.py               # downloads and cross-compiles into .cache/arm
    python tests/kernels/arm_environment.py -k octree     # and runs tests/kernels there, with pytest's options

Needs Debian or Ubuntu with g++-aarch64-linux-gnu and qemu-user, and a host Python of the distribution's version.
Debian's Python for arm64 is unpacked into a folder, nothing is installed; NumPy, ONNX Runtime and the test tools are
the wheels for ARM64. Only what the kernels need is there: tests that import PyTorch or ocnn skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / ".cache" / "arm"
ROOT, SITE, VIEW = FOLDER / "root", FOLDER / "site", FOLDER / "view"
CROSS_COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
SUFFIX = f"cpython-{sys.version_info.major}{sys.version_info.minor}-aarch64-linux-gnu"

DEBIAN = (
    f"python{VERSION}-minimal", f"libpython{VERSION}-minimal", f"libpython{VERSION}-stdlib", f"libpython{VERSION}-dev",
    "libc6", "libgcc-s1", "libstdc++6", "libgomp1", "zlib1g", "libexpat1", "libssl3", "libffi8", "libbz2-1.0",
    "liblzma5", "libsqlite3-0", "libuuid1", "libcrypt1",
)  # fmt: skip
# ONNX Runtime 1.23 and newer end in a segmentation fault under QEMU 7.2 when they are imported.
WHEELS = ("numpy", "onnxruntime<1.23", "onnx", "opencv-python-headless", "pillow", "hypothesis", "pytest")
PLATFORMS = (
    "manylinux2014_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_28_aarch64",
)


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=cwd)


def unpack_python() -> None:
    """Debian's packages for arm64, by a package index of their own: the system's is left alone."""
    lists, cache, archives = FOLDER / "apt" / "lists", FOLDER / "apt" / "cache", FOLDER / "apt" / "archives"
    for folder in (lists / "partial", cache / "archives" / "partial", archives):
        folder.mkdir(parents=True, exist_ok=True)
    options = []
    for option in (
        "APT::Architecture=arm64", "APT::Architectures=arm64", f"Dir::State::lists={lists}", f"Dir::Cache={cache}",
        "Dir::State::status=/dev/null", "APT::Sandbox::User=root",
    ):  # fmt: skip
        options += ["-o", option]
    _run("apt-get", *options, "-q", "update")
    _run("apt-get", *options, "-q", "download", *DEBIAN, cwd=archives)
    for package in sorted(archives.glob("*.deb")):
        _run("dpkg", "-x", package, ROOT)


def install_wheels() -> None:
    platforms = [part for name in PLATFORMS for part in ("--platform", name)]
    _run(
        sys.executable, "-m", "pip", "install", "-q", "--target", SITE, "--only-binary", ":all:", "--python-version",
        VERSION, "--implementation", "cp", "--abi", f"cp{VERSION.replace('.', '')}", "--abi", "abi3", "--abi", "none",
        *platforms, *WHEELS,
    )  # fmt: skip


def build_core() -> None:
    """The native core by the repository's own CMakeLists, with the cross compiler."""
    build, package = FOLDER / "build", VIEW / "zerograsp_edge" / "kernels"
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}") or "cmake"
    headers = ROOT / "usr" / "include"
    _run(
        cmake, "-S", REPOSITORY, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={CROSS_COMPILER}",
        f"-DCMAKE_CXX_FLAGS=-isystem {headers}",
        f"-DPython_EXECUTABLE={sys.executable}", f"-DPython_INCLUDE_DIR={headers / f'python{VERSION}'}",
        f"-DPython_SOABI={SUFFIX}",
    )  # fmt: skip
    _run(cmake, "--build", build, "-j2")
    shutil.rmtree(VIEW, ignore_errors=True)
    shutil.copytree(
        REPOSITORY / "kernels", package, ignore=shutil.ignore_patterns("*.so", "*.cpp", "*.cu", "__pycache__")
    )
    _run(cmake, "--install", build, "--prefix", VIEW)
    # nanobind names the module after the Python that configured it.
    host = sysconfig.get_config_var("SOABI")
    (package / f"_core.{host}.so").rename(package / f"_core.{SUFFIX}.so")


def missing_tool() -> str | None:
    """What keeps this machine from making the environment, and the command that helps; None if nothing does."""
    for tool, package in (
        (CROSS_COMPILER, "g++-aarch64-linux-gnu"),
        (EMULATOR, "qemu-user"),
        ("dpkg", "dpkg"),
    ):
        if shutil.which(tool) is None:
            return f"{tool} is missing: apt-get install {package}"
    return None


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the Arm Python in the emulator."""
    environment = {
        "PYTHONPATH": f"{SITE}:{VIEW}", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "2",
        "OMP_WAIT_POLICY": "passive",
    }  # fmt: skip
    settings = [part for name, value in environment.items() for part in ("-E", f"{name}={value}")]
    command = [
        EMULATOR,
        "-L",
        str(ROOT),
        *settings,
        str(ROOT / "usr" / "bin" / f"python{VERSION}"),
        *arguments,
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)


def make() -> None:
    """Makes whatever is not there yet; the core is always brought up to date."""
    if (reason := missing_tool()) is not None:
        sys.exit(reason)
    if not (ROOT / "usr" / "bin" / f"python{VERSION}").exists():
        unpack_python()
    if not (SITE / "numpy").exists():
        install_wheels()
    build_core()


def main() -> int:
    make()
    options = sys.argv[1:]
    if not options:
        print(f"ready: {FOLDER}; give pytest's options to run tests/kernels there")
        return 0
    done = python(
        "-m", "pytest", "-p", "no:cacheprovider", "--ignore=tests/kernels/cuda", "--ignore=tests/kernels/trt_plugins",
        "--ignore=tests/kernels/test_arm.py",
        "tests/kernels", *options,
    )
    print(done.stdout + done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
