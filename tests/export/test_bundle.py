"""Writing bundles: what is in them, what happens to a folder that exists, and the command `export`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `export`")
pytest.importorskip("ocnn", reason="needs the extra `export`")
pytest.importorskip("onnx", reason="needs the extra `export`")

from zerograsp_edge.export import bundle as bundle_module  # noqa: E402
from zerograsp_edge.export.bundle import write_bundle  # noqa: E402
from zerograsp_edge.export.checkpoint import save_network  # noqa: E402
from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp, prepare_frame  # noqa: E402
from zerograsp_edge.export.random_weights import random_network  # noqa: E402
from zerograsp_edge.runtime.bundle import VERSION, BundleError, Limits, load_bundle, sha256  # noqa: E402
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera  # noqa: E402
from zerograsp_edge.runtime.cli import main  # noqa: E402
from zerograsp_edge.runtime.frame import Frame  # noqa: E402
from zerograsp_edge.runtime.pipeline import Pipeline  # noqa: E402
from zerograsp_edge.runtime.verify import verify  # noqa: E402

TINY = NetworkConfig.tiny()
LIMITS = Limits(max_height=128, max_width=160, max_objects=3, max_nodes=16384)


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SimulatedCamera(seed=2, num_objects=2, width=160, height=120).read()


@pytest.fixture(scope="module")
def network(frame: Frame) -> ZeroGrasp:
    """With its posterior, as after training."""
    assert frame.mask is not None
    return random_network(TINY, prepare_frame(TINY, frame.rgb, frame.depth, frame.mask, frame.intrinsics))


def listing(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_bundle_loads_as_it_was_written(network: ZeroGrasp, frame: Frame, tmp_path: Path) -> None:
    steps: list[str] = []
    written = write_bundle(
        network, tmp_path / "new" / "a.zgb", trained=True, limits=LIMITS, provenance={"weights": "of a test"},
        reference=frame, progress=steps.append,
    )  # fmt: skip
    assert listing(tmp_path / "new")[0] == "a.zgb"
    bundle = load_bundle(tmp_path / "new" / "a.zgb")
    assert bundle.geometry == written.geometry and bundle.stages == written.stages
    assert bundle.trained and bundle.limits == LIMITS
    names = ["image_encoder", "octree_encoder", "decoder_3", "decoder_4", "decoder_5", "decoder_6"]
    assert list(bundle.stages) == names
    assert steps == [*(f"stage {name}" for name in names), "reference outputs"]
    g = bundle.geometry
    assert (g.min_lod, g.max_lod, g.z_margin, g.channels, g.image_multiple) == (3, 6, 2, (16, 16, 8, 8), 1)
    assert (g.cube_size, g.voxel_size, g.full_depth) == (640.0, 10.0, 2)
    assert verify(Pipeline(bundle, threads=2)).ok


def test_manifest(network: ZeroGrasp, frame: Frame, tmp_path: Path) -> None:
    path = tmp_path / "a.zgb"
    write_bundle(
        network, path, trained=False, limits=LIMITS, provenance={"weights": "of a test"}, reference=frame
    )
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["format"] == "zerograsp-edge bundle"
    assert (manifest["version"], manifest["custom_op_version"], manifest["trained"]) == (VERSION, 1, False)
    assert NetworkConfig.from_dict(manifest["network"]) == TINY
    assert manifest["limits"] == LIMITS.to_dict()
    assert manifest["normalisation"] == {
        "mean": pytest.approx([0.485, 0.456, 0.406]),
        "std": pytest.approx([0.229, 0.224, 0.225]),
        "in_graph": True,
    }
    assert sorted(manifest["files"]) == sorted(p.name for p in path.iterdir() if p.name != "manifest.json")
    assert all(sha256(path / name) == digest for name, digest in manifest["files"].items())
    provenance = manifest["provenance"]
    assert provenance["weights"] == "of a test" and provenance["torch"] == torch.__version__
    assert "exported" in provenance and "onnx" in provenance
    tensors = {t["name"]: t for t in manifest["stages"]["decoder_4"]["inputs"]}
    assert tensors["keys"] == {"name": "keys", "dtype": "int64", "shape": ["N"]}
    assert tensors["parent_features"]["shape"] == ["P", 16]
    assert manifest["stages"]["image_encoder"]["inputs"] == [
        {"name": "rgb", "dtype": "uint8", "shape": ["H", "W", 3]}
    ]
    assert all(stage["precision"] == "fp32" for stage in manifest["stages"].values())
    assert str(tmp_path) not in json.dumps(manifest)


def test_export_does_not_depend_on_training_mode(network: ZeroGrasp, frame: Frame, tmp_path: Path) -> None:
    a = write_bundle(network, tmp_path / "a.zgb", trained=False, limits=LIMITS, reference=frame)
    network.train()
    b = write_bundle(network, tmp_path / "b.zgb", trained=False, limits=LIMITS, reference=frame)
    assert not network.training
    assert a.manifest["files"] == b.manifest["files"]  # to the byte, and reproducible


def test_existing_bundle_needs_overwrite(network: ZeroGrasp, frame: Frame, tmp_path: Path) -> None:
    path = tmp_path / "a.zgb"
    first = write_bundle(network, path, trained=False, limits=LIMITS, reference=frame)
    before = listing(tmp_path)
    with pytest.raises(BundleError, match="exists; choose another name or pass --overwrite"):
        write_bundle(network, path, trained=True, limits=LIMITS, reference=frame)
    assert load_bundle(path).manifest == first.manifest
    write_bundle(network, path, trained=True, limits=LIMITS, reference=frame, overwrite=True)
    assert load_bundle(path).trained
    assert listing(tmp_path) == before


@pytest.mark.parametrize("manifest", [None, '{"name": "a web application", "icons": []}', "not json", "[1]"])
def test_a_folder_of_something_else_is_never_removed(
    network: ZeroGrasp, frame: Frame, tmp_path: Path, manifest: str | None
) -> None:
    path = tmp_path / "photos"
    path.mkdir()
    (path / "holiday.jpg").write_text("precious")
    if manifest is not None:
        (path / "manifest.json").write_text(manifest)
    before = listing(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle; it was left alone"):
        write_bundle(network, path, trained=False, limits=LIMITS, reference=frame, overwrite=True)
    assert listing(tmp_path) == before


def test_a_file_is_never_replaced(network: ZeroGrasp, frame: Frame, tmp_path: Path) -> None:
    path = tmp_path / "a.zgb"
    path.write_text("precious")
    with pytest.raises(BundleError, match="is not a bundle; it was left alone"):
        write_bundle(network, path, trained=False, limits=LIMITS, reference=frame, overwrite=True)
    assert path.read_text() == "precious"


def test_a_neighbour_folder_is_never_removed(network: ZeroGrasp, frame: Frame, tmp_path: Path) -> None:
    """Somebody's folder may be called like an unfinished bundle."""
    (tmp_path / "a.zgb.partial").mkdir()
    (tmp_path / "a.zgb.partial" / "holiday.jpg").write_text("precious")
    write_bundle(network, tmp_path / "a.zgb", trained=False, limits=LIMITS, reference=frame)
    assert (tmp_path / "a.zgb.partial" / "holiday.jpg").read_text() == "precious"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_midway_leaves_nothing_behind(
    network: ZeroGrasp,
    frame: Frame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
    existing: bool,
) -> None:
    path = tmp_path / "a.zgb"
    if existing:
        write_bundle(network, path, trained=False, limits=LIMITS, reference=frame)
    before = listing(tmp_path)

    def fail(*_: Any) -> None:
        assert any("octree_encoder.onnx" in name for name in set(listing(tmp_path)) - set(before))
        raise error

    monkeypatch.setattr(bundle_module, "reference_outputs", fail)
    with pytest.raises(error):
        write_bundle(network, path, trained=True, limits=LIMITS, reference=frame, overwrite=True)
    assert listing(tmp_path) == before
    if existing:
        assert not load_bundle(path).trained


