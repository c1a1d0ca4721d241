"""`compare`: no difference is found where there is none, one is found where it is, and the reports say so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("scipy", reason="needs the extra `sim`")
pytest.importorskip("trimesh", reason="needs the extra `sim`")

from zerograsp_edge.calibration.comparison.budget import PRESETS, Budget, judge
from zerograsp_edge.calibration.comparison.frames import open_frames
from zerograsp_edge.calibration.comparison.grasps import matched
from zerograsp_edge.calibration.comparison.page import page
from zerograsp_edge.calibration.comparison.report import Comparison, Picking, Picks, load_comparison
from zerograsp_edge.calibration.comparison.tensors import ERROR_EDGES, TensorComparer
from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.export.training.sample import ObjectSurface, SceneSample, View
from zerograsp_edge.runtime.bundle import MANIFEST, Limits, load_bundle, seal, sha256
from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.result import Grasps

QUICK = ["--count", "1", "--threads", "2"]


@pytest.fixture(scope="module")
def same(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path, Path]:
    """Exit status, JSON and page of the edge model compared with itself."""
    out = tmp_path_factory.mktemp("same")
    files = out / "report.json", out / "report.html"
    code = main(
        [
            "compare",
            str(EDGE_MODEL),
            str(EDGE_MODEL),
            *QUICK,
            "--json",
            str(files[0]),
            "--html",
            str(files[1]),
        ]
    )
    return code, *files


@pytest.fixture(scope="module")
def found(same: tuple[int, Path, Path]) -> Comparison:
    return load_comparison(same[1])


def changed(path: Path, stage: str, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    """The edge model with the largest weight tensor of a stage changed."""
    onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
    shutil.copytree(EDGE_MODEL, path)
    file = path / f"{stage}.onnx"
    model = onnx.load(str(file))
    weight = max(model.graph.initializer, key=lambda i: int(np.prod(i.dims)))
    array = onnx.numpy_helper.to_array(weight)
    weight.CopyFrom(onnx.numpy_helper.from_array(change(array.copy()).astype(array.dtype), weight.name))
    onnx.save(model, str(file))
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][file.name] = sha256(file)
    (path / MANIFEST).write_text(json.dumps(seal(manifest)))
    return path


def test_identical_bundles_do_not_differ(same: tuple[int, Path, Path], found: Comparison) -> None:
    assert same[0] == 0 and found.ok and found.budget == "fp32"
    assert {t.stage for t in found.tensors} == set(load_bundle(EDGE_MODEL).stages)
    for t in found.tensors:
        assert t.values > 0 and t.equal == t.values and t.max_error == 0 and not any(t.histogram)
        assert t.cosine == pytest.approx(1, abs=1e-12)
    assert all(o.free_worst == o.forced_worst == 1 and o.nodes_a == o.nodes_b > 0 for o in found.octrees)
    assert found.shapes is not None and found.shapes.a == found.shapes.b
    assert (
        0 < found.shapes.a.chamfer < 10 and found.shapes.a.f1_10 > 80
    )  # against the truth, not against itself
    g = found.grasps
    assert g.shared == g.best_a == g.best_b > 0 and g.overlap == 1
    assert 0 < g.admitted_both == g.admitted_a == g.admitted_b < g.judged and g.same_verdict == 1


def test_a_perturbed_weight_is_found_in_its_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def perturb(weight: np.ndarray) -> np.ndarray:
        weight.reshape(-1)[::7] *= 1.5
        return weight

    other, report = changed(tmp_path / "other.zgb", "decoder_5", perturb), tmp_path / "report.json"
    assert main(["compare", str(EDGE_MODEL), str(other), *QUICK, "--json", str(report)]) == 1
    result = load_comparison(report)
    assert not result.ok
    failed = {check.name: check for check in result.checks if not check.ok}
    assert failed["max_error"].detail.startswith("begins in stage decoder_5 ")
    assert "begins in stage decoder_5" in " ".join(capsys.readouterr().out.split())
    clean = {t.stage for t in result.tensors if t.max_error == 0}
    assert clean == {"image_encoder", "octree_encoder", "decoder_3", "decoder_4"}
    # Its own decisions change at depth 5; the nodes there are still those of depth 4's decisions.
    by_depth = {o.depth: o for o in result.octrees}
    assert by_depth[4].forced_worst == 1 and by_depth[5].free_worst == 1
    assert by_depth[5].forced_worst < 1 and by_depth[6].free_worst < 1


def test_nan_is_beyond_every_budget(found: Comparison) -> None:
    broken = replace(found.tensors[3], not_finite=2)
    other = replace(found, tensors=(*found.tensors[:3], broken, *found.tensors[4:]))
    checks = {c.name: c for c in judge(other, Budget(max_error=1e9).over("int8"))}
    assert not checks["max_error"].ok and broken.name in checks["max_error"].detail


def test_float16_is_within_its_budget_and_not_within_that_of_float32(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs the extra `export`")
    from zerograsp_edge.export.convert import convert

    half = convert(load_bundle(EDGE_MODEL), tmp_path / "half.zgb").path
    report = tmp_path / "report.json"
    assert main(["compare", str(EDGE_MODEL), str(half), *QUICK, "--json", str(report)]) == 0
    result = load_comparison(report)
    assert result.budget == "fp16" and (result.a.precision, result.b.precision) == ("fp32", "fp16")
    assert not all(check.ok for check in judge(result, Budget().over("fp32")))
    errors = {t.name: t for t in result.tensors}
    tokens = errors["octree_encoder/tokens"]
    assert 1e-5 < tokens.max_error < 2e-2
    assert sum(tokens.histogram) + tokens.equal == tokens.values
    # One entry of the budget, tightened by an option, decides the exit status.
    assert main(["compare", str(EDGE_MODEL), str(half), *QUICK, "--max-error", "1e-7"]) == 1


def test_json_comes_back_as_it_was(found: Comparison, tmp_path: Path) -> None:
    full = replace(found, picking=Picking(2, Picks(5, 4), Picks(4, 4)))
    path = tmp_path / "report.json"
    path.write_text(full.to_json())
    assert load_comparison(path) == full
    content = json.loads(path.read_text())
    assert content["ok"] is True and content["error_edges"] == list(ERROR_EDGES)


class Reader(HTMLParser):
    """Tags in balance, and everything that could load something."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("within", [True, False])
