"""The tests of this folder once more, with the real PyCUDA on the driver's stand-in instead of PyCUDA's double.

PyCUDA has no wheels. `tests/runtime/device/build_pycuda.py` builds it on a machine without CUDA.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from driver_double import CACHE, SOURCE, build

HERE = Path(__file__).resolve().parent
BUILT = CACHE.parent / "pycuda"


def pycuda_folder() -> Path:
    """The folder on Python's path that holds PyCUDA."""
    if (BUILT / "pycuda").is_dir():
        return BUILT
    found = importlib.util.find_spec("pycuda")
    if found is None or found.origin is None:
        pytest.skip(
            "PyCUDA is not installed: python tests/runtime/device/build_pycuda.py builds it without a GPU"
        )
    return Path(found.origin).parents[1]


@pytest.mark.slow
@pytest.mark.skipif("ZEROGRASP_DRIVER_DOUBLE" in os.environ, reason="runs the other tests in this process")
def test_with_the_real_pycuda() -> None:
    folder = pycuda_folder()
    module = next((folder / "pycuda").glob("_driver*.so"))
    if shutil.which("nm") is None:
        pytest.skip("nm is missing: apt-get install binutils")
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(module)], capture_output=True, text=True, check=True
    )
    needed = set(re.findall(r"\bU (cu[A-Z]\w+)", symbols.stdout))
    defined = set(re.findall(r"^API int (cu\w+)", SOURCE.read_text(), re.MULTILINE))
    unexpected = "".join(f"UNEXPECTED({name})\n" for name in sorted(needed - defined))
    library = build(CACHE, "libcuda.so.1", unexpected)
    curand = [
        str(path) for entry in sys.path for path in Path(entry or ".").glob("nvidia/*/lib") if path.is_dir()
    ]
    environment = dict(
        os.environ,
        ZEROGRASP_DRIVER_DOUBLE=str(library),
        LD_LIBRARY_PATH=":".join([str(library.parent), *curand, os.environ.get("LD_LIBRARY_PATH", "")]),
        PYTHONPATH=":".join([str(folder), os.environ.get("PYTHONPATH", "")]),
    )
    arguments = ["-q", "-p", "no:cacheprovider", "-m", "not slow", str(HERE)]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "PyCUDA" not in done.stderr, done.stderr  # its warnings of clean-ups that failed
