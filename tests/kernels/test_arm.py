"""The CPU kernels on Arm: compiled for aarch64 with NEON, run in an emulator."""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CROSS_COMPILER, EMULATOR, HOST_COMPILER = "aarch64-linux-gnu-g++", "qemu-aarch64", "g++"
KERNELS = Path(__file__).resolve().parents[2] / "kernels"
CHECK = Path(__file__).with_name("arm_check.cpp")

pytestmark = [
    pytest.mark.slow,
    *(
        pytest.mark.skipif(
            shutil.which(tool) is None,
            reason=f"{tool} is missing: apt-get install g++ g++-aarch64-linux-gnu qemu-user",
        )
        for tool in (CROSS_COMPILER, EMULATOR, HOST_COMPILER)
    ),
]


def build(compiler: str, folder: Path) -> Path:
    """The kernels with the flags of kernels/CMakeFiles, and the check program, in one static executable."""
    folder.mkdir()
    exact = ["-std=c++17", "-O3", "-fopenmp", "-fno-math-errno", "-Wno-psabi", f"-I{KERNELS}"]
    sources = [CHECK, *sorted((KERNELS / "cpu").glob("*.cpp"))]

    def compile_one(source: Path) -> Path:
        fused = source.name.endswith("_isa.cpp")
        flags = [*exact, "-DZG_ISA=baseline"] if fused else [*exact, "-DZG_HAVE_ISA_baseline=1"]
        compiled = folder / f"{source.stem}.o"
        contract = "-ffp-contract=fast" if fused else "-ffp-contract=off"
        _run([compiler, *flags, contract, "-c", str(source), "-o", str(compiled)])
        return compiled

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    program = folder / "check"
    _run([compiler, "-static", "-fopenmp", *map(str, objects), "-o", str(program)])
    return program


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_arm_computes_what_plain_loops_and_the_host_compute(tmp_path: Path) -> None:
    """Convolutions agree with plain loops; octrees and occlusion flags with the host's, bit by bit."""
    arm, host = (build(compiler, tmp_path / compiler) for compiler in (CROSS_COMPILER, HOST_COMPILER))
    code = _run(["aarch64-linux-gnu-objdump", "-d", str(arm.parent / "convolution_isa.o")])
    assert len(re.findall(r"\bfmla\s+v\d+\.4s", code)) > 100, "the convolution is not vectorised with NEON"
    on_arm, on_host = _run([EMULATOR, str(arm)]), _run([str(host)])
    for name in ("conv", "downsample", "upsample", "residual", "mlp", "weight_gradient", "normalise"):
        assert len(re.findall(f"^ok octree_{name}:", on_arm, re.MULTILINE)) >= 32
    assert len(re.findall("^ok grid_conv:", on_arm, re.MULTILINE)) == 8
    hashes = [re.findall("^hash .*", text, re.MULTILINE) for text in (on_arm, on_host)]
    assert len(hashes[0]) == 4
    assert hashes[0] == hashes[1]
