"""TensorRT's errors as sentences that say what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zerograsp_edge.runtime.errors import ZeroGraspError


class BuildError(ZeroGraspError, RuntimeError):
    """An engine could not be built; the message says why and what to do."""


@dataclass(frozen=True)
class ParseProblem:
    """One error of TensorRT's ONNX parser.

    Attributes:
        code: name of its ErrorCode.
        text: what it says; sometimes only the text of an assertion.
        node: name of the ONNX node, empty for an error of the whole graph.
        operator: the node's operator.
    """

    code: str
    text: str
    node: str
    operator: str


# What TensorRT says, from 10.3 to 11, and what that means. Looked for in all messages together.
_BUILD_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"insufficient workspace|could not find any implementation|workspace.{0,40}(limit|too small)",
        "no kernel fits into the workspace: give more (--workspace 4096, in MiB), end other programs, or export with "
        "smaller limits (zerograsp-edge export --max-nodes)",
    ),
    (
        r"out of memory|OutOfMemory|could not be allocated|bad_alloc|CUDA_ERROR_OUT_OF_MEMORY|cudaErrorMemoryAllocation",
        "out of memory: end other programs, lower --workspace, or export with smaller limits (zerograsp-edge export "
        "--max-nodes, --max-objects); `free -m` shows what there is",
    ),
    (
        r"UInt8 datatype formats are not supported|supported plugin/custom tactic format|format combination",
        "a custom node is given tensors of types that its plugin does not take: features, weights and skips must be float32 or "
        "float16, all the same; biases float32, tables int32, keys int64; export the bundle again with this version",
    ),
    (
        r"must have same input types|same data type|strongly typed|must be of the same type|type mismatch",
        "two tensors of different types meet, and a strongly typed network casts nothing by itself: a Cast is missing in "
        "the graph; export the bundle again with this version",
    ),
    (
        r"driver version is insufficient|no CUDA-capable device|CUDA initialization failure|cudaErrorNoDevice|"
        r"CUDA_ERROR_NO_DEVICE|unable to load.*libcuda",
        "TensorRT finds no usable GPU: run this on the Jetson itself (in a container with --runtime nvidia), and see "
        "`zerograsp-edge doctor`",
    ),
    (
        r"dimension.{0,60}(mismatch|not equal|must)|IShapeLayer|kMIN|kMAX|kOPT|optimization profile|shape.{0,40}inconsistent",
        "the sizes of the graph contradict the bundle's limits; export the bundle again with this version",
    ),
)


def explain_build(what: str, errors: Sequence[str]) -> str:
    """A sentence about a build that failed.

    Args:
        what: what failed, begins the sentence.
        errors: TensorRT's log of severity error.
    """
    told = "\n".join(errors)
    for pattern, advice in _BUILD_CAUSES:
        if re.search(pattern, told, re.IGNORECASE):
            return f"{what}: {advice} (TensorRT: {_short(errors)})"
    said = f"TensorRT: {_short(errors)}" if errors else "TensorRT gave no reason"
    return f"{what}: {said}; run again with --verbose for its whole log"


def explain_parse(onnx: Path, version: str, problems: Sequence[ParseProblem], errors: Sequence[str]) -> str:
    """A sentence about a graph that the parser refused; the first problem decides.

    Args:
        onnx: the graph's file.
        version: of TensorRT.
        problems: the parser's errors.
        errors: TensorRT's log of severity error; what plugins say is in there.
    """
    if not problems:
        return explain_build(f"{onnx}: TensorRT cannot read it", errors)
    # What is wrong with one node may follow from what is wrong with a tensor before it.
    problem = problems[0]
    node = f"node {problem.node} ({problem.operator})" if problem.node else "its inputs"
    where = f"{onnx}: {node}"
    if re.search(r"plugin not found|could not find plugin|no plugin|getPluginCreator", problem.text, re.IGNORECASE):
        return (
            f"{where}: TensorRT has no plugin of this name and version: the library of the nodes of zerograsp is missing or "
            "is an older one; `zerograsp-edge build` builds and loads it, `zerograsp-edge build --plugins FILE` takes another"
        )
    if re.search(r"could not create the plugin|createPlugin", problem.text, re.IGNORECASE):
        reason = _of_plugins(errors) or "it gave no reason"
        return (
            f"{where}: its plugin refused the node's attributes: {reason}; export the bundle again with this version"
        )
    if plugin := _of_plugins(errors):
        return f"{where}: {plugin}; export the bundle again with this version"
    cause = explain_build(where, [problem.text])
    if "(TensorRT:" in cause:
        return cause
    if problem.code.startswith("UNSUPPORTED"):
        said = "" if problem.text in ("", "false") else f" ({_short([problem.text])})"
        return (
            f"{where}: TensorRT {version} does not support it{said}; upgrade TensorRT (on a Jetson: JetPack), or export with "
            "this version of zerograsp-edge"
        )
    return f"{where}: TensorRT {version} refused it ({_short([problem.text])}); export the bundle again with this version"


def _of_plugins(errors: Sequence[str]) -> str:
    """What plugins of zerograsp have said; they begin with their name."""
    found = [text.split("zerograsp::", 1)[1] for text in errors if "zerograsp::" in text]
    return found[-1].strip() if found else ""


def _short(errors: Sequence[str], longest: int = 400) -> str:
    """The last errors on one line: the first to be told is the last cause."""
    text = " | ".join(" ".join(text.split()) for text in dict.fromkeys(errors[-3:]))
    return text if len(text) <= longest else text[: longest - 3] + "..."
