"""The state of a training run on disk: everything that is needed to go on as if nothing had happened.

A run is a folder: `last.pt` and the one before it, `previous.pt`; `trunk.pt` from just before the learning rate
cooled down; `best.safetensors`, the averaged weights that validated best. Files appear whole or not at all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zerograsp_edge.runtime.errors import ZeroGraspError

log = logging.getLogger(__name__)

FORMAT = 1
LAST, PREVIOUS, TRUNK, BEST = "last.pt", "previous.pt", "trunk.pt", "best.safetensors"


class TrainingStateError(ZeroGraspError, ValueError):
    """A run's state that is missing, damaged, or of another network."""


@dataclass(frozen=True)
class TrainingState:
    """A run between two steps. Tensors and plain values only, so it is read without executing pickled code."""

    config: dict[str, Any]
    """`NetworkConfig.to_dict()`."""
    settings: dict[str, Any]
    """`TrainingSettings.to_dict()`, for the record."""
    network: Mapping[str, Any]
    average: Mapping[str, Any]
    optimizer: Mapping[str, Any]
    cursor: dict[str, Any]
    """`dataset.Cursor.to_dict()`: the data that come next."""
    step: int
    """Steps done."""
    seconds: float
    """Training time so far, of all sessions."""
    best: float | None
    """Best validation score so far."""
    skipped_steps: int
    """Steps without update because loss or gradient were not finite."""


def save_state(state: TrainingState, folder: Path) -> None:
    """Write `last.pt`; the former one becomes `previous.pt`."""
    _write(state, folder / (LAST + ".part"))
    if (folder / LAST).exists():
        os.replace(folder / LAST, folder / PREVIOUS)
    os.replace(folder / (LAST + ".part"), folder / LAST)


def save_trunk(state: TrainingState, folder: Path) -> None:
    """Write `trunk.pt`."""
    _write(state, folder / (TRUNK + ".part"))
    os.replace(folder / (TRUNK + ".part"), folder / TRUNK)


def load_state(folder: Path, trunk: bool = False) -> TrainingState:
    """The last state of a run, or its state before the cool-down.

    A damaged `last.pt` is reported and `previous.pt` taken.

    Raises:
        TrainingStateError: there is no readable state.
    """
    names = (TRUNK,) if trunk else (LAST, PREVIOUS)
    present = [folder / name for name in names if (folder / name).exists()]
    if not present:
        raise TrainingStateError(
            f"{folder}: expected {' or '.join(names)} of a run to resume, found none; start it without --resume"
        )
    problems = []
    for path in present:
        try:
            return _read(path)
        except TrainingStateError as error:
            problems.append(str(error))
            log.warning("%s", error)
    raise TrainingStateError("; ".join(problems))


def _write(state: TrainingState, path: Path) -> None:
    with path.open("wb") as file:
        torch.save({"format": FORMAT, **vars(state)}, file)
        file.flush()
        # A machine that loses power must not leave an empty file under the final name.
        os.fsync(file.fileno())


def _read(path: Path) -> TrainingState:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        version = values.pop("format")
        if version != FORMAT:
            raise TrainingStateError(f"{path}: expected training state of format {FORMAT}, got {version}")
        return TrainingState(**values)
    except TrainingStateError:
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingStateError(f"{path}: no readable training state ({reason}); it is damaged") from error
