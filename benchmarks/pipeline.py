"""The whole runtime on one frame, stage by stage, beside PyTorch + ocnn.

Same frame, same weights, same threads, taking turns in one run; best of several. Each side has a process of its
own, as deployed: PyTorch brings an OpenMP whose idle threads spin, on cores that the other side would compute
on. The frame is the reference case 000 with the reference weights where that data is present, else a simulated
one of the same size with random weights. Memory is the peak resident set of a process that does nothing else;
the steady state is 200 frames of a moving simulated camera.
"""

from __future__ import annotations

import os

THREADS = 2
os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))

import itertools  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Any  # noqa: E402

import numpy as np  # noqa: E402
from harness import CACHE, SHARED, Figure, figure, main  # noqa: E402

from zerograsp_edge.runtime.bundle import Bundle, load_bundle  # noqa: E402
from zerograsp_edge.runtime.frame import Frame  # noqa: E402
from zerograsp_edge.runtime.pipeline import Pipeline  # noqa: E402

if TYPE_CHECKING:
    from zerograsp_edge.export.network import ZeroGrasp

PEER = "PyTorch + ocnn"
FRAMES = 200  # of the steady state
WARM_UP = 20


def reference_frame(quick: bool) -> Frame:
    """Reference case 000, or a simulated frame of its size; for a quick run a small simulated one."""
    frames = SHARED / "frames"
    if not quick and (frames / "000.rgb.png").exists():
        from zerograsp_edge.runtime.camera.files import read_frame

        return read_frame(
            frames / "000.rgb.png", frames / "000.depth.png", frames / "000.meta.yml", frames / "000.mask.png"
        )
    from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

    size = (640, 480) if quick else (1280, 1024)
    return SimulatedCamera(seed=0, num_objects=7, width=size[0], height=size[1]).read()


def network(quick: bool) -> ZeroGrasp:
    """The published network with the reference weights or random ones; the edge network for a quick run."""
    import torch

    from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp, prepare_frame
    from zerograsp_edge.export.random_weights import random_network

    torch.set_num_threads(THREADS)
    config = NetworkConfig.edge() if quick else NetworkConfig.published()
    if quick or not (SHARED / "golden" / "weights_recipe.py").exists():
        frame = reference_frame(quick)
        assert frame.mask is not None
        return random_network(
            config, prepare_frame(config, frame.rgb, frame.depth, frame.mask, frame.intrinsics)
        )
    model = ZeroGrasp(config).eval()
    state = {name.removeprefix("model."): torch.from_numpy(v) for name, v in _recipe_state().items()}
    constants = {name: v for name, v in model.state_dict().items() if name not in state}
    model.load_state_dict({**constants, **state})
    return model


def _recipe_state() -> dict[str, np.ndarray]:
    import importlib.util

    spec = importlib.util.spec_from_file_location("weights_recipe", SHARED / "golden" / "weights_recipe.py")
    assert spec and spec.loader
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    entries = []
    for line in (SHARED / "golden" / "state_dict_keys.txt").read_text().splitlines():
        name, shape, *_ = line.split("\t")
        entries.append((name, tuple(int(n) for n in shape.strip("()").split(",") if n.strip())))
    return recipe.deterministic_state(entries)


def bundle_path(quick: bool) -> Path:
    return CACHE / ("edge.zgb" if quick else "published.zgb")


def make_bundle(model: ZeroGrasp, quick: bool) -> Bundle:
    from zerograsp_edge.export.bundle import write_bundle

    return write_bundle(model, bundle_path(quick), trained=False, overwrite=True)


