"""nvcc compiles the CUDA sources without warnings; hot kernels spill nothing and use tensor cores."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_library import CUDA, REPOSITORY, declarations, library

sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import cuda_resources as resources

sys.path.remove(str(REPOSITORY / "benchmarks"))

needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is missing: install the CUDA toolkit and put its bin folder on the PATH"
)


@pytest.mark.slow
@needs_nvcc
def test_orin_kernels_compile_and_fit() -> None:
    kernels = resources.compile_all("sm_87")
    hot = [k for k in kernels if k.hot]
    assert {k.name.split("<")[0] for k in hot} == set(resources.HOT) or shutil.which("c++filt") is None
    assert not {k.name: (k.spilled, k.stack) for k in hot if k.spilled or k.stack}
    # Less hides too little of a gather's latency.
    assert min(k.blocks * k.threads for k in hot) >= 12 * 32
    for k in hot:
        multiplies = k.name.startswith(("convolution_kernel<__half", "convolution_kernel<signed char"))
        assert k.tensor_core is None or not multiplies or k.tensor_core > 0


@pytest.mark.slow
@needs_nvcc
@pytest.mark.parametrize("source", resources.sources() if shutil.which("nvcc") else [], ids=lambda s: s.name)
def test_thor_kernels_compile(source: Path, tmp_path: Path) -> None:
    if "sm_110" not in resources.architectures():
        pytest.skip("this nvcc does not know sm_110 (CUDA 13 does)")
    call = [*resources.command(source, "sm_110"), "-cubin", "-o", str(tmp_path / "kernels.cubin")]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


LOG = """
ptxas info    : Compiling entry function '_Z9one_kernelv' for 'sm_87'
ptxas info    : Function properties for _Z9one_kernelv
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 40960 bytes smem, 496 bytes cmem[0]
ptxas info    : Compiling entry function '_Z9two_kernelv' for 'sm_87'
ptxas info    : Function properties for _Z9two_kernelv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, 360 bytes cmem[0]
"""
PTX = """
.visible .entry _Z9one_kernelv(\n)\n.maxntid 128\n{ }
.visible .entry _Z9two_kernelv(\n)\n{ }
"""


def test_the_table_is_read_from_the_compilers_messages() -> None:
    one, two = resources.parse("x.cu", LOG, PTX, {"_Z9one_kernelv": 3})
    assert one == resources.Kernel("x.cu", one.name, 128, 255, 40960, 16, 20, 3)
    assert two == resources.Kernel("x.cu", two.name, 1, 32, 0, 0, 0, 0)
    assert one.blocks == 2  # 4 warps of 32 * 256 registers: two blocks fill the 65536
    assert two.blocks == 16


def test_every_source_is_built_by_cmake_and_every_declared_function_exists() -> None:
    listed = (CUDA / "CMakeLists.txt").read_text()
    assert all(f"  {path.name}\n" in listed or f"  {path.name})" in listed for path in resources.sources())
    names = declarations()
    assert len(names) > 15
    for name in names:
        assert getattr(library(), name.removeprefix("zg_cuda_"))


def test_nothing_is_allocated_awaited_or_read_back() -> None:
    """What a capture into a CUDA graph forbids, or what it would bake in."""
    forbidden = ("cudaMalloc", "cudaFree", "Synchronize", "cudaMemcpy", "<<<", "cudaStreamQuery", "printf(\"")
    for path in [*CUDA.glob("*.cu"), *CUDA.glob("*.h")]:
        code = "\n".join(line.split("//")[0] for line in path.read_text().splitlines())
        found = [word for word in forbidden if word in code]
        assert not found or (path.name == "platform.h" and found == ["<<<"]), f"{path.name}: {found}"
