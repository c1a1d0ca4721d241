"""The command line `zerograsp-edge`. Every sub-command is a dataclass whose fields are its options.

Errors that a user can act on are one line on stderr; `ZEROGRASP_DEBUG=1` shows the traceback.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

# Module and class of a command.
Entry = tuple[str, str]


@dataclass(frozen=True)
class Group:
    """Sub-commands of a sub-command: `zerograsp-edge calibrate hand-eye`."""

    description: str
    commands: Mapping[str, Entry]


# Sub-command: module and class. Modules are named, not imported: each loads what it needs when it runs, and
# the lean side never depends on `export` being installed.
COMMANDS: dict[str, Entry | Group] = {
    "demo": ("zerograsp_edge.runtime.commands.demo", "Demo"),
    "run": ("zerograsp_edge.runtime.commands.run", "Run"),
    "record": ("zerograsp_edge.runtime.commands.record", "Record"),
    "loop": ("zerograsp_edge.runtime.commands.loop", "Loop"),
    "export": ("zerograsp_edge.export.command", "Export"),
    "export-sam2": ("zerograsp_edge.export.sam2.command", "ExportSam2"),
    "build": ("zerograsp_edge.export.build_command", "Build"),
    "convert": ("zerograsp_edge.calibration.convert_command", "Convert"),
    "compare": ("zerograsp_edge.calibration.compare_command", "Compare"),
    "train": ("zerograsp_edge.export.training.command", "Train"),
    "scenes": ("zerograsp_edge.export.training.scenes_command", "Scenes"),
    "verify": ("zerograsp_edge.runtime.commands.verify", "Verify"),
    "profile": ("zerograsp_edge.runtime.commands.profile", "Profile"),
    "calibrate": Group(
        "Measure what a deployment needs: whether the camera measures right (camera) and where it sits (hand-eye), "
        "with a printed board (board); "
        "the ranges of a network's values (int8).",
        {
            "int8": ("zerograsp_edge.calibration.int8_command", "CalibrateInt8"),
            "camera": ("zerograsp_edge.calibration.camera_command", "CalibrateCamera"),
            "hand-eye": ("zerograsp_edge.calibration.command", "CalibrateHandEye"),
            "board": ("zerograsp_edge.calibration.command", "PrintBoard"),
        },
    ),
    "doctor": ("zerograsp_edge.runtime.commands.doctor", "Doctor"),
}
DEBUG = "ZEROGRASP_DEBUG"


class Command(Protocol):
    def execute(self) -> int:
        """Runs the command; returns the process's exit status."""
        ...


def parse(
    arguments: Sequence[str],
    commands: Mapping[str, Entry | Group] = COMMANDS,
    prog: str = "zerograsp-edge",
    description: str = "ZeroGrasp on the robot: RGB-D in, complete shapes and grasps out.",
) -> Command:
    """The configured command that the arguments name; exits with a usage message when they name none."""
    import tyro

    # Only the named command's module is loaded, so that `doctor` works when another one's dependency is
    # broken.
    named = [a for a in arguments[:1] if a in commands]
    if named and isinstance(group := commands[named[0]], Group):
        return parse(arguments[1:], group.commands, f"{prog} {named[0]}", group.description)
    types = {name: _command_type(commands[name]) for name in named or commands}
    return tyro.extras.subcommand_cli_from_dict(
        types, prog=prog, description=description, args=list(arguments)
    )


def _command_type(entry: Entry | Group) -> Callable[..., Any]:
    """What tyro makes a sub-command of; a group stands here for the help text only, `parse` enters it itself."""
    if isinstance(entry, Group):

        def group() -> None: ...

        group.__doc__ = entry.description
        return group
    module, attribute = entry
    return getattr(importlib.import_module(module), attribute)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status (0 done, 1 failed, 2 wrong usage, 130 interrupted)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return parse(arguments).execute()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        print(f"error: {describe(error)}", file=sys.stderr)
        return 1


def describe(error: Exception) -> str:
    """One line for an error: its message if raised on purpose, else also its type and how to see more."""
    from zerograsp_edge.runtime.errors import ZeroGraspError

    message = " ".join(str(error).split())
    if isinstance(error, ZeroGraspError):
        return message
    return f"{type(error).__name__}: {message} ({DEBUG}=1 shows where)"


if __name__ == "__main__":
    sys.exit(main())
