"""Files of calibrations, JSON or YAML: a mapping that says its format and version, replaced in one step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zerograsp_edge.runtime.errors import OutputError, ZeroGraspError


def write_entries(path: str | Path, entries: Mapping[str, Any], error: type[ZeroGraspError]) -> Path:
    """Write a mapping; the suffix (.json, .yaml, .yml) chooses the format. Replaces the file in one step.

    Raises:
        error: another suffix.
        OutputError: it cannot be written.
    """
    import yaml

    path = Path(path)
    if path.suffix not in (".json", ".yaml", ".yml"):
        raise error(f"expected a file NAME.yaml or NAME.json, got {path}")
    text = (
        json.dumps(entries, indent=2) + "\n"
        if path.suffix == ".json"
        else yaml.safe_dump(entries, sort_keys=False, default_flow_style=None, width=110)
    )
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as failure:
        raise OutputError(f"{path} cannot be written: {failure}") from failure
    return path


def read_entries(
    path: Path, wanted: str, version: int, what: str, error: type[ZeroGraspError]
) -> Mapping[str, Any]:
    """The mapping of a file.

    Args:
        wanted, version: what the file must say it is.
        what: the same in words.

    Raises:
        error: it cannot be read, or is damaged or another kind of file.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        entries = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as failure:
        raise error(f"cannot be read ({failure})") from failure
    except (json.JSONDecodeError, yaml.YAMLError) as failure:
        raise error(f"is damaged ({' '.join(str(failure).split())})") from failure
    if not isinstance(entries, Mapping) or entries.get("format") != wanted:
        raise error(f"is no {what}: expected a mapping with format '{wanted}'")
    if entries.get("version") != version:
        raise error(f"has version {entries.get('version')}, expected {version}")
    return entries
