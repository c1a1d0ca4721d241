"""Work that is enqueued again and again, captured into CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable

from zerograsp_edge.runtime.device import Graph, Stream
from zerograsp_edge.runtime.errors import DeviceError

MOST_GRAPHS = 32


class Replay:
    """Enqueues work directly the first time, as TensorRT wants it before a capture, then as a graph.

    Work has a key; what is enqueued under a key is always the same, addresses included. Of keys that have not come for
    longest the graphs are destroyed.
    """

    def __init__(self) -> None:
        # None: seen once; False: it cannot be captured.
        self._graphs: dict[Hashable, Graph | bool | None] = {}

    def run(self, key: Hashable, enqueue: Callable[[], None], stream: Stream) -> None:
        if key not in self._graphs:
            enqueue()
            self._graphs[key] = None
            self._forget()
            return
        graph = self._graphs.pop(key)
        if graph is None:
            graph = self._capture(key, enqueue, stream)
        self._graphs[key] = graph  # the newest is last
        if isinstance(graph, Graph):
            graph.launch(stream)
        else:
            enqueue()

    def _capture(self, key: Hashable, enqueue: Callable[[], None], stream: Stream) -> Graph | bool:
        try:
            return stream.capture(enqueue)
        except DeviceError as error:
            warnings.warn(f"work for {key} runs without a CUDA graph, which is slower: {error}", stacklevel=3)
            return False

    def _forget(self) -> None:
        while len(self._graphs) > MOST_GRAPHS:
            graph = self._graphs.pop(next(iter(self._graphs)))
            if isinstance(graph, Graph):
                graph.destroy()
