"""The Jetson Orin modules and their power modes.

Sources, all NVIDIA's own figures:
- multiprocessors, clocks, memory: the data sheets of Jetson AGX Orin (DS-10662-001), Orin NX (DS-10712-001), Orin Nano
  (DS-11105-001) and of the Orin Nano Super developer kit; 204.8, 102.4 and 102 GB/s are the rates of the memory's pins.
- power modes: `nvpmodel_p3701_*.conf` and `nvpmodel_p3767_*_super.conf` of Jetson Linux 36.4 (GPU MAX_FREQ,
  EMC MAX_FREQ, TPC_PG_MASK; a TPC has two multiprocessors). MAXN is the modules' highest clock.
- a multiprocessor of compute capability 8.7 does 128 float32 multiply-adds a clock (CUDA programming guide) and, by the
  data sheet's 170 sparse INT8 TOPS of the AGX Orin 64GB's GPU, 2048 dense INT8 ones on tensor cores; half of that in
  FP16, a quarter in TF32 (Ampere white paper).
"""

from __future__ import annotations

from dataclasses import dataclass

TENSOR_MACS = {"int8": 2048, "fp16": 1024, "tf32": 512}  # dense, a clock and multiprocessor
CUDA_MACS = 128  # float32
L2_BYTES_PER_CLOCK = 64  # a multiprocessor's port to the second-level cache


@dataclass(frozen=True)
class Device:
    """A module in one power mode.

    Attributes:
        gpu_mhz: highest clock of the GPU.
        memory_gb_s: rate of the memory's pins.
        l2_mb: second-level cache.
    """

    name: str
    mode: str
    multiprocessors: int
    gpu_mhz: float
    memory_gb_s: float
    l2_mb: float

    def tensor_macs(self, kind: str) -> float:
        """Multiply-adds a second on tensor cores: `int8`, `fp16` or `tf32`."""
        return TENSOR_MACS[kind] * self.multiprocessors * self.gpu_mhz * 1e6

    @property
    def cuda_macs(self) -> float:
        """Float32 multiply-adds a second outside of tensor cores."""
        return CUDA_MACS * self.multiprocessors * self.gpu_mhz * 1e6

    @property
    def l2_bytes(self) -> float:
        """Bytes a second between second-level cache and multiprocessors."""
        return L2_BYTES_PER_CLOCK * self.multiprocessors * self.gpu_mhz * 1e6


def _gb_s(bits: int, mhz: float) -> float:
    """LPDDR5 moves two words a clock."""
    return bits / 8 * 2 * mhz / 1e3


_SLOW_MHZ = 2133  # the memory's clock in the lowest modes

DEVICES = (
    Device("AGX Orin 64GB", "MAXN", 16, 1300.5, 204.8, 4),
    Device("AGX Orin 64GB", "50W", 16, 816, 204.8, 4),
    Device("AGX Orin 64GB", "30W", 8, 612, 204.8, 4),
    Device("AGX Orin 64GB", "15W", 6, 408, _gb_s(256, _SLOW_MHZ), 4),
    Device("AGX Orin 32GB", "MAXN", 14, 930, 204.8, 4),
    Device("AGX Orin 32GB", "40W", 14, 816, 204.8, 4),
    Device("AGX Orin 32GB", "30W", 8, 612, 204.8, 4),
    Device("AGX Orin 32GB", "15W", 6, 408, _gb_s(256, _SLOW_MHZ), 4),
    Device("Orin NX 16GB", "MAXN_SUPER", 8, 1173, 102.4, 2),
    Device("Orin NX 16GB", "MAXN", 8, 918, 102.4, 2),
    Device("Orin NX 16GB", "25W", 8, 408, 102.4, 2),
    Device("Orin NX 16GB", "15W", 4, 612, 102.4, 2),
    Device("Orin NX 16GB", "10W", 4, 612, _gb_s(128, _SLOW_MHZ), 2),
    Device("Orin NX 8GB", "MAXN_SUPER", 8, 1173, 102.4, 2),
    Device("Orin NX 8GB", "MAXN", 8, 765, 102.4, 2),
    Device("Orin NX 8GB", "20W", 8, 408, 102.4, 2),
    Device("Orin NX 8GB", "15W", 4, 612, 102.4, 2),
    Device("Orin NX 8GB", "10W", 4, 612, _gb_s(128, _SLOW_MHZ), 2),
    Device("Orin Nano Super", "MAXN_SUPER", 8, 1020, 102.0, 2),
    Device("Orin Nano Super", "25W", 8, 918, 102.0, 2),
    Device("Orin Nano Super", "15W", 8, 612, _gb_s(128, _SLOW_MHZ), 2),
)


def device(name: str, mode: str) -> Device:
    for d in DEVICES:
        if (d.name, d.mode) == (name, mode):
            return d
    known = ", ".join(f"{d.name} {d.mode}" for d in DEVICES)
    raise ValueError(f"expected one of {known}; got {name} {mode}")
