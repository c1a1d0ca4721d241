"""One item waits between two threads: in order, each at most once, none unaccounted for."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.runtime.live.slot import Slot


@pytest.mark.parametrize("keep_all", [True, False])
def test_two_threads(keep_all: bool) -> None:
    slot: Slot[int] = Slot(keep_all=keep_all)
    taken: list[int] = []

    def take() -> None:
        while (item := slot.take()) is not None:
            taken.append(item)

    thread = threading.Thread(target=take)
    thread.start()
    assert all(slot.put(number) for number in range(5000))
    slot.finish()
    thread.join()
    assert taken == sorted(set(taken))
    assert taken[-1] == 4999, "the newest is never lost"
    assert len(taken) + slot.superseded == 5000
    assert slot.superseded == 0 or not keep_all
    assert slot.discarded == 0


@given(st.lists(st.sampled_from(["put", "take", "finish", "abort"]), max_size=30))
@settings(deadline=None)
def test_every_item_is_accounted_for(calls: list[str]) -> None:
    slot: Slot[int] = Slot(keep_all=False)
    put, taken, over, waits = 0, [], False, False
    for call in calls:
        if call == "put":
            accepted = slot.put(put)
            assert accepted is not over
            put, waits = put + 1, waits or accepted
        elif call == "take":
            if not waits and not over:
                continue  # would wait
            item = slot.take()
            assert (item is not None) is waits
            waits = False
            if item is not None:
                taken.append(item)
        elif call == "finish":
            slot.finish()
            over = True
        else:
            slot.abort()
            over, waits = True, False
    assert taken == sorted(set(taken))
    assert len(taken) + slot.superseded + slot.discarded + waits == put


def test_abort_ends_both_waits() -> None:
    full: Slot[int] = Slot(keep_all=True)
    empty: Slot[int] = Slot(keep_all=True)
    full.put(1)
    outcomes: dict[str, object] = {}
    threads = [
        threading.Thread(target=lambda: outcomes.update(put=full.put(2))),
        threading.Thread(target=lambda: outcomes.update(take=empty.take())),
    ]
    for thread in threads:
        thread.start()
    full.abort()
    empty.abort()
    for thread in threads:
        thread.join()
    assert outcomes == {"put": False, "take": None}
    assert full.discarded == 2
