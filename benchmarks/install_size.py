"""How large the lean install is: this package and everything it requires without extras, by distribution.

Sizes are those of the files that each distribution's RECORD names, as they lie on the disk. Run it with the
interpreter of a lean environment (`pip install .`); in a development environment the package itself is an
editable install and counts with its compiled part only.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from harness import Figure, figure, main
from rich.console import Console
from rich.table import Table

PACKAGE = "zerograsp-edge"
# What a robot's image usually has; they and what only they require are not counted against the package.
GIVEN = ("opencv-python-headless", "onnxruntime")
LIMIT_MB = 30.0


def normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(name: str) -> list[str]:
    """Names of the installed distributions that one requires here, extras left out."""
    from packaging.requirements import Requirement

    found = []
    for line in metadata.requires(name) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            found.append(normalised(requirement.name))
    return found


def closure(*names: str) -> dict[str, set[str]]:
    """Everything that the named distributions require, themselves included: name -> who requires it."""
    needed: dict[str, set[str]] = {name: set() for name in names}
    pending = list(names)
    while pending:
        name = pending.pop()
        for required in requirements(name):
            if required not in needed:
                needed[required] = set()
                pending.append(required)
            needed[required].add(name)
    return needed


def size_mb(name: str) -> float:
    """Megabytes (10^6 bytes) of a distribution's files."""
    files = metadata.files(name)
    if files is None:
        raise SystemExit(f"{name} has no RECORD: measure in an environment that pip made")
    paths = {Path(str(file.locate())) for file in files}
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def figures(quick: bool) -> list[Figure]:
    needed = closure(PACKAGE)
    given = closure(*GIVEN)
    table = Table(title="lean install", title_justify="left")
    for column, justify in (
        ("distribution", "left"),
        ("version", "left"),
        ("MB", "right"),
        ("required by", "left"),
    ):
        table.add_column(column, justify=justify)
    own, shared = 0.0, 0.0
    for name in sorted(needed, key=lambda n: (n in given, -size_mb(n))):
        size = size_mb(name)
        if name in given:
            shared += size
        else:
            own += size
        table.add_row(
            name,
            metadata.version(name),
            f"{size:.2f}",
            ", ".join(sorted(needed[name])),
            style="dim" if name in given else "",
        )
    Console().print(table)
    return [
        figure("lean install without OpenCV, ONNX Runtime and what they require", own, "MB", asked=LIMIT_MB),
        figure("OpenCV, ONNX Runtime and what they require", shared, "MB"),
        figure("distributions besides those", len(set(needed) - set(given)), ""),
    ]


if __name__ == "__main__":
    main("install_size", "Size of the lean install.", figures)