class Peer:
    """The network in PyTorch and ocnn, timed by the same parts as the runtime.

    Its occlusion field is the plain per-triangle port (`peers/occlusion_port.cpp`), as PyTorch has none.
    """

    def __init__(self, model: ZeroGrasp, folder: Path) -> None:
        from parts.occlusion import Scene, compile_port

        port = compile_port(folder)

        def occlusion(centres: Any, objects: Any, frame: Any, edge: float, resolution: int) -> Any:
            import torch

            scene = Scene(
                "peer",
                np.ascontiguousarray(centres.numpy()),
                np.ascontiguousarray(objects.numpy(), np.int32),
                frame.depth.numpy(),
                np.ascontiguousarray(frame.labels.numpy(), np.int32),
                np.ascontiguousarray(frame.adjacency.numpy(), np.uint8),
                np.ascontiguousarray(frame.intrinsics.numpy(), np.float32),
            )
            return torch.from_numpy(port(scene, THREADS))

        self.model, self.occlusion = model, occlusion

    def __call__(self, frame: Frame) -> dict[str, float]:
        """Milliseconds by part."""
        import torch

        from zerograsp_edge.export.network import prepare_frame

        model, config = self.model, self.model.config
        marks: list[tuple[str, float]] = []

        def mark(name: str) -> None:
            marks.append((name, time.perf_counter()))

        handles = []
        # The end of a module ends a part; what lies between two of them (growth, alignment) counts to the
        # later one.
        ends = {
            "backbone": "image_encoder",
            "conv1": "input",
            **{f"predict.{i}": f"decoder_{d}" for i, d in enumerate(config.depths)},
        }
        modules = dict(model.named_modules())
        handles.append(modules["backbone"].register_forward_pre_hook(lambda *_: mark("prepare")))
        handles.append(modules["conv1"].register_forward_pre_hook(lambda *_: mark("input")))
        for name, part in ends.items():
            if name != "conv1":
                handles.append(modules[name].register_forward_hook(lambda *_, part=part: mark(part)))
        original = model.fuse

        def fuse(*arguments: Any) -> Any:
            tokens = original(*arguments)
            mark("octree_encoder")
            return tokens

        model.fuse = fuse  # type: ignore[method-assign]
        try:
            with torch.no_grad():
                mark("start")
                assert frame.mask is not None
                inputs = prepare_frame(config, frame.rgb, frame.depth, frame.mask, frame.intrinsics)
                model(inputs, occlusion=self.occlusion)
        finally:
            del model.fuse  # type: ignore[attr-defined]
            for handle in handles:
                handle.remove()
        parts: dict[str, float] = {}
        for (_, before), (name, after) in itertools.pairwise(marks):
            parts[name] = parts.get(name, 0.0) + 1e3 * (after - before)
        parts["input"] = parts.pop("prepare") + parts["input"]
        return parts


class RuntimeProcess:
    """The runtime in a process of its own; a call runs the reference frame and returns timings and CPU time."""

    def __init__(self, quick: bool) -> None:
        command = [sys.executable, __file__, "--child=serve", *(["--quick"] if quick else [])]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> RuntimeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def runtime_parts(timings: dict[str, float]) -> dict[str, float]:
    """The runtime's timings by the same parts as the peer's."""
    grouped = {"points": "input", "adjacency": "input", "octree_build": "input", "voxel_features": "input"}
    parts: dict[str, float] = {}
    for name, ms in timings.items():
        part = grouped.get(name, name)
        parts[part] = parts.get(part, 0.0) + ms
    return parts


def measure(quick: bool) -> Iterator[Figure]:
    frame = reference_frame(quick)
    model = network(quick)
    with tempfile.TemporaryDirectory() as folder, RuntimeProcess(quick) as runtime:
        peer = Peer(model, Path(folder))
        best: dict[str, float] = {}
        best_peer: dict[str, float] = {}
        octree, octree_peer, total, total_peer, cpu = [], [], [], [], []
        for _ in range(2 if quick else 5):
            for _ in range(2):
                answer = runtime()
                parts = runtime_parts(answer["timings"])
                _keep_best(best, parts)
                total.append(sum(parts.values()))
                octree.append(_without_image(parts))
                cpu.append(answer["cpu_ms"])
            parts = peer(frame)
            _keep_best(best_peer, parts)
            total_peer.append(sum(parts.values()))
            octree_peer.append(_without_image(parts))
    for name in best_peer:
        extra = best["growth"] / len(model.config.depths) if name.startswith("decoder_") else 0.0
        yield figure(
            f"{name} (with its share of growth)" if extra else name,
            best[name] + extra,
            "ms",
            peer=PEER,
            peer_value=best_peer[name],
        )
    yield figure("decode (surface, grasps)", best["decode"], "ms")
    yield figure(
        "octree part: all but the image encoder",
        min(octree),
        "ms",
        asked=None if quick else 500,
        peer=PEER,
        peer_value=min(octree_peer),
    )
    yield figure(
        "octree part, speed-up", min(octree_peer) / min(octree), "x", "higher", asked=None if quick else 10
    )
    yield figure("whole frame", min(total), "ms", peer=PEER, peer_value=min(total_peer))
    yield figure(
        "CPU time of a frame / (wall time x threads)", min(cpu) / (min(total) * THREADS), "", "higher"
    )
    yield from memory(quick)
    yield from steady_state(quick)
    yield from start_up()


def _without_image(parts: dict[str, float]) -> float:
    return sum(ms for name, ms in parts.items() if name not in ("image_encoder", "decode"))


def _keep_best(best: dict[str, float], parts: dict[str, float]) -> None:
    for name, ms in parts.items():
        best[name] = min(ms, best.get(name, ms))


