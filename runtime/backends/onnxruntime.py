"""The CPU executor: the stages in ONNX Runtime, with the native custom ops, between buffers of the caller."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from zerograsp_edge import kernels
from zerograsp_edge.runtime.bundle import BundleError, Stages

OLDEST = (1, 17)  # the custom-op library uses ONNX Runtime's C API of this version


class OnnxRuntimeExecutor:
    """Runs the stages of a bundle of any kind on the CPU.

    Inputs and outputs are bound to the caller's arrays: nothing is copied, and ONNX Runtime's arena keeps
    what it needs inside a stage, so that a steady stream of frames allocates nothing.

    Args:
        bundle: the stages.
        threads: threads inside a stage; 0 takes all cores this process may use.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Stages, threads: int = 0) -> None:
        import onnxruntime as ort

        version = tuple(int(part) for part in ort.__version__.split(".")[:2])
        if version < OLDEST:
            raise BundleError(
                f"expected onnxruntime >= {OLDEST[0]}.{OLDEST[1]}, got {ort.__version__}: "
                "pip install -U onnxruntime"
            )
        self.threads = threads or len(os.sched_getaffinity(0))
        self._sessions: dict[str, Any] = {}
        for name, stage in bundle.stages.items():
            options = ort.SessionOptions()
            options.register_custom_ops_library(str(kernels.ort_library()))
            options.intra_op_num_threads = self.threads
            options.inter_op_num_threads = 1
            options.log_severity_level = 3
            # A memory pattern is kept per shape, and every frame has other node counts.
            options.enable_mem_pattern = False
            # Workers of one stage must not spin while the next one computes.
            options.add_session_config_entry("session.force_spinning_stop", "1")
            try:
                session = ort.InferenceSession(
                    str(bundle.path / stage.file), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:
                raise BundleError(
                    f"{bundle.path / stage.file}: ONNX Runtime refused it: {_one_line(error)}"
                ) from error
            inputs = {value.name for value in session.get_inputs()}
            if inputs != set(stage.inputs):
                raise BundleError(
                    f"{bundle.path / stage.file}: expected the inputs {sorted(stage.inputs)}, "
                    f"got {sorted(inputs)}; export the bundle again"
                )
            self._sessions[name] = session

    def run(self, stage: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        """Runs one stage.

        Args:
            stage: its name in the bundle.
            inputs: contiguous arrays by name; names that the stage does not take are an error.
            outputs: contiguous arrays of the exact output shapes, filled in place; others are discarded.
        """
        session = self._sessions[stage]
        binding = session.io_binding()
        for name, array in inputs.items():
            _check_contiguous(stage, name, array)
            binding.bind_input(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            _check_contiguous(stage, name, array)
            binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
        session.run_with_iobinding(binding)


def _check_contiguous(stage: str, name: str, array: np.ndarray) -> None:
    if not array.flags.c_contiguous:
        raise ValueError(
            f"{stage}: {name} must be C-contiguous, got strides {array.strides} for shape {array.shape}"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
