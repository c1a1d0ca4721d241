"""`zerograsp-edge doctor`: what this machine has and lacks, with the command that fixes each lack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Doctor:
    """Show what this machine has and lacks, with the command that fixes each lack."""

    json: bool = False
    """Print JSON instead of a table."""

    def execute(self) -> int:
        import json
        from dataclasses import asdict

        from zerograsp_edge.runtime.doctor import diagnose, exit_code, print_report

        checks = diagnose()
        if not self.json:
            return print_report(checks)
        print(json.dumps([asdict(check) for check in checks], indent=2))
        return exit_code(checks)