def memory(quick: bool) -> Iterator[Figure]:
    """Peak resident set of a fresh process that runs one frame, without and with the image encoder."""
    runtime, peer = (_child(kind, quick)["peak_mb"] for kind in ("memory-runtime", "memory-peer"))
    yield figure("peak resident set, one frame", runtime, "MB", asked=peer, peer=PEER, peer_value=peer)


def steady_state(quick: bool) -> Iterator[Figure]:
    result = _child("steady", quick)
    yield figure(f"resident set after {result['frames']} frames", result["end_mb"], "MB")
    yield figure(
        f"its growth from frame {result['warm_up']} to {result['frames']}",
        result["growth_mb"],
        "MB",
        asked=1.0,
    )


def start_up() -> Iterator[Figure]:
    code = (
        "import sys, time; t = time.perf_counter(); import zerograsp_edge.runtime; "
        "t = time.perf_counter() - t; from zerograsp_edge.runtime import Pipeline, load_bundle; "
        "assert 'torch' not in sys.modules; print(t)"
    )
    runs = [
        float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
        for _ in range(5)
    ]
    yield figure("import zerograsp_edge.runtime", min(runs), "s", asked=0.3)


@contextmanager
def _peak() -> Iterator[dict[str, float]]:
    result: dict[str, float] = {}
    yield result
    # VmHWM belongs to this program; ru_maxrss would also count the process it was forked from.
    status = Path("/proc/self/status").read_text()
    result["peak_mb"] = int(status.split("VmHWM:")[1].split()[0]) / 1024


def _child(kind: str, quick: bool) -> dict[str, Any]:
    """Runs one of `CHILDREN` in a process of its own."""
    command = [sys.executable, __file__, f"--child={kind}", *(["--quick"] if quick else [])]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def _serve(quick: bool) -> dict[str, Any]:
    """The other end of `RuntimeProcess`."""
    pipeline, frame = Pipeline(load_bundle(bundle_path(quick)), threads=THREADS), reference_frame(quick)
    for _ in sys.stdin:
        before = time.process_time()
        timings = pipeline(frame).timings
        answer = {"timings": timings, "cpu_ms": 1e3 * (time.process_time() - before)}
        print(json.dumps(answer), flush=True)
    return {}


def _memory_runtime(quick: bool) -> dict[str, Any]:
    with _peak() as result:
        Pipeline(load_bundle(bundle_path(quick)), threads=THREADS)(reference_frame(quick))
    return result


def _memory_peer(quick: bool) -> dict[str, Any]:
    import torch

    torch.set_num_threads(THREADS)
    from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp, prepare_frame

    with _peak() as result, torch.no_grad():
        # The same steps as a deployment of the published code: read the weights, run the frame.
        config = (NetworkConfig.edge() if quick else NetworkConfig.published()).without_posterior()
        model = ZeroGrasp(config).eval()
        state = torch.load(_peer_weights(quick), weights_only=True, mmap=True)
        model.load_state_dict({k: v for k, v in state.items() if not k.startswith("posterior_")})
        frame = reference_frame(quick)
        assert frame.mask is not None
        model(prepare_frame(config, frame.rgb, frame.depth, frame.mask, frame.intrinsics))
    return result


def _peer_weights(quick: bool) -> Path:
    return bundle_path(quick).with_suffix(".pt")


def _steady(quick: bool) -> dict[str, Any]:
    import gc

    from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

    frames = 40 if quick else FRAMES
    pipeline = Pipeline(load_bundle(bundle_path(True)), threads=THREADS)
    # Rendered beforehand: what the simulated camera allocates is not the runtime's.
    camera = SimulatedCamera(seed=3, num_objects=5)
    recorded = [camera.read() for _ in range(WARM_UP)]
    sizes = []
    for i in range(frames):
        pipeline(recorded[i % len(recorded)])
        gc.collect()
        sizes.append(_resident_mb())
    return {
        "frames": frames,
        "warm_up": WARM_UP,
        "end_mb": sizes[-1],
        "growth_mb": sizes[-1] - sizes[WARM_UP],
    }


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


CHILDREN = {
    "serve": _serve,
    "memory-runtime": _memory_runtime,
    "memory-peer": _memory_peer,
    "steady": _steady,
}


def figures(quick: bool) -> list[Figure]:
    import torch

    CACHE.mkdir(parents=True, exist_ok=True)
    model = network(quick)
    torch.save(model.state_dict(), _peer_weights(quick))
    make_bundle(model, quick)
    if not quick:
        make_bundle(network(True), True)  # for the steady state
    return list(measure(quick))


if __name__ == "__main__":
    kinds = [a.removeprefix("--child=") for a in sys.argv[1:] if a.startswith("--child=")]
    if kinds:
        print(json.dumps(CHILDREN[kinds[0]]("--quick" in sys.argv)))
    else:
        main("pipeline", __doc__ or "", figures)
