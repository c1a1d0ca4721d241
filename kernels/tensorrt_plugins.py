"""The TensorRT plugin library `libzerograsp_trt.so`: where it is, and how it is built on the device.

The library is compiled against the headers of one major version of TensorRT and for one compute capability, so no
wheel can bring it; its sources come with the package (`kernels/tensorrt`, `kernels/cuda`, `kernels/core`).
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path

LIBRARY = "libzerograsp_trt.so"
NAMESPACE, VERSION = "zerograsp", "1"
PLUGINS = (
    "GridConv", "OcclusionField", "OctreeAlign", "OctreeConv", "OctreeConvInt8", "OctreeDownsample",
    "OctreeDownsampleInt8", "OctreeMlp", "OctreeNeighbor", "OctreeResidual", "OctreeResidualInt8", "OctreeUpsample",
    "OctreeUpsampleInt8",
)  # fmt: skip

_KERNELS = Path(__file__).resolve().parent
_HEADER, _VERSION_HEADER = "NvInferRuntime.h", "NvInferVersion.h"
_INCLUDE_VARIABLE = "TENSORRT_INCLUDE_DIR"

Version = tuple[int, int, int]


class PluginBuildError(RuntimeError):
    """The plugin library could not be built; the text names what is missing, or what the compiler said."""


def installed_library() -> Path | None:
    """The library in the package's folder, where a build with -DZEROGRASP_TENSORRT=ON puts it; None without one."""
    path = _KERNELS / LIBRARY
    return path if path.is_file() else None


def library_version(path: Path) -> Version:
    """Version of the TensorRT headers that a library was compiled with: it serves that major version alone.

    Raises:
        OSError: the file is no shared library for this machine.
        AttributeError: it is another library.
    """
    number = int(ctypes.CDLL(str(path)).zg_tensorrt_version())
    return number // 10000, number // 100 % 100, number % 100


def find_headers(tensorrt_include: str | Path | None = None) -> Path:
    """The folder of TensorRT's headers.

    Args:
        tensorrt_include: the folder itself; by default $TENSORRT_INCLUDE_DIR, else the usual places.

    Raises:
        PluginBuildError: there are none.
    """
    given = tensorrt_include or os.environ.get(_INCLUDE_VARIABLE)
    if given:
        if not (Path(given) / _HEADER).is_file():
            source = "tensorrt_include" if tensorrt_include else f"${_INCLUDE_VARIABLE}"
            raise PluginBuildError(f"{source}: expected a folder with {_HEADER}, got {given}")
        return Path(given)
    multiarch = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    places = [
        f"/usr/include/{multiarch}",
        "/usr/include",
        "/usr/local/tensorrt/include",
        "/opt/tensorrt/include",
    ]
    for place in places:
        if (Path(place) / _HEADER).is_file():
            return Path(place)
    raise PluginBuildError(
        f"TensorRT's headers are missing ({_HEADER} is not in {', '.join(places)}): install them with "
        f"`sudo apt-get install libnvinfer-headers-dev`, or set {_INCLUDE_VARIABLE} to their folder"
    )


def header_version(include: Path) -> Version:
    """Major, minor and patch of the TensorRT headers in a folder."""
    # 10.16 and later define the numbers by way of TRT_MAJOR_ENTERPRISE and so on.
    text = (include / _VERSION_HEADER).read_text()
    names = ("MAJOR", "MINOR", "PATCH")
    found = [re.search(rf"define (?:NV_TENSORRT_{n}|TRT_{n}_ENTERPRISE) +(\d+)", text) for n in names]
    if not all(found):
        raise PluginBuildError(f"{include / _VERSION_HEADER} states no version of TensorRT")
    major, minor, patch = (int(m[1]) for m in found if m)
    return major, minor, patch


