"""Frames from files: layouts, camera formats, and every way a file can be wrong."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from zerograsp_edge.runtime.camera.files import FrameFolder, read_frame
from zerograsp_edge.runtime.camera.intrinsics import read_camera
from zerograsp_edge.runtime.errors import EndOfFrames, FrameError

H, W = 40, 56
K = {"fx": 50.0, "fy": 51.0, "cx": 27.5, "cy": 19.5}
MATRIX = np.array([[50, 0, 27.5], [0, 51, 19.5], [0, 0, 1]], np.float32)


def pictures(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.zeros((H, W), np.uint8)
    mask[5:15, 5:15], mask[20:30, 20:40] = 1, 2
    return rng.integers(0, 256, (H, W, 3), np.uint8), rng.integers(300, 900, (H, W)).astype(np.uint16), mask


def write_flat(folder: Path, name: str = "000", camera: str | None = "camera.json", seed: int = 0) -> None:
    rgb, depth, mask = pictures(seed)
    cv2.imwrite(str(folder / f"{name}.rgb.png"), rgb[:, :, ::-1])
    cv2.imwrite(str(folder / f"{name}.depth.png"), depth)
    cv2.imwrite(str(folder / f"{name}.mask.png"), mask)
    if camera:
        (folder / camera).write_text(json.dumps(K))


def png(pixels: np.ndarray, colour_type: int, bit_depth: int, palette: bytes = b"") -> bytes:
    """A minimal encoder, for what OpenCV does not write: palettes and few bits."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    bits = np.unpackbits(pixels[:, :, None], axis=2)[:, :, 8 - bit_depth :].reshape(len(pixels), -1)
    rows = b"".join(b"\0" + np.packbits(row).tobytes() for row in bits)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bit_depth, colour_type, 0, 0, 0)
    body = (
        chunk(b"IHDR", header)
        + (chunk(b"PLTE", palette) if palette else b"")
        + chunk(b"IDAT", zlib.compress(rows))
    )
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def test_reads_back_what_was_written(tmp_path: Path) -> None:
    write_flat(tmp_path)
    rgb, depth, mask = pictures()
    (frame,) = FrameFolder(tmp_path)
    np.testing.assert_array_equal(frame.rgb, rgb)
    np.testing.assert_array_equal(frame.depth, depth)
    np.testing.assert_array_equal(frame.mask, mask)
    np.testing.assert_array_equal(frame.intrinsics, MATRIX)
    assert frame.depth.dtype == np.float32 and frame.name == "000"


def test_reference_frames(frames_dir: Path, golden: dict[str, np.ndarray]) -> None:
    """The real frames give the K and the visible points of the reference vectors."""
    if str(golden["case"]) == "000":
        frame = FrameFolder(frames_dir)["000"]
    else:
        camera = np.array([[504.250665, 0, 480], [0, 504.250665, 270], [0, 0, 1]])
        frame = FrameFolder(frames_dir, camera)["007"].crop(top=14, bottom=526)
    np.testing.assert_allclose(frame.intrinsics, golden["K"], rtol=1e-7)
    assert frame.object_ids() == tuple(golden["obj_ids"])
    labels, depth = frame.label_image(), frame.depth
    visible = (labels >= 0) & (depth > 10)
    assert float(np.floor(depth[visible].min() / 80) * 80 - 400) == float(golden["z_min"][0])
    points = frame.point_image()[visible]
    points[:, 2] -= 640 + float(golden["z_min"][0])
    points /= 640
    kept = (np.abs(points) < 0.99).all(axis=1)
    # The reference keeps object after object, each in row order.
    order = np.argsort(labels[visible][kept], kind="stable")
    np.testing.assert_allclose(points[kept][order], golden["points"], atol=2e-6)


def test_camera_missing_for_one_frame_is_explained(frames_dir: Path) -> None:
    with pytest.raises(
        FrameError, match=r"no camera file for frame '007'; looked for 007\.meta\.yml, .*camera\.json"
    ):
        FrameFolder(frames_dir)["007"]


def test_subfolders_in_natural_order(tmp_path: Path) -> None:
    for kind in ("rgb", "depth", "mask"):
        (tmp_path / kind).mkdir()
    for number in (10, 2, 1):
        rgb, depth, mask = pictures(number)
        cv2.imwrite(str(tmp_path / "rgb" / f"{number}.png"), rgb[:, :, ::-1])
        np.save(tmp_path / "depth" / f"{number}.npy", depth)
        cv2.imwrite(str(tmp_path / "mask" / f"{number}.png"), mask)
    (tmp_path / "camera.yaml").write_text("fx: 50\nfy: 51\ncx: 27.5\ncy: 19.5\n")
    folder = FrameFolder(tmp_path, rate=10)
    assert folder.names == ("1", "2", "10")
    np.testing.assert_array_equal(folder["10"].depth, pictures(10)[1])
    assert [frame.timestamp for frame in folder] == [0.0, 0.1, 0.2]


