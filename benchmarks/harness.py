"""What every benchmark shares: command line, table, JSON file and the description of the machine."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

# name, value, unit, better ("higher" or "lower"), asked, peer, peer_value; the last three may be None
Figure = dict[str, Any]

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("ZEROGRASP_SHARED", REPOSITORY.parent / "shared"))
CACHE = REPOSITORY / ".cache" / "benchmarks"


def figure(
    name: str, value: float, unit: str, better: str = "lower", asked: float | None = None,
    peer: str | None = None, peer_value: float | None = None,
) -> Figure:  # fmt: skip
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "better": better,
        "asked": asked,
        "peer": peer,
        "peer_value": peer_value,
    }


def machine() -> dict[str, Any]:
    """The machine and the versions that a figure depends on."""
    info: dict[str, Any] = {
        "date": date.today().isoformat(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
    }
    for package in ("numpy", "onnxruntime", "torch", "ocnn"):
        try:
            info[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            info[package] = None
    return info


def main(
    name: str,
    description: str,
    figures: Callable[[bool], Sequence[Figure]],
    arguments: Sequence[str] | None = None,
) -> None:
    """Command line of a benchmark: measures, prints a table and, with --json, writes the file."""
    parser = argparse.ArgumentParser(prog=f"benchmarks/{name}.py", description=description)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes and few repetitions, the same code: for CI"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args(arguments)
    report(name, list(figures(options.quick)), options.json)


def report(name: str, results: Sequence[Figure], json_path: Path | None, **more: Any) -> None:
    """Shows the figures and, with a path, writes them to a JSON file, with `more` as further entries."""
    where = machine()
    show(name, results, where)
    if json_path:
        content = {"benchmark": name, "machine": where, "figures": list(results), **more}
        json_path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def show(name: str, results: Sequence[Figure], where: dict[str, Any]) -> None:
    console = Console()
    table = Table(
        title=f"{name}: {where['cpu']}, {where['cores']} cores, load {where['load']}", title_justify="left"
    )
    table.add_column("figure")
    for column in ("value", "asked", "peer's value"):
        table.add_column(column, justify="right")
    table.add_column("peer")
    for f in results:
        table.add_row(
            f["name"],
            f"{_number(f['value'])} {f['unit']}",
            ""
            if f["asked"] is None
            else f"{'>=' if f['better'] == 'higher' else '<='} {_number(f['asked'])}",
            "" if f["peer_value"] is None else f"{_number(f['peer_value'])}",
            f["peer"] or "",
        )
    console.print(table)


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
