"""What the CUDA kernels take of a multiprocessor: registers, shared memory, spills, and how many blocks fit at a time.

The figures are the compiler's (nvcc -Xptxas -v), for one compute capability; nothing runs. Where nvdisasm is found,
tensor-core instructions are counted in the machine code.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from harness import REPOSITORY, Figure, figure, report
from rich.console import Console
from rich.table import Table

CUDA = REPOSITORY / "kernels" / "cuda"
# Kernels in which a frame spends its time: nothing of theirs may be spilled to memory.
HOT = ("convolution_kernel", "field_kernel", "sample_kernel")

# Of a multiprocessor of compute capability 8.7 (CUDA C++ Programming Guide, technical specifications).
REGISTERS, SHARED_BYTES, RESERVED_SHARED, WARPS, BLOCKS = 65536, 164 * 1024, 1024, 48, 16


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel; sizes in bytes, registers per thread."""

    source: str
    name: str
    threads: int
    registers: int
    shared: int
    stack: int
    spilled: int
    tensor_core: int | None  # HMMA and IMMA instructions; None where nvdisasm is missing

    @property
    def hot(self) -> bool:
        return self.name.split("<")[0] in HOT

    @property
    def blocks(self) -> int:
        """Blocks that a multiprocessor of compute capability 8.7 holds at a time."""
        warps = -(-self.threads // 32)
        by_registers = REGISTERS // (warps * (-(-self.registers * 32 // 256) * 256))  # allocated in units of 256
        by_shared = SHARED_BYTES // (self.shared + RESERVED_SHARED)
        return min(BLOCKS, WARPS // warps, by_registers, by_shared)


def sources() -> list[Path]:
    return sorted(CUDA.glob("*.cu"))


def command(source: Path, architecture: str) -> list[str]:
    """nvcc as kernels/cuda/CMakeLists.txt calls it, less where the output goes."""
    exact = [] if source.stem == "convolution" else ["--fmad=false"]
    return [
        "nvcc", "-std=c++17", "-O3", f"-arch={architecture}", *exact, f"-I{REPOSITORY / 'kernels'}",
        "-Werror", "all-warnings", "-Xcompiler=-Wall,-Wextra", str(source),
    ]  # fmt: skip


def architectures() -> list[str]:
    """Compute capabilities to compile for that this nvcc knows: Jetson Orin's and Thor's."""
    known = subprocess.run(["nvcc", "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    return [a for a in ("sm_87", "sm_110") if a in known]


def find_nvdisasm() -> str | None:
    """On the PATH, or the one that comes with Triton."""
    spec = find_spec("triton")
    bundled = Path(spec.origin).parent / "backends" / "nvidia" / "bin" if spec and spec.origin else None
    return shutil.which("nvdisasm") or (shutil.which("nvdisasm", path=str(bundled)) if bundled else None)


def compile_kernels(source: Path, architecture: str) -> list[Kernel]:
    """The kernels of a source. Raises RuntimeError with nvcc's messages when it does not compile cleanly."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernels.cubin"
        call = [*command(source, architecture), "-cubin", "-o", str(binary), "-Xptxas", "-v", "--keep"]
        done = subprocess.run([*call, "--keep-dir", folder], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(call)}\n{done.stdout}{done.stderr}")
        ptx = "".join(path.read_text() for path in Path(folder).glob("*.ptx"))
        return list(parse(source.name, done.stdout + done.stderr, ptx, _tensor_core_instructions(binary)))


def parse(source: str, log: str, ptx: str, tensor_core: dict[str, int] | None) -> Iterator[Kernel]:
    """The kernels in the messages of ptxas -v. Block sizes come from the PTX, launch bounds of the sources."""
    names = re.findall(r"Compiling entry function '(\w+)'", log)
    readable = _demangled(names)
    for mangled, section in zip(names, re.split(r"Compiling entry function '\w+'", log)[1:], strict=True):

        def number(pattern: str, text: str = section) -> int:
            found = re.search(pattern, text)
            return int(found.group(1)) if found else 0

        bounds = re.search(rf"\.entry {mangled}\([^)]*\)\s*\.maxntid (\d+)", ptx)
        yield Kernel(
            source,
            readable[mangled],
            int(bounds.group(1)) if bounds else 1,
            number(r"Used (\d+) registers"),
            number(r"(\d+) bytes smem"),
            number(r"(\d+) bytes stack frame"),
            number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
            None if tensor_core is None else tensor_core.get(mangled, 0),
        )


def _demangled(names: list[str]) -> dict[str, str]:
    """Names with template arguments, without namespaces and parameters; as they are where c++filt is missing."""
    if shutil.which("c++filt") is None or not names:
        return {name: name for name in names}
    lines = subprocess.run(["c++filt", *names], capture_output=True, text=True, check=True).stdout.splitlines()
    short = {}
    for name, line in zip(names, lines, strict=True):
        line = re.sub(r"zerograsp::cuda::|\(anonymous namespace\)::|\b_GLOBAL__N_\w+::|^void |\(int\)", "", line)
        short[name] = line.split("(")[0]
    return short


def _tensor_core_instructions(binary: Path) -> dict[str, int] | None:
    nvdisasm = find_nvdisasm()
    if nvdisasm is None:
        return None
    code = subprocess.run([nvdisasm, "-c", str(binary)], capture_output=True, text=True)
    if code.returncode != 0:  # a tool older than the compiler
        return None
    counts: dict[str, int] = {}
    name = ""
    for line in code.stdout.splitlines():
        section = re.match(r"\.text\.(\w+):|\s*\.section\s+\.text\.(\w+)", line)
        if section:
            name = section.group(1) or section.group(2)
        elif "HMMA" in line or "IMMA" in line:
            counts[name] = counts.get(name, 0) + 1
    return counts


def compile_all(architecture: str) -> list[Kernel]:
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        parts = list(pool.map(lambda source: compile_kernels(source, architecture), sources()))
    return [kernel for part in parts for kernel in part]


def show(kernels: list[Kernel], architecture: str) -> None:
    table = Table(title=f"CUDA kernels for {architecture} (bold: hot)", title_justify="left")
    table.add_column("kernel")
    for column in ("threads", "registers", "shared B", "stack B", "spilled B", "blocks/SM", "warps/SM", "HMMA, IMMA"):
        table.add_column(column, justify="right")
    for k in sorted(kernels, key=lambda k: (not k.hot, k.source, k.name)):
        row = [k.threads, k.registers, k.shared, k.stack, k.spilled, k.blocks, k.blocks * -(-k.threads // 32)]
        cells = [k.name, *map(str, row), "" if k.tensor_core is None else str(k.tensor_core)]
        table.add_row(*cells, style="bold" if k.hot else "")
    Console(width=150).print(table)


def figures(kernels: list[Kernel]) -> list[Figure]:
    hot = [k for k in kernels if k.hot]
    return [
        figure("spilled by hot kernels", sum(k.spilled for k in hot), "B", asked=0),
        figure("spilled by the others", sum(k.spilled for k in kernels if not k.hot), "B"),
        figure("most registers of a hot kernel", max(k.registers for k in hot), ""),
        figure("fewest resident warps of a hot kernel", min(k.blocks * -(-k.threads // 32) for k in hot), "", "higher"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="benchmarks/cuda_resources.py", description=__doc__)
    parser.add_argument("--architecture", default="sm_87", help="compute capability")
    parser.add_argument("--quick", action="store_true", help="the same: there is nothing to shorten")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    if shutil.which("nvcc") is None:
        raise SystemExit("nvcc is missing: install the CUDA toolkit and put its bin folder on the PATH")
    compiled = compile_all(options.architecture)
    show(compiled, options.architecture)
    report("cuda_resources", figures(compiled), options.json, architecture=options.architecture,
           kernels=[vars(k) for k in compiled])  # fmt: skip
