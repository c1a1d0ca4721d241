"""CPU time of groups of threads of this process, from the kernel's scheduler statistics."""

from __future__ import annotations

import time
from pathlib import Path

_TASKS = Path("/proc/self/task")


def thread_seconds() -> dict[int, float]:
    """CPU seconds by thread id; threads that have ended are not among them."""
    seconds = {}
    for task in _TASKS.iterdir():
        try:
            seconds[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
        except (FileNotFoundError, ProcessLookupError):  # has just ended
            continue
    return seconds


class Probe:
    """CPU seconds of all threads but the named ones, without what asking costs.

    Args:
        others: ids of threads that do not count; may be added to.
    """

    def __init__(self, others: set[int]) -> None:
        self.others = others
        self.cost = 0.0

    def __call__(self) -> float:
        before = time.thread_time()
        total = sum(seconds for thread, seconds in thread_seconds().items() if thread not in self.others)
        self.cost += time.thread_time() - before
        return total - self.cost