def test_a_failing_last_step_keeps_the_old_bundle(
    network: ZeroGrasp, frame: Frame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zgb"
    write_bundle(network, path, trained=False, limits=LIMITS, reference=frame)
    before = listing(tmp_path)
    rename = Path.rename

    def fail(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError("disk gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="disk gone"):
        write_bundle(network, path, trained=True, limits=LIMITS, reference=frame, overwrite=True)
    assert listing(tmp_path) == before
    assert not load_bundle(path).trained


@pytest.mark.parametrize(
    "limits",
    [
        replace(LIMITS, max_objects=1),
        replace(LIMITS, max_height=100, max_width=150),
        Limits(max_objects=2, max_nodes=131072),
    ],
)
def test_the_default_reference_keeps_within_the_limits(
    network: ZeroGrasp, tmp_path: Path, limits: Limits
) -> None:
    """Or `verify` could not run on a bundle for few objects."""
    bundle = write_bundle(network, tmp_path / "a.zgb", trained=False, limits=limits)
    assert verify(Pipeline(bundle, threads=2)).ok


def test_half_weights(network: ZeroGrasp, tmp_path: Path) -> None:
    """Half the size, and the reference outputs are those of the rounded weights."""
    full = write_bundle(network, tmp_path / "full.zgb", trained=False, limits=LIMITS)
    half = write_bundle(network, tmp_path / "half.zgb", trained=False, limits=LIMITS, half_weights=True)
    sizes = [sum(f.stat().st_size for f in b.path.glob("*.onnx")) for b in (full, half)]
    assert sizes[1] < 0.75 * sizes[0]
    assert verify(Pipeline(half, threads=2)).ok
    ours, theirs = (np.load(b.path / "reference.npz")["octree_encoder/tokens/values"] for b in (half, full))
    assert 1e-6 < np.abs(ours - theirs).max() / np.abs(theirs).max() < 2e-2


# The command


def lightning_checkpoint(network: ZeroGrasp, path: Path) -> Path:
    """A file as Lightning writes it: the network under `model.`, beside loop and optimizer state."""
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    torch.save(
        {"state_dict": state, "epoch": 3, "global_step": 99, "optimizer_states": [{"state": {}}]}, path
    )
    return path


def stage_files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.glob("*.onnx")}


@pytest.mark.parametrize("posterior", [True, False])
def test_export_command_on_a_lightning_checkpoint(
    network: ZeroGrasp, frame: Frame, tmp_path: Path, capsys: pytest.CaptureFixture[str], posterior: bool
) -> None:
    checkpoint = lightning_checkpoint(network, tmp_path / "last.ckpt")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(replace(TINY, posterior=posterior).to_dict()))
    out = tmp_path / "out.zgb"
    options = ["--config", str(config), "--max-objects", "5", "--max-nodes", "200000"]
    assert main(["export", str(checkpoint), str(out), *options]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "wrote" in output and "next: zerograsp-edge verify" in output
    bundle = load_bundle(out)
    assert bundle.trained and bundle.limits == Limits(max_objects=5, max_nodes=200000)
    provenance = bundle.manifest["provenance"]
    assert provenance["checkpoint"] == "last.ckpt" and provenance["checkpoint_sha256"] == sha256(checkpoint)
    direct = write_bundle(network, tmp_path / "direct.zgb", trained=True, limits=LIMITS, reference=frame)
    assert stage_files(out) == stage_files(direct.path)
    assert main(["verify", str(out)]) == 0


def test_export_command_on_safetensors(network: ZeroGrasp, tmp_path: Path) -> None:
    save_network(network, tmp_path / "net.safetensors")
    out = tmp_path / "out.zgb"
    assert main(["export", str(tmp_path / "net.safetensors"), str(out)]) == 0
    assert NetworkConfig.from_dict(load_bundle(out).manifest["network"]) == TINY


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no checkpoint", "no such file"),
        ("truncated", "not a readable PyTorch checkpoint"),
        ("other network", "does not fit the network"),
        ("no config file", "expected a network configuration in JSON"),
        ("config is a list", "expected a JSON object, got list"),
        ("unknown field", "unknown fields of the network configuration: colour"),
        ("no objects", "limit max_objects: expected a positive integer, got 0"),
        ("exists", "choose another name or pass --overwrite"),
        ("not a bundle", "is not a bundle; it was left alone"),
    ],
)
def test_export_command_on_bad_input(
    network: ZeroGrasp, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, message: str
) -> None:
    checkpoint = lightning_checkpoint(network, tmp_path / "last.ckpt")
    config, out = tmp_path / "config.json", tmp_path / "out.zgb"
    config.write_text(json.dumps(TINY.to_dict()))
    arguments = ["export", str(checkpoint), str(out), "--config", str(config)]
    match name:
        case "no checkpoint":
            checkpoint.unlink()
        case "truncated":
            checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
        case "other network":
            config.write_text(json.dumps(replace(TINY, residual_blocks=2).to_dict()))
        case "no config file":
            config.unlink()
        case "config is a list":
            config.write_text("[]")
        case "unknown field":
            config.write_text(json.dumps({**TINY.to_dict(), "colour": 1}))
        case "no objects":
            arguments += ["--max-objects", "0"]
        case "exists":
            out.mkdir()
        case "not a bundle":
            out.mkdir()
            arguments += ["--overwrite"]
    before = listing(tmp_path)
    capfd.readouterr()
    assert main(arguments) == 1
    errors = capfd.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith("error: ") and message in errors[0]
    assert listing(tmp_path) == before


@pytest.mark.slow
def test_export_command_on_the_published_form(published_network: ZeroGrasp, tmp_path: Path) -> None:
    """A Lightning file with posterior and without configuration is taken for the published network."""
    checkpoint = lightning_checkpoint(published_network, tmp_path / "zerograsp.ckpt")
    out = tmp_path / "zerograsp.zgb"
    assert main(["export", str(checkpoint), str(out)]) == 0
    bundle = load_bundle(out)
    assert (
        NetworkConfig.from_dict(bundle.manifest["network"]) == NetworkConfig.published().without_posterior()
    )
    assert bundle.geometry.image_multiple == 32 and bundle.geometry.voxel_size == 2.5
    np.testing.assert_array_equal(list(bundle.stages)[2:], [f"decoder_{d}" for d in range(4, 10)])
