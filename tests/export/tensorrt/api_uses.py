"""What the code uses of TensorRT's Python API, found in its source, and what releases have.

    python api_uses.py CLONE     writes tensorrt_api.txt from a clone of the public NVIDIA/TensorRT with its tags

The table has a line for every use: class, member, releases whose bindings define it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FILES = ("export/tensorrt.py", "runtime/backends/tensorrt.py")
TABLE = Path(__file__).with_name("tensorrt_api.txt")
RELEASES = {"10.3": "v10.3.0", "10.16": "v10.16", "11.1": "v11.1"}
Use = tuple[str, str]
"""Class and member; the module itself is `tensorrt`."""

# The class of what a name in FILES stands for.
VARIABLES = {
    "trt": "tensorrt", "_trt": "tensorrt", "builder": "Builder", "_builder": "Builder", "network": "INetworkDefinition",
    "parser": "OnnxParser", "parser_error": "ParserError", "config": "IBuilderConfig",
    "profile": "IOptimizationProfile", "timing_cache": "ITimingCache", "registry": "IPluginRegistry",
    "creator": "IPluginCreatorV3One", "io_tensor": "ITensor", "_runtime": "Runtime", "engine": "ICudaEngine",
    "context": "IExecutionContext", "_context": "IExecutionContext",
}  # fmt: skip
# The class of what a container in FILES holds.
CONTAINERS = {"_engines": "ICudaEngine"}
# Members of the package's own classes that go by one of those names.
OWN = {("IExecutionContext", "use_memory"), ("IExecutionContext", "enqueue"), ("Builder", "build"),
       ("Builder", "version"), ("Builder", "options")}  # fmt: skip
# TensorRT for RTX alone: used when it is told to build for another GPU, which only that can.
RTX_ONLY = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    ("tensorrt", "ComputeCapability"),
}


def uses(source: str) -> set[Use]:
    """Every use of the API in a file's source."""
    return {use for node in ast.walk(ast.parse(source)) for use in _of_node(node)} - OWN


def _of_node(node: ast.AST) -> Iterator[Use]:
    if isinstance(node, ast.Attribute) and node.attr != "__init__" and (owner := _owner(node.value)):
        yield owner, node.attr
    if isinstance(node, ast.ClassDef):
        # What a subclass overrides is called by TensorRT.
        for base in node.bases:
            if isinstance(base, ast.Attribute) and _owner(base.value) == "tensorrt":
                methods = (item.name for item in node.body if isinstance(item, ast.FunctionDef))
                yield from ((base.attr, name) for name in methods if not name.startswith("__"))


def _owner(node: ast.expr) -> str | None:
    """The class of an expression, if it is of TensorRT."""
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
        return CONTAINERS.get(node.value.attr)
    if isinstance(node, ast.Name):
        return VARIABLES.get(node.id)
    if isinstance(node, ast.Attribute):
        # An enumeration or a class: trt.DataType.HALF, trt.ILogger.Severity.ERROR.
        if (
            _owner(node.value) in ("tensorrt", "ILogger")
            and node.attr[0].isupper()
            and not node.attr.isupper()
        ):
            return node.attr
        return VARIABLES.get(node.attr)
    return None


def used() -> set[Use]:
    return set().union(*(uses((ROOT / file).read_text()) for file in FILES))


def read_table() -> dict[Use, set[str]]:
    """Releases that have a member."""
    lines = (line.split() for line in TABLE.read_text().splitlines() if not line.startswith("#"))
    return {(owner, member): set(releases) for owner, member, *releases in lines}


_OPENING = r'py::(?:class_|enum_)<[^;]*?>\s*(?:\w+)?\s*[({]\s*\w+\s*,\s*"(\w+)"'
_MEMBER = r'\.(?:def\w*|value)\(\s*"(\w+)"'
_FUNCTION = r'\bm\.(?:def|attr)\(\s*"(\w+)"'


def released(clone: Path, tag: str) -> set[Use]:
    """What the bindings of a release define, read from their sources."""
    # Their __init__.py adds these in Python.
    found = {("tensorrt", "__version__"), ("tensorrt", "nptype")}
    listing = _git(clone, "ls-tree", "-r", "--name-only", tag, "python/src")
    for path in (p for p in listing.split() if p.endswith(".cpp")):
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", _git(clone, "show", f"{tag}:{path}"), flags=re.DOTALL)
        current = ""
        for match in re.finditer(f"{_OPENING}|{_MEMBER}|{_FUNCTION}", text):
            opening, member, function = match.groups()
            if opening:
                current = opening
                found.add(("tensorrt", opening))
            elif member and current:
                found.add((current, member))
            elif function:
                current = ""
                found.add(("tensorrt", function))
    # The severities are declared inside of the logger, before its method.
    if {("Severity", "ERROR"), ("Severity", "log")} <= found:
        found |= {("ILogger", "Severity"), ("ILogger", "log")}
    return found


def table(clone: Path) -> str:
    """The file's content."""
    releases = {name: released(clone, tag) for name, tag in RELEASES.items()}
    lines = ["# class, member, releases that define it (see api_uses.py)"]
    for owner, member in sorted(used() - RTX_ONLY):
        having = [name for name, defined in releases.items() if (owner, member) in defined]
        lines.append(" ".join([owner, member, *having]))
    return "\n".join(lines) + "\n"


def _git(clone: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    TABLE.write_text(table(Path(sys.argv[1])), encoding="utf-8")