def test_as_a_camera(tmp_path: Path) -> None:
    write_flat(tmp_path, "a")
    write_flat(tmp_path, "b", seed=1)
    with FrameFolder(tmp_path) as camera:
        assert [camera.read().name, camera.read().name] == ["a", "b"]
        with pytest.raises(EndOfFrames, match="holds 2 frames"):
            camera.read()
    looping = FrameFolder(tmp_path, loop=True, rate=1)
    assert [(f.name, f.timestamp) for f in (looping.read() for _ in range(3))] == [
        ("a", 0),
        ("b", 1),
        ("a", 2),
    ]


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    write_flat(tmp_path, "shot.rgb.2")
    for name in ("notes.txt", "shot.rgb.2.preview.png", "shot.depth.txt"):
        (tmp_path / name).write_text("")
    assert FrameFolder(tmp_path).names == ("shot.rgb.2",)


def test_two_pictures_of_one_kind_are_refused(tmp_path: Path) -> None:
    write_flat(tmp_path)
    np.save(tmp_path / "000.depth.npy", pictures()[1])
    with pytest.raises(FrameError, match="frame '000' has two depth pictures"):
        FrameFolder(tmp_path)


def test_mask_is_optional(tmp_path: Path) -> None:
    write_flat(tmp_path)
    (tmp_path / "000.mask.png").unlink()
    assert FrameFolder(tmp_path)["000"].mask is None


@pytest.mark.parametrize("bit_depth", [1, 2, 4, 8])
@pytest.mark.parametrize("palette", [True, False])
def test_mask_ids_survive_palettes_and_few_bits(tmp_path: Path, bit_depth: int, palette: bool) -> None:
    write_flat(tmp_path)
    mask = np.zeros((H, W), np.uint8)
    mask[3:20, 4:30], mask[25:, 7:] = 1, 2**bit_depth - 1
    # Two entries of one colour, and a bright first one: indices must not be derived from colours.
    colours = bytes([255, 255, 255]) + bytes([9, 9, 9]) * (2**bit_depth - 1)
    (tmp_path / "000.mask.png").write_bytes(
        png(mask, 3, bit_depth, colours) if palette else png(mask, 0, bit_depth)
    )
    np.testing.assert_array_equal(FrameFolder(tmp_path)["000"].mask, mask)


def test_sixteen_bit_mask(tmp_path: Path) -> None:
    write_flat(tmp_path)
    mask = pictures()[2].astype(np.uint16) * 3000
    cv2.imwrite(str(tmp_path / "000.mask.png"), mask)
    assert FrameFolder(tmp_path)["000"].object_ids() == (3000, 6000)


def test_depth_scale(tmp_path: Path) -> None:
    write_flat(tmp_path)
    depth = pictures()[1].astype(np.float32)
    np.testing.assert_allclose(FrameFolder(tmp_path, depth_scale=0.25)["000"].depth, depth / 4)
    (tmp_path / "camera.json").write_text(json.dumps({**K, "depth_scale": 0.5}))
    np.testing.assert_allclose(FrameFolder(tmp_path)["000"].depth, depth / 2)
    np.testing.assert_allclose(FrameFolder(tmp_path, depth_scale=1.0)["000"].depth, depth)
    with pytest.raises(FrameError, match="depth_scale must be positive"):
        FrameFolder(tmp_path, depth_scale=-1.0)["000"]


@pytest.mark.parametrize("kind", ["rgb", "depth", "mask"])
@pytest.mark.parametrize("keep", [0.0, 0.02, 0.5, 0.99])
def test_truncated_picture_is_named(tmp_path: Path, kind: str, keep: float) -> None:
    """OpenCV alone returns a partly blank picture for some of these."""
    write_flat(tmp_path)
    path = tmp_path / f"000.{kind}.png"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(FrameError, match=rf"000\.{kind}\.png cannot be used: it is (truncated|not a PNG)"):
        FrameFolder(tmp_path)["000"]


def test_damaged_picture_is_named(tmp_path: Path) -> None:
    write_flat(tmp_path)
    path = tmp_path / "000.depth.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(
        FrameError, match=r"000\.depth\.png cannot be used: it is damaged: wrong checksum in its IDAT"
    ):
        FrameFolder(tmp_path)["000"]


def test_truncated_jpeg_is_named(tmp_path: Path) -> None:
    write_flat(tmp_path)
    (tmp_path / "000.rgb.png").unlink()
    path = tmp_path / "000.rgb.jpg"
    cv2.imwrite(str(path), pictures()[0])
    assert FrameFolder(tmp_path)["000"].rgb.shape == (H, W, 3)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(FrameError, match=r"000\.rgb\.jpg cannot be used: it is truncated"):
        FrameFolder(tmp_path)["000"]