def build_library(
    out: str | Path,
    tensorrt_include: str | Path | None = None,
    cuda_arch: str = "87",
    *,
    jobs: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
    build_folder: str | Path | None = None,
    warnings_as_errors: bool = False,
) -> Path:
    """Compiles the plugin library with CMake; minutes on a Jetson.

    Args:
        out: the file to write, usually `.../libzerograsp_trt.so`; it appears complete or not at all.
        tensorrt_include: folder of TensorRT's headers (see `find_headers`).
        cuda_arch: compute capability, as "87", "8.7" or "sm_87"; several separated by commas.
        jobs: compilers at a time; by default one for each core, but a GiB of memory each.
        progress: called with every line that the build prints.
        build_folder: kept, so that a next build compiles what changed; by default a temporary one.
        warnings_as_errors: for developers; a newer compiler's warning is nothing a robot's user can mend.

    Returns:
        `out`.

    Raises:
        PluginBuildError: a tool or the headers are missing, or a compiler failed.
    """
    out = Path(out)
    source = _KERNELS / "tensorrt"
    if not (source / "CMakeLists.txt").is_file():
        raise PluginBuildError(
            f"the sources of the plugins are missing: expected {source}; reinstall zerograsp-edge"
        )
    cmake = shutil.which("cmake") or shutil.which("cmake", path=str(Path(sys.executable).parent))
    if cmake is None:
        raise PluginBuildError(
            "cmake is missing: install it with `sudo apt-get install cmake` (3.18 or newer)"
        )
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "c++", "g++", "clang++") if name):
        raise PluginBuildError("a C++ compiler is missing: install it with `sudo apt-get install g++`")
    settings = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CUDA_COMPILER": find_nvcc(),
        "TENSORRT_INCLUDE_DIR": find_headers(tensorrt_include).resolve(),
        "ZEROGRASP_CUDA_ARCHITECTURES": ";".join(f"{a}-real" for a in _architectures(cuda_arch)),
        "ZEROGRASP_WERROR": "ON" if warnings_as_errors else "OFF",
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".zerograsp_trt.", dir=out.parent) as temporary:
        build = Path(build_folder or Path(temporary) / "build")
        _run([cmake, "-S", source, "-B", build, *(f"-D{k}={v}" for k, v in settings.items())], progress)
        _run([cmake, "--build", build, "--parallel", jobs or _jobs()], progress)
        complete = Path(temporary) / LIBRARY
        shutil.copyfile(build / LIBRARY, complete)
        complete.replace(out)
    return out


def find_nvcc() -> Path:
    """The CUDA compiler: $CUDACXX, the PATH, $CUDA_HOME, or where JetPack puts it.

    Raises:
        PluginBuildError: it is nowhere there.
    """
    named = os.environ.get("CUDACXX")
    homes = [h for h in (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda") if h]
    for candidate in [named, "nvcc", *(f"{home}/bin/nvcc" for home in homes)]:
        found = shutil.which(candidate) if candidate else None
        if found:
            return Path(found)
    raise PluginBuildError(
        "nvcc is missing: install the CUDA toolkit (on a Jetson: `sudo apt-get install nvidia-jetpack`) and put its "
        "bin folder on the PATH, or set CUDACXX to nvcc"
    )


def _architectures(text: str) -> list[str]:
    found = [re.fullmatch(r"(?:sm_)?(\d+)\.?(\d)", part.strip()) for part in text.split(",")]
    if not all(found):
        raise PluginBuildError(
            f"cuda_arch: expected a compute capability such as 87, 8.7 or sm_87, got {text!r}"
        )
    return [m[1] + m[2] for m in found if m]


def _jobs() -> int:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(os.cpu_count() or 1, int(memory / 2**30) - 1))


def _run(command: list[object], progress: Callable[[str], None]) -> None:
    words = [str(word) for word in command]
    lines = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            progress(lines[-1])
    if process.returncode != 0:
        told = "\n".join(lines[-40:])
        raise PluginBuildError(f"the plugin library could not be built; `{' '.join(words)}` said:\n{told}")
