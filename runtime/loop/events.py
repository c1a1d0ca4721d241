"""What the grasp loop tells about itself: one event per line of JSON, and to a callback."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from zerograsp_edge.runtime.errors import OutputError
from zerograsp_edge.runtime.loop.states import State

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        time: seconds of `Robot.now`, which never goes back.
        state: in which state.
        event: what: `enter` and `leave` of a state, or a name such as `frame_refused`.
        reason: one line for a person; empty where the event says all.
        data: numbers: object_id, score, width, tips, milliseconds, counts.
    """

    time: float
    state: State
    event: str
    reason: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line. Numbers that are not finite become null."""
        head = {"time": round(self.time, 4), "state": self.state.value, "event": self.event}
        if self.reason:
            head["reason"] = self.reason
        return json.dumps({**head, **_plain(dict(self.data))}, allow_nan=False)


class EventLog:
    """Writes events to a file of JSON lines, flushed one by one, and hands them to a callback.

    A full disk or a callback that raises is reported once through `logging` and never disturbs the loop.

    Args:
        path: made anew; None writes no file.
        callback: called in the loop's thread; it should return at once.

    Raises:
        OutputError: the file cannot be made.
    """

    def __init__(self, path: str | Path | None = None, callback: Callable[[Event], object] | None = None) -> None:
        self._file: TextIO | None = None
        self._callback = callback
        if path is not None:
            path = Path(path)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = path.open("w", encoding="utf-8", buffering=1)
            except OSError as error:
                raise OutputError(f"event log {path} cannot be made: {error.strerror or error}") from error

    def write(self, event: Event) -> None:
        if self._file is not None:
            try:
                self._file.write(event.to_json() + "\n")
            except (OSError, ValueError) as error:
                _LOGGER.error("the event log is no longer written: %s", error)
                self._file = None
        if self._callback is not None:
            try:
                self._callback(event)
            except Exception:
                _LOGGER.exception("the event callback raised and is no longer called")
                self._callback = None

    def close(self) -> None:
        """Twice is once."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _plain(value: Any) -> Any:
    """What JSON knows: arrays become lists, lengths are kept to a hundredth of a millimetre."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
