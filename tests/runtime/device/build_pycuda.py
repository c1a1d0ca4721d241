"""Builds PyCUDA on a machine without CUDA, for test_pycuda.py; takes some minutes.

PyCUDA is published as source alone. It compiles where CUDA's headers are: a toolkit's, or those that
PyTorch's CUDA wheels bring (`pip install nvidia-curand nvidia-cuda-runtime` does as well). It is linked with
an empty library by the driver's name; the driver's stand-in takes that place in the tests.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).resolve().parents[3] / ".cache" / "pycuda"
PROFILER = "cudaProfiler.h"  # not among the headers of the wheels; PyCUDA uses these three
PROFILER_TEXT = """\
#include <cuda.h>
typedef enum CUoutput_mode_enum { CU_OUT_KEY_VALUE_PAIR = 0, CU_OUT_CSV = 1 } CUoutput_mode;
#ifdef __cplusplus
extern "C" {
#endif
CUresult cuProfilerInitialize(const char*, const char*, CUoutput_mode);
CUresult cuProfilerStart(void);
CUresult cuProfilerStop(void);
#ifdef __cplusplus
}
#endif
"""


def find(pattern: str) -> Path | None:
    """The first file of CUDA that matches, in a toolkit or in wheels on Python's path."""
    roots = [Path(p) for p in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if p]
    roots += [folder for entry in sys.path for folder in Path(entry or ".").glob("nvidia/*")]
    return next((path for root in roots for path in sorted(root.glob(pattern))), None)


def main() -> None:
    headers = {name: find(f"include/{name}") for name in ("cuda.h", "curand.h")}
    curand = find("lib*/libcurand.so*")
    if missing := [name for name, path in headers.items() if path is None] + (
        [] if curand else ["libcurand"]
    ):
        sys.exit(f"{', '.join(missing)}: not found; pip install nvidia-cuda-runtime nvidia-curand")
    assert curand is not None
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "setuptools", "wheel"], check=True)
        options = ["--no-binary", ":all:", "--no-deps", "--no-build-isolation"]
        subprocess.run(
            [*pip, "download", "--quiet", *options, "--dest", folder, "pycuda>=2024.1"], check=True
        )
        with tarfile.open(next(root.glob("pycuda-*.tar.gz"))) as archive:
            archive.extractall(root, filter="data")
        source = next(path for path in root.glob("pycuda-*") if path.is_dir())
        link = root / "link"
        link.mkdir()
        soname = ["-shared", "-x", "c", "/dev/null", "-Wl,-soname,libcuda.so.1"]
        subprocess.run(["gcc", *soname, "-o", str(link / "libcuda.so")], check=True)
        (link / "libcurand.so").symlink_to(curand)
        (link / PROFILER).write_text(PROFILER_TEXT)
        include = [str(path.parent) for path in headers.values() if path is not None]
        if find(f"include/{PROFILER}") is None:
            include.append(str(link))
        settings = {
            "USE_SHIPPED_BOOST": True, "CUDA_ROOT": str(link), "CUDA_INC_DIR": include, "CUDADRV_LIB_DIR": [str(link)],
            "CURAND_LIB_DIR": [str(link)], "CXXFLAGS": ["-O1"], "LDFLAGS": ["-Wl,--no-as-needed"],
        }  # fmt: skip
        (source / "siteconf.py").write_text(
            "".join(f"{name} = {value!r}\n" for name, value in settings.items())
        )
        subprocess.run(
            [*pip, "install", "--no-build-isolation", "--upgrade", "--target", str(TARGET), str(source)],
            check=True,
        )


if __name__ == "__main__":
    main()
