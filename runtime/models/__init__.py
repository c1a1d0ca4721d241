"""The models that ship with the package."""

from pathlib import Path

EDGE_MODEL = Path(__file__).parent / "edge.zgb"
"""Bundle of the trained edge model: what `demo` and `run` use when no other is named (see export/models/edge.md)."""