def test_the_page_parses_and_refers_to_nothing(found: Comparison, within: bool) -> None:
    if not within:
        worse = replace(found.tensors[2], max_error=0.3, equal=0, histogram=(1,) * (len(ERROR_EDGES) + 1))
        found = replace(
            found,
            a=replace(found.a, bundle="<b>&.zgb"),
            tensors=(*found.tensors[:2], worse, *found.tensors[3:]),
            picking=Picking(1, Picks(5, 4), Picks(4, 0)),
        )
        found = replace(found, checks=judge(found, Budget().over("fp32")))
    content = page(found)
    reader = Reader()
    reader.feed(content)
    reader.close()
    assert reader.open == []
    assert not {"script", "link", "img", "iframe", "object", "a"} & set(reader.seen)
    assert not {"src", "href", "srcset", "xlink:href"} & {name for name, _ in reader.attributes}
    assert "http" not in content and "url(" not in content and "@import" not in content
    assert content.count("<svg") == (2 if within else 3)
    assert ("Within the budget" if within else "Beyond the budget") in reader.text
    if not within:
        assert "begins in stage octree_encoder" in reader.text and "<b>&.zgb" in reader.text
        assert "A picked 4 in 5 attempts, B 0 in 4" in reader.text


def test_recorded_frames_are_compared_without_their_truth(tmp_path: Path) -> None:
    import cv2

    judged = next(open_frames("simulated", 1, 3, Limits()).frames)
    frame = judged.frame
    assert judged.truth is not None and frame.mask is not None
    for name, picture in (
        ("rgb", frame.rgb[:, :, ::-1]),
        ("depth", np.rint(frame.depth).astype(np.uint16)),
        ("mask", frame.mask),
    ):
        cv2.imwrite(str(tmp_path / f"a.{name}.png"), picture)
    (tmp_path / "camera.json").write_text(json.dumps({"K": frame.intrinsics.astype(float).tolist()}))
    np.savez(tmp_path / "grasps.npz", score=np.ones(3))  # a result of `run`, no scene
    source = open_frames(str(tmp_path), 4, 0, Limits())
    assert source.without_truth
    (recorded,) = source.frames
    assert recorded.truth is None and np.array_equal(recorded.frame.mask, frame.mask)
    (tmp_path / "a.mask.png").unlink()
    with pytest.raises(CalibrationError, match=r"expected frames with masks, a has none: add a\.mask\.png"):
        next(open_frames(str(tmp_path), 4, 0, Limits()).frames)


