"""The import arrows: kernels <- runtime <- export <- calibration, and nothing heavy in the lean side."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "zerograsp_edge"

# Which siblings each part may import, besides itself.
MAY_IMPORT = {
    "kernels": set(),
    "runtime": {"kernels"},
    "export": {"runtime", "kernels"},
    "calibration": {"export", "runtime", "kernels"},
}
LEAN = ("kernels", "runtime")
EXPORT_ONLY = {
    "torch", "torchvision", "ocnn", "segmentation_models_pytorch", "safetensors", "onnx", "onnxscript", "sam2", "hydra",
}  # fmt: skip
CUDA_MODULE = ROOT / "runtime" / "device.py"

FILES = [path for part in MAY_IMPORT for path in sorted((ROOT / part).rglob("*.py"))]


def imported_modules(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything a file imports, at any level of nesting."""
    parts = (PACKAGE, *path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(parts[: len(parts) - node.level]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            yield node.lineno, module
            # `from zerograsp_edge import export` and `from .. import export` name their target last.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
            target = node.args[0].value
            if (
                name in ("import_module", "__import__")
                and isinstance(target, str)
                and not target.startswith(".")
            ):
                yield node.lineno, target


def violations(path: Path) -> list[str]:
    part = path.relative_to(ROOT).parts[0]
    found = []
    for line, name in imported_modules(path):
        top, *rest = name.split(".")
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if (
            top == PACKAGE
            and rest
            and rest[0] in MAY_IMPORT
            and rest[0] != part
            and rest[0] not in MAY_IMPORT[part]
        ):
            found.append(f"{where}: {part} may not import {rest[0]}")
        if part in LEAN and top in EXPORT_ONLY:
            found.append(f"{where}: {top} belongs to export")
        if top == "pycuda" and path != CUDA_MODULE:
            found.append(f"{where}: only runtime/device.py imports pycuda")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_the_right_way(path: Path) -> None:
    assert violations(path) == []


def test_there_are_files_to_check() -> None:
    assert any(path.is_relative_to(ROOT / "export") for path in FILES)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("runtime/a.py", "import torch"),
        ("runtime/a.py", "def f():\n    from onnx import helper"),
        ("kernels/reference/a.py", "from ..cpu import b\nfrom ...runtime import c"),
        ("kernels/a.py", "import zerograsp_edge.runtime.frame"),
        ("runtime/a.py", "from zerograsp_edge import export"),
        ("runtime/a.py", "from .. import calibration"),
        ("runtime/cli/a.py", "from ...export.checkpoint import load_network"),
        ("runtime/a.py", "import importlib\nimportlib.import_module('zerograsp_edge.export.graph')"),
        ("export/a.py", "import pycuda.driver"),
        ("export/a.py", "from ..calibration import int8"),
    ],
)
def test_violations_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, source: str) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert len(violations(path)) >= 1


def test_importing_the_runtime_leaves_the_export_side_out() -> None:
    code = f"import {PACKAGE}.runtime, {PACKAGE}.kernels, json, sys; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded = set(json.loads(result.stdout.splitlines()[-1]))
    heavy = {name for name in loaded if name.split(".")[0] in EXPORT_ONLY | {"pycuda", "tensorrt"}}
    assert heavy == set()
    assert not any(name.startswith((f"{PACKAGE}.export", f"{PACKAGE}.calibration")) for name in loaded)
