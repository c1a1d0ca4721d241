"""`zerograsp-edge scenes`: synthetic training scenes, and a sheet that shows them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from zerograsp_edge.runtime.errors import ZeroGraspError


class ScenesCommandError(ZeroGraspError, ValueError):
    """Options of `scenes` that do not go together, or a folder without scenes."""


@dataclass
class Scenes:
    """Generate synthetic training scenes (needs the extra `sim`), or show some in a picture."""

    out: tyro.conf.Positional[Path]
    """Folder for the scenes, one file each; those in it already are kept."""
    split: Literal["train", "val", "test_trained", "test_unseen"] = "train"
    """Which scenes: no seed of one split gives a scene of another; test_unseen has shape families of its own."""
    count: int = 100
    """How many scenes; seeds run from --first-seed on."""
    first_seed: int = 0
    """The first seed."""
    views: int = 4
    """Pictures of each scene."""
    labels: bool = True
    """With grasp labels; without them a scene takes half the time and teaches shapes only."""
    processes: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Scenes made at once."""
    sheet: Path | None = None
    """Write a picture of the folder's first scenes (PNG), made first if they are missing."""
    sheet_rows: int = 12
    """Scenes in the picture."""

    def execute(self) -> int:
        for name in ("count", "views", "processes", "sheet_rows"):
            if getattr(self, name) < 1:
                raise ScenesCommandError(
                    f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}"
                )
        if self.first_seed < 0:
            raise ScenesCommandError(f"--first-seed must not be negative, got {self.first_seed}")
        status = self._generate()
        if self.sheet is not None:
            self._write_sheet(self.sheet)
        return status

    def _generate(self) -> int:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from zerograsp_edge.export.training.generate import Generation, generate

        seeds = range(self.first_seed, self.first_seed + self.count)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task(f"{self.split} scenes", total=self.count)

            def show(state: Generation) -> None:
                rate = state.made / state.seconds
                done = state.made + state.skipped + len(state.failed)
                bar.update(task, completed=done, description=f"{self.split} scenes, {rate:.2f} a second")

            result = generate(
                self.out, self.split, seeds, self.views, self.processes, labels=self.labels, progress=show
            )
            bar.update(task, completed=self.count)
        console = Console()
        console.print(f"{self.out}: {result}")
        for seed, reason in result.failed.items():
            console.print(f"seed {seed}: {reason}")
        return 1 if result.failed else 0

    def _write_sheet(self, path: Path) -> None:
        import cv2
        from rich.console import Console

        from zerograsp_edge.export.training.contact_sheet import contact_sheet
        from zerograsp_edge.export.training.generate import scene_path
        from zerograsp_edge.export.training.sample import SceneSample

        seeds = range(self.first_seed, self.first_seed + self.count)
        files = [p for p in (scene_path(self.out, self.split, seed) for seed in seeds) if p.exists()]
        if not files:
            raise ScenesCommandError(f"{self.out} holds none of these {self.split} scenes; nothing to show")
        sheet = contact_sheet([SceneSample.load(file) for file in files[: self.sheet_rows]])
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), sheet[..., ::-1]):
            raise ScenesCommandError(f"{path} cannot be written; expected a picture's name such as sheet.png")
        Console().print(f"wrote {path}")
