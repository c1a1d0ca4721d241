"""`zerograsp-edge doctor`: what this machine has and lacks, with the command that fixes each lack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Doctor:
    """Show what this machine has and lacks, with the command that fixes each lack."""

    json: bool = False
    """Print JSON instead of a table."""

    def execute(self) -> int:
        from zerograsp_edge.runtime.doctor import report

        return report(as_json=self.json)
