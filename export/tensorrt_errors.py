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


_AGAIN = "export the bundle again with this version"
_SMALLER = "export with smaller limits (zerograsp-edge export --max-nodes, --max-tokens, --max-objects)"

# What TensorRT says, from 10.3 to 11, and what that means. Looked for in all messages; the first that fits decides.
_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"driver version is insufficient.*?(createInferBuilder|CUDA initialization)|no CUDA-capable device|"
        r"CUDA initialization failure|cudaErrorNoDevice|CUDA_ERROR_NO_DEVICE|libcuda\.so",
        "TensorRT finds no usable GPU: run this on the Jetson itself (in a container with --runtime nvidia), and see "
        "`zerograsp-edge doctor`",
    ),
    # TensorRT goes on after a failed allocation, and then finds no implementation.
    (
        r"out ?of ?memory|could not be allocated|bad_alloc|MemoryAllocation",
        "it needs more memory than there is, or than --workspace (MiB) allows: raise that if `free -m` shows room, "
        f"else end other programs or {_SMALLER}",
    ),
    (
        r"insufficient workspace|could not find any implementation",
        f"no kernel fits into the workspace: give more (--workspace, in MiB), or {_SMALLER}",
    ),
    (
        r"UInt8 datatype formats are not supported|supported plugin/custom tactic format|supportsFormatCombination|"
        r"getOutputDataTypes|getOutputShapes",
        "a node of zerograsp gets tensors that its plugin does not take: features, weights and skips must be float32 "
        f"or float16, all the same; biases float32, tables int32, keys int64; {_AGAIN}",
    ),
    (
        r"must have (the )?same (input )?types?|same data type|strongly typed|of the same type|type mismatch",
        "two tensors of different types meet, and a strongly typed network casts nothing by itself: the graph lacks a "
        f"Cast; {_AGAIN}",
    ),
    (
        r"kMIN|kOPT|kMAX|optimization profile|dimension mismatch|dimensions? .{0,60}(not equal|must (be|match))",
        f"the sizes in the graph contradict the bundle's limits; {_AGAIN}",
    ),
)


def explain_build(what: str, errors: Sequence[str]) -> str:
    """A sentence about a build that failed.

    Args:
        what: what failed, begins the sentence.
        errors: TensorRT's log of severity error.
    """
    advice = _cause("\n".join(errors))
    if advice:
        return f"{what}: {advice} (TensorRT: {_short(errors)})"
    said = f"TensorRT says: {_short(errors)}" if errors else "TensorRT gave no reason"
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
    where = f"{onnx}: node {problem.node} ({problem.operator})" if problem.node else f"{onnx}: its inputs"
    text = problem.text
    if re.search(r"plugin not found|could not find plugin|getPluginCreator", text, re.IGNORECASE):
        return (
            f"{where}: TensorRT has no plugin of this name and version: the plugin library is missing or an older one; "
            "`zerograsp-edge build BUNDLE` builds and loads it, `--plugins FILE` takes another"
        )
    plugin = _of_plugins(errors)
    if re.search(r"could not create the plugin", text, re.IGNORECASE):
        return f"{where}: its plugin refused the node's attributes: {plugin or 'it gave no reason'}; {_AGAIN}"
    if plugin:
        return f"{where}: its plugin refused it: {plugin}; {_AGAIN}"
    if advice := _cause(text):
        return f"{where}: {advice} (TensorRT: {_short([text])})"
    if problem.code.startswith("UNSUPPORTED"):
        said = "" if text in ("", "false") else f" ({_short([text])})"
        upgrade = "upgrade TensorRT (on a Jetson: JetPack)"
        return f"{where}: TensorRT {version} does not support it{said}; {upgrade}, or {_AGAIN}"
    return f"{where}: TensorRT {version} refused it ({_short([text])}); {_AGAIN}"


def _cause(told: str) -> str:
    return next(
        (advice for pattern, advice in _CAUSES if re.search(pattern, told, re.IGNORECASE | re.DOTALL)), ""
    )


def _of_plugins(errors: Sequence[str]) -> str:
    """What a plugin of zerograsp has said: it begins with its name."""
    found = [text.split("zerograsp::", 1)[1] for text in errors if "zerograsp::" in text]
    return " ".join(found[-1].split()) if found else ""


def _short(errors: Sequence[str], longest: int = 400) -> str:
    """The last errors on one line."""
    text = " | ".join(" ".join(text.split()) for text in dict.fromkeys(errors[-3:]))
    return text if len(text) <= longest else text[: longest - 3] + "..."
