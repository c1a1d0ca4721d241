"""The other tests of this folder once more, with AddressSanitizer and UndefinedBehaviorSanitizer in the kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_library import COMPILER, HERE, REPOSITORY, SANITIZED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SANITIZED, reason="this is the second run"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"{COMPILER} is missing: apt-get install g++"),
]

TESTS = (
    "on_cpu", "points", "frame", "octree", "nodes", "convolution", "convolution_int8", "occlusion", "grasp", "decode",
)  # fmt: skip


def run_sanitized(*arguments: str) -> subprocess.CompletedProcess[str]:
    runtime = subprocess.run([COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(runtime.stdout.strip()).is_absolute():
        pytest.skip(f"{COMPILER} has no AddressSanitizer: apt-get install libasan8 (or this compiler's)")
    environment = {
        **os.environ,
        "ZEROGRASP_SANITIZE": "1",
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=REPOSITORY)


def test_no_kernel_leaves_its_buffers_or_the_language() -> None:
    files = [str(HERE / f"test_cuda_{name}.py") for name in TESTS]
    files.append(str(HERE.parent / "trt_plugins" / "test_plugins_on_cpu.py"))
    done = run_sanitized("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *files)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_an_access_out_of_bounds_is_found() -> None:
    script = (
        "import sys, ctypes; sys.path.insert(0, sys.argv[1]);"
        "from cuda_library import build, HERE;"
        "library = ctypes.CDLL(str(build({'shim_kernels': (HERE / 'shim_kernels.cpp').read_bytes()})));"
        "library.run_shim_kernel(b'out of bounds', None, None)"
    )
    done = run_sanitized("-c", script, str(HERE))
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
