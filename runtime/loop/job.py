"""Work that the loop waits for without being stuck in it: in a thread of its own, or in place."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Job(Generic[T]):
    """A call under way. The thread is a daemon: a call that never returns does not keep the process alive.

    Args:
        call: what to do.
        threaded: False does it at once, in the caller's thread.
        name: of the thread.
    """

    def __init__(self, call: Callable[[], T], *, threaded: bool = True, name: str = "grasp-loop") -> None:
        self._call = call
        self._done = threading.Event()
        self._value: Any = None
        self._error: BaseException | None = None
        if threaded:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        else:
            self._run()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except Exception as error:
            self._error = error
        finally:
            self._done.set()

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def result(self) -> T:
        """What the call returned or raised; only when it is done."""
        if self._error is not None:
            raise self._error
        return self._value
