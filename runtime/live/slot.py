"""The place between two threads: one item waits in it."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Slot(Generic[Item]):
    """Hands items from one thread to another, in order, each at most once.

    Args:
        keep_all: `put` waits until the place is free, so that the giver goes no faster than the taker; False: a new
            item replaces the one that waits, and the giver never waits.

    Attributes:
        superseded: items that a newer one replaced before they were taken.
        discarded: items that nobody took because of `abort`.
    """

    def __init__(self, *, keep_all: bool) -> None:
        self._keep_all = keep_all
        self._changed = threading.Condition()
        self._item: Item | None = None
        self._finished = self._aborted = False
        self.superseded = 0
        self.discarded = 0

    def put(self, item: Item) -> bool:
        """Leave an item to be taken; False when nobody will take it any more."""
        with self._changed:
            while self._keep_all and self._item is not None and not self._aborted:
                self._changed.wait()
            if self._aborted or self._finished:
                self.discarded += 1
                return False
            self.superseded += self._item is not None
            self._item = item
            self._changed.notify_all()
            return True

    def take(self) -> Item | None:
        """The next item, waited for; None when there will be none."""
        with self._changed:
            while self._item is None and not self._finished and not self._aborted:
                self._changed.wait()
            item, self._item = self._item, None
            self._changed.notify_all()
            return item

    def finish(self) -> None:
        """Nothing more will be put; what waits may still be taken."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Nothing more will be taken; what waits is discarded, and nobody waits here any more."""
        with self._changed:
            self._aborted = True
            self.discarded += self._item is not None
            self._item = None
            self._changed.notify_all()
