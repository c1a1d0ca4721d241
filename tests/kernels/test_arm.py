"""The CPU kernels on Arm: compiled for aarch64 with NEON, run in an emulator.

How fast they are there cannot be told here; that the sums of the inner loops stay in registers can.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import arm_environment
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


def loops(assembly: str) -> list[list[str]]:
    """The innermost loops of a disassembly, as their instructions."""
    code = re.findall(r"^ +([0-9a-f]+):\t(.*)$", assembly, re.MULTILINE)
    place = {int(address, 16): i for i, (address, _) in enumerate(code)}
    found = []
    for i, (address, instruction) in enumerate(code):
        branch = re.match(r"(?:b\.\w+|cbn?z|tbn?z)\s.*?([0-9a-f]+) <", instruction)
        if branch is None or not (target := int(branch[1], 16)) < int(address, 16) or target not in place:
            continue
        body = [text for _, text in code[place[target] : i + 1]]
        if not any(re.match(r"(?:b|bl|br|blr|ret)(?:\s|$)", text) for text in body):
            found.append(body)
    return found


def test_inner_loops_multiply_in_registers(tmp_path: Path) -> None:
    """Products by lane, at least every other instruction, and no register that goes to the stack and back."""
    for unit in ("convolution_isa", "training_isa"):
        compiled = tmp_path / f"{unit}.o"
        flags = ["-std=c++17", "-O3", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi", f"-I{KERNELS}"]
        source = str(KERNELS / "cpu" / f"{unit}.cpp")
        _run([CROSS_COMPILER, *flags, "-DZG_ISA=baseline", "-c", source, "-o", str(compiled)])
        assembly = _run(["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", str(compiled)])
        products = [
            body
            for body in loops(assembly)
            if sum(bool(re.match(r"fmla\s+v\d+\.4s, v\d+\.4s, v\d+\.s\[", text)) for text in body) >= 12
            and len(body) < 80  # the loop over input channels; others are around it
        ]
        assert len(products) >= 6, f"{unit}: no blocks of sums in NEON registers"
        for body in products:
            assert sum(text.startswith("fmla") for text in body) >= 0.45 * len(body), body
            assert not any(re.match(r"(?:ldr|str|ldp|stp)\s+q\d+.*\[sp", text) for text in body), body


def test_arm_computes_what_plain_loops_and_the_host_compute(tmp_path: Path) -> None:
    """Convolutions agree with plain loops; octrees, occlusion flags, int8 and halves with the host's, bit by bit."""
    arm, host = (build(compiler, tmp_path / compiler) for compiler in (CROSS_COMPILER, HOST_COMPILER))
    code = _run(["aarch64-linux-gnu-objdump", "-d", str(arm.parent / "convolution_isa.o")])
    assert len(re.findall(r"\bfmla\s+v\d+\.4s", code)) > 100, "the convolution is not vectorised with NEON"
    on_arm, on_host = _run([EMULATOR, str(arm)]), _run([str(host)])
    for name in ("conv", "downsample", "upsample", "residual", "mlp", "weight_gradient", "normalise"):
        assert len(re.findall(f"^ok octree_{name}:", on_arm, re.MULTILINE)) >= 32
    assert len(re.findall("^ok grid_conv:", on_arm, re.MULTILINE)) == 8
    hashes = [re.findall("^hash .*", text, re.MULTILINE) for text in (on_arm, on_host)]
    assert len(hashes[0]) == 6
    assert hashes[0] == hashes[1]


@pytest.fixture(scope="module")
def environment() -> None:
    """The aarch64 Python with the core as it is now."""
    if not arm_environment.SITE.exists():
        pytest.skip("no Arm environment: python tests/kernels/arm_environment.py makes one in .cache/arm")
    if (reason := arm_environment.missing_tool()) is not None:
        pytest.skip(reason)
    arm_environment.build_core()


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    "tests", [p.stem for p in sorted(Path(__file__).parent.glob("test_*.py")) if p.stem != "test_arm"]
)
def test_the_cores_own_tests_pass_on_arm(tests: str) -> None:
    """Every kernel against its NumPy twin, and the ONNX Runtime nodes, as Arm code."""
    done = arm_environment.python(
        "-m", "pytest", "-p", "no:cacheprovider", "-q", "--rootdir=.", f"tests/kernels/{tests}.py"
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert re.search(r"\d+ passed", done.stdout), done.stdout[-2000:]