@pytest.mark.parametrize(
    ("kind", "picture", "message"),
    [
        ("rgb", np.zeros((H, W), np.uint16), "8 bits per channel, got 16"),
        ("depth", np.zeros((H, W), np.uint8), "16-bit grey depth picture, got uint8"),
        ("depth", np.zeros((H, W, 3), np.uint16), "16-bit grey depth picture"),
        ("depth", np.full((H, W + 1), 500, np.uint16), "depth must have the size of rgb"),
        ("depth", np.zeros((H, W), np.uint16), "no valid pixel"),
        ("mask", np.zeros((H, W, 3), np.uint8), "one channel of instance ids"),
        ("mask", np.zeros((H, W), np.uint8), "mask holds no object"),
    ],
)
def test_wrong_picture_is_named(tmp_path: Path, kind: str, picture: np.ndarray, message: str) -> None:
    write_flat(tmp_path)
    cv2.imwrite(str(tmp_path / f"000.{kind}.png"), picture)
    with pytest.raises(FrameError, match=message) as caught:
        FrameFolder(tmp_path)["000"]
    assert str(tmp_path / "000") in str(caught.value)


def test_wrong_npy_is_named(tmp_path: Path) -> None:
    write_flat(tmp_path)
    depth = tmp_path / "depth.npy"
    depth.write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(FrameError, match=r"depth\.npy cannot be read as \.npy"):
        read_frame(tmp_path / "000.rgb.png", depth, MATRIX)
    np.save(depth, np.zeros((H, W), np.int64))
    with pytest.raises(FrameError, match=r"depth\.npy: expected float32 or uint16 millimetres, got int64"):
        read_frame(tmp_path / "000.rgb.png", depth, MATRIX)


def test_missing_and_incomplete_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="does not exist"):
        FrameFolder(tmp_path / "nowhere")
    with pytest.raises(FrameError, match="holds no frame"):
        FrameFolder(tmp_path)
    write_flat(tmp_path)
    with pytest.raises(FrameError, match="no frame '7'; it has: 000"):
        FrameFolder(tmp_path)["7"]
    (tmp_path / "000.depth.png").rename(tmp_path / "001.depth.png")
    with pytest.raises(FrameError, match=r"depth without rgb picture for frame\(s\) 001"):
        FrameFolder(tmp_path)
    (tmp_path / "001.depth.png").unlink()
    with pytest.raises(FrameError, match=r"rgb without depth picture for frame\(s\) 000"):
        FrameFolder(tmp_path)
    with pytest.raises(FrameError, match=r"000\.depth\.png cannot be read: No such file"):
        read_frame(tmp_path / "000.rgb.png", tmp_path / "000.depth.png", MATRIX)


def test_intrinsics_of_another_resolution_are_refused(tmp_path: Path) -> None:
    write_flat(tmp_path)
    (tmp_path / "camera.json").write_text(json.dumps({**K, "width": 1280, "height": 720}))
    with pytest.raises(FrameError, match="is 56x40 pixels, its camera file is for 1280x720"):
        FrameFolder(tmp_path)["000"]


@pytest.mark.parametrize(
    "content",
    [
        K,
        {"fx": 50.0, "fy": 51.0, "ppx": 27.5, "ppy": 19.5},
        {"intrinsics": K},
        {"K": MATRIX.tolist()},
        {"cam_K": MATRIX.ravel().tolist(), "depth_scale": 0.1},
        {"camera_matrix": {"rows": 3, "cols": 3, "data": MATRIX.ravel().tolist()}},
        {"P": np.c_[MATRIX, np.zeros(3)].tolist()},
        {"left_k": [9.0] * 9, "left_p": np.c_[MATRIX, np.zeros(3)].ravel().tolist(), "depth_scale": 9441.2},
        {"K": [9.0] * 9, "projection_matrix": {"data": np.c_[MATRIX, np.zeros(3)].ravel().tolist()}},
        {"K": MATRIX.tolist(), "P": [0.0] * 12},
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_camera_formats(tmp_path: Path, content: dict[str, Any], suffix: str) -> None:
    import yaml

    path = tmp_path / f"camera{suffix}"
    path.write_text(json.dumps(content) if suffix == ".json" else yaml.safe_dump(content))
    camera = read_camera(path)
    np.testing.assert_array_equal(camera.intrinsics, MATRIX)
    assert camera.depth_scale == (0.1 if "cam_K" in content else None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"fx": 50', "not valid JSON"),
        ("[1, 2]", "must hold a mapping"),
        ('{"focal": 3}', "holds no intrinsics; expected fx, fy, cx, cy; .* it has: focal"),
        ('{"fx": 50, "fy": 50}', "no cx, cy"),
        ('{"fx": "wide", "fy": 1, "cx": 1, "cy": 1}', "not a number"),
        ('{"K": [1, 2, 3]}', "K must hold 3x3 numbers"),
        ('{"P": [1, 0, 0, -50, 0, 1, 0, 0, 0, 0, 1, 0]}', "stereo pair's second camera"),
        ('{"fx": 1, "fy": 1, "cx": 1, "cy": 1, "depth_scale": 0}', "depth_scale must be positive"),
    ],
)
def test_bad_camera_file_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "camera.json"
    path.write_text(content)
    with pytest.raises(FrameError, match=message) as caught:
        read_camera(path)
    assert str(path) in str(caught.value)


def test_distortion_beside_a_raw_matrix_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "camera.json"
    path.write_text(json.dumps({"K": MATRIX.tolist(), "D": [0.1, 0, 0, 0, 0]}))
    read_camera(path)
    assert "distortion" in caplog.text
