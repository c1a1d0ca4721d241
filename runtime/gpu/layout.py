"""Where arrays lie in one block of memory, the same on the device and in a page-locked copy of it on the host."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import DTypeLike

from zerograsp_edge.runtime.device import HostMemory, aligned

Arrays = Mapping[str, tuple[tuple[int, ...], DTypeLike]]


class Layout:
    """Arrays one behind the other, each aligned.

    Args:
        arrays: shape and dtype by name, in the order in which they lie.

    Attributes:
        nbytes: of the whole block.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
        self._offsets = {}
        self.nbytes = 0
        for name, (shape, dtype) in self._arrays.items():
            self._offsets[name] = self.nbytes
            self.nbytes += aligned(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)

    def offset(self, name: str) -> int:
        """Bytes from the block's beginning."""
        return self._offsets[name]

    def addresses(self, base: int) -> dict[str, int]:
        """Addresses of the arrays of a block that begins at `base`."""
        return {name: base + offset for name, offset in self._offsets.items()}

    def views(self, memory: HostMemory) -> dict[str, np.ndarray]:
        """The arrays of a block in host memory."""
        return {
            name: memory.view(self._offsets[name], shape, dtype)
            for name, (shape, dtype) in self._arrays.items()
        }