def test_true_surfaces_lie_on_the_measured_depth() -> None:
    judged = next(open_frames("simulated", 1, 11, Limits()).frames)
    frame = judged.frame
    assert frame.mask is not None and judged.truth
    k = frame.intrinsics
    for i, surface in judged.truth.items():
        v, u = np.nonzero(frame.mask == i)
        z = frame.depth[v, u].astype(np.float64)
        points = np.stack([(u - k[0, 2]) / k[0, 0] * z, (v - k[1, 2]) / k[1, 1] * z, z], axis=1)
        assert surface.tree.query(points)[0].mean() < 1.0  # the surface's points are 1 mm apart


def test_scenes_come_with_their_truth(tmp_path: Path) -> None:
    """The same objects, stored as a training scene: what next to nothing shows of does not count."""
    judged = next(open_frames("simulated", 1, 3, Limits()).frames)
    frame, truth = judged.frame, judged.truth
    assert truth is not None and frame.mask is not None and len(truth) == 3
    objects = tuple(
        ObjectSurface(i, "box", np.eye(4), s.points.astype(np.float32), s.normals, np.zeros((len(s), 10)))
        for i, s in truth.items()
        if s.normals is not None
    )
    shown = np.array([1.0, 0.01, 1.0], np.float32)
    view = View(frame.rgb, frame.depth, frame.mask, frame.intrinsics, np.eye(4), shown)
    (tmp_path / "below").mkdir()
    SceneSample(3, "table", objects, (view,)).save(tmp_path / "below" / "scene.npz")
    source = open_frames(str(tmp_path), 4, 0, Limits())
    assert source.without_truth is None
    (found,) = source.frames
    assert found.truth is not None
    ids = list(truth)
    assert list(found.truth) == [ids[0], ids[2]]
    np.testing.assert_allclose(found.truth[ids[0]].points, truth[ids[0]].points, atol=1e-3)
    np.testing.assert_allclose(found.frame.depth, frame.depth, atol=0.07)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--frames", "nowhere"], "there is no folder nowhere"),
        (["--count", "0"], "expected at least 1 frame, got 0"),
        (["--picks", "-1"], "picks: expected 0 or more, got -1"),
        (["--chamfer", "-0.1"], "budget chamfer: expected a number from 0 on, got -0.1"),
    ],
)
def test_bad_options_say_what_to_do(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    try:
        assert main(["compare", str(EDGE_MODEL), str(EDGE_MODEL), *options]) == 1
    except SystemExit as usage:  # from the options' own check
        assert usage.code
    captured = capsys.readouterr()
    assert message in " ".join((captured.err + captured.out).split())


def test_different_networks_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other.zgb"
    shutil.copytree(EDGE_MODEL, other)
    manifest = json.loads((other / MANIFEST).read_text())
    manifest["network"]["grid_size"] *= 2
    (other / MANIFEST).write_text(json.dumps(seal(manifest)))
    assert main(["compare", str(EDGE_MODEL), str(other), *QUICK]) == 1
    error = capsys.readouterr().err
    assert "expected two bundles of one network" in error and "grid_size is" in error
    assert "from one checkpoint" in error


def random_grasps(rng: np.random.Generator, count: int) -> Grasps:
    rotation = np.linalg.qr(rng.standard_normal((count, 3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))[:, None, None]
    return Grasps(
        rng.random(count, np.float32), np.full(count, 0.05, np.float32), np.full(count, 0.02, np.float32),
        rotation.astype(np.float32), (0.2 * rng.random((count, 3))).astype(np.float32),
        rng.integers(1, 4, count).astype(np.int32),
    )  # fmt: skip


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 40))
def test_the_same_grasps_in_another_order_all_match(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    grasps = random_grasps(rng, count)
    order = rng.permutation(count)
    # Every second hand is turned by 180 degrees about its approach: the same hand.
    turned = replace(grasps, rotation=np.where(
        (np.arange(count) % 2 == 0)[:, None, None], grasps.rotation, grasps.rotation * np.float32([1, -1, -1])
    ))  # fmt: skip
    pairs = matched(grasps, turned[order])
    assert sorted(pairs[:, 0]) == list(range(count))
    assert (order[pairs[:, 1]] == pairs[:, 0]).all()


def test_what_one_grasp_is() -> None:
    one = random_grasps(np.random.default_rng(0), 1)
    approach, closing, height = one.rotation[0].T

    def about_approach(degrees: float) -> np.ndarray:
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        axes = [approach, c * closing + s * height, c * height - s * closing]
        return np.stack(axes, axis=1)[None].astype(np.float32)

    def same(other: Grasps) -> bool:
        return len(matched(one, other)) == 1

    for degrees, is_same in ((29, True), (31, False), (151, True), (149, False), (180, True)):
        assert same(replace(one, rotation=about_approach(degrees))) == is_same, degrees
    for metres, is_same in ((0.029, True), (0.031, False)):
        assert same(replace(one, translation=one.translation + np.float32([0, metres, 0]))) == is_same
    assert not same(replace(one, object_id=one.object_id + 1))
    # One grasp has one partner, the nearer one.
    near, nearer = (replace(one, translation=one.translation + np.float32(d)) for d in (0.01, 0.001))
    assert matched(one, Grasps.concatenate([near, nearer])).tolist() == [[0, 1]]


def test_errors_fall_into_their_bins() -> None:
    comparer = TensorComparer()
    comparer.add(np.array([2.0, 1.0, 0.0, -2.0]), np.array([2.0, 1.0 + 3e-4, 0.0, 4.0]))
    comparer.add(np.array([100.0, 1.0]), np.array([100.0, np.nan]))
    t = comparer.difference("stage", "tensor")
    assert (t.values, t.equal, t.not_finite) == (6, 3, 1)
    assert t.max_error == pytest.approx(3.0)  # of the frame's largest magnitude, 2
    filled = [i for i, count in enumerate(t.histogram) if count]
    assert filled == [ERROR_EDGES.index(1e-4) + 1, len(ERROR_EDGES)]


@pytest.mark.parametrize(("a", "b", "cosine"), [(0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, -1.0, -1.0)])
def test_cosine_of_zeros(a: float, b: float, cosine: float) -> None:
    comparer = TensorComparer()
    comparer.add(np.full(3, a), np.full(3, b))
    assert comparer.difference("s", "t").cosine == pytest.approx(cosine)


def test_presets_have_every_limit() -> None:
    assert all(None not in vars(preset).values() for preset in PRESETS.values())
    assert Budget(cosine=0.5).over("fp16") == {**vars(PRESETS["fp16"]), "cosine": 0.5}
