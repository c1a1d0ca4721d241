"""Masks from another process: what goes through, and that everything that goes wrong is a clear error in time."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.errors import ConfigError, FrameError, MissingExtra, NoObjectError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.segmentation import mask_publisher
from zerograsp_edge.runtime.segmentation.external import (
    ExternalConfig,
    ExternalSegmenter,
    MaskSource,
    SharedMemoryMasks,
    ZmqMasks,
)
from zerograsp_edge.runtime.segmentation.folder import FolderSegmenter
from zerograsp_edge.runtime.segmentation.mask_message import (
    HEADER,
    RING,
    MaskError,
    checked_mask,
    decode,
    encode,
)
from zerograsp_edge.runtime.segmentation.mask_publisher import MaskPublisher, ZmqMaskPublisher

SHAPE = (60, 80)
K = np.array([[80, 0, 39.5], [0, 80, 29.5], [0, 0, 1]], np.float32)
QUICK = ExternalConfig(timeout=0.15)
PATIENT = ExternalConfig(timeout=20)

_LONG_AGO = itertools.count(-1_000_000)

Publisher = MaskPublisher | ZmqMaskPublisher


def frame(timestamp: float, shape: tuple[int, int] = SHAPE) -> Frame:
    return Frame(np.full((*shape, 3), 90, np.uint8), np.full(shape, 700, np.float32), K, timestamp=timestamp)


def masks(value: int = 3) -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint16)
    mask[10:30, 20:50] = value
    return mask


@pytest.fixture
def name() -> Iterator[str]:
    name = f"zerograsp-test-{os.getpid()}-{time.monotonic_ns():x}"
    yield name
    Path(f"/dev/shm/{name}").unlink(missing_ok=True)


@pytest.fixture(params=["shared memory", "zmq"])
def channel(
    request: pytest.FixtureRequest, name: str, tmp_path: Path
) -> tuple[Callable[[], Publisher], Callable[[], MaskSource]]:
    """Makers of the two ends."""
    if request.param == "shared memory":
        return lambda: MaskPublisher(name, max_pixels=80 * 60), lambda: SharedMemoryMasks(name)
    pytest.importorskip("zmq", reason="needs the extra `zmq`")
    address = f"ipc://{tmp_path}/masks"
    return lambda: ZmqMaskPublisher(address), lambda: ZmqMasks(address)


def connected(publisher: Publisher, segment: ExternalSegmenter) -> None:
    """Publishes until the segmenter hears it: what is sent before a ZeroMQ subscription has arrived is lost."""
    quick = ExternalSegmenter(segment._source, ExternalConfig(timeout=0.02))
    for _ in range(1000):
        timestamp = next(_LONG_AGO)  # never twice: masks of an earlier publisher must not answer
        publisher.publish(masks(), timestamp)
        try:
            quick(frame(timestamp))
        except MaskError:
            continue
        return
    pytest.fail("the two ends do not find each other")


def test_masks_arrive_with_their_frame(channel: Any) -> None:
    make_publisher, make_source = channel
    with make_publisher() as publisher, ExternalSegmenter(make_source(), PATIENT) as segment:
        connected(publisher, segment)
        for i in range(5):
            publisher.publish(masks(10 + i), 5.0 + i / 30)
            found = segment(frame(5.0 + i / 30))
            np.testing.assert_array_equal(found.mask, masks(10 + i))
            assert found.mask.dtype == np.int32 and found.object_ids == (10 + i,)
            assert "wait" in found.timings and found.planes == ()
        # A frame that comes a little late still finds its own.
        assert segment(frame(5.0 + 3 / 30)).object_ids == (13,)
        segment.reset()


def test_a_frame_waits_for_its_masks(channel: Any) -> None:
    make_publisher, make_source = channel
    with make_publisher() as publisher, ExternalSegmenter(make_source(), PATIENT) as segment:
        connected(publisher, segment)
        publisher.publish(masks(1), 7.0)
        later = threading.Timer(0.1, lambda: publisher.publish(masks(2), 8.0))
        later.start()
        assert segment(frame(8.0)).object_ids == (2,)
        later.join()


def test_an_empty_mask_is_an_empty_scene_and_nothing_else_is(channel: Any) -> None:
    make_publisher, make_source = channel
    with make_publisher() as publisher, ExternalSegmenter(make_source(), QUICK) as segment:
        connected(publisher, segment)
        publisher.publish(np.zeros(SHAPE, bool), 9.0)
        pipeline = Pipeline(load_bundle(EDGE_MODEL), threads=1, segmenter=segment)
        with pytest.raises(NoObjectError):
            pipeline(frame(9.0))
        with pytest.raises(MaskError) as raised:
            pipeline(frame(10.0))
        assert not isinstance(raised.value, NoObjectError | FrameError)


def test_no_publisher(channel: Any) -> None:
    _, make_source = channel
    with ExternalSegmenter(make_source(), QUICK) as segment, pytest.raises(
        MaskError, match=r"no masks for frame 'frame' \(timestamp 1\.5.* within 0\.15 s: (there is no|nothing was) publ"
    ):  # fmt: skip
        segment(frame(1.5))


def test_a_publisher_that_closes_and_restarts(channel: Any) -> None:
    make_publisher, make_source = channel
    with ExternalSegmenter(make_source(), QUICK) as segment:
        for start in (3.0, 1.0):  # the second one's clock begins anew
            with make_publisher() as publisher:
                connected(publisher, segment)
                publisher.publish(masks(4), start)
                patient = ExternalSegmenter(segment._source, PATIENT)
                assert patient(frame(start)).object_ids == (4,)
            with pytest.raises(MaskError, match="no masks for frame"):
                segment(frame(start + 1))


@pytest.mark.parametrize(
    ("published", "asked", "message"),
    [
        (4.0, 9.0, r"the newest are of a frame 5\.000 s earlier"),
        (9.0, 4.0, r"the oldest there are of a frame 5\.000 s later; are both clocks the camera's\?"),
        (4.0, 4.01, "the newest are of a frame 0.010 s earlier"),
    ],
)
def test_masks_of_another_frame_are_not_used(
    name: str, published: float, asked: float, message: str
) -> None:
    with MaskPublisher(name) as publisher, ExternalSegmenter(SharedMemoryMasks(name), QUICK) as segment:
        publisher.publish(masks(), published)
        with pytest.raises(MaskError, match=message):
            segment(frame(asked))


@pytest.mark.parametrize(
    ("offset", "message"),
    [(-60, r"stale: published 60\.\d s ago, at most 2 s are allowed"), (60, "in the future: the clocks .* differ")],
)
def test_masks_of_another_run_are_stale(
    channel: Any, monkeypatch: pytest.MonkeyPatch, offset: float, message: str
) -> None:
    make_publisher, make_source = channel
    with make_publisher() as publisher, ExternalSegmenter(make_source(), QUICK) as segment:
        connected(publisher, segment)
        now = time.time()
        monkeypatch.setattr(mask_publisher.time, "time", lambda: now + offset)
        publisher.publish(masks(), 2e6)
        monkeypatch.setattr(mask_publisher.time, "time", lambda: now)
        with pytest.raises(MaskError, match=message):
            segment(frame(2e6))


def test_masks_of_another_size_are_refused(channel: Any) -> None:
    make_publisher, make_source = channel
    with make_publisher() as publisher, ExternalSegmenter(make_source(), PATIENT) as segment:
        connected(publisher, segment)
        publisher.publish(masks().T[:50], 3.0)
        with pytest.raises(MaskError, match="expected masks of the frame's size, 80x60, got 60x50"):
            segment(frame(3.0))


# --- a publisher that dies ---

_LOOP = """
    import sys, time
    import numpy as np
    from zerograsp_edge.runtime.segmentation.mask_publisher import MaskPublisher
    publisher = MaskPublisher(sys.argv[1], max_pixels=80 * 60)
    mask = np.zeros((60, 80), np.uint16)
    number = 0
    while True:
        number += 1
        mask[:] = number
        publisher.publish(mask, float(number))
        if number == 100:
            print("running", flush=True)
"""


def started(program: str, name: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), name], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline().strip() == "running"
    return process


def test_no_torn_masks_while_another_process_writes(name: str) -> None:
    process = started(_LOOP, name)
    source = SharedMemoryMasks(name)
    read = torn = 0
    try:
        while read < 300:
            for header in source.headers():
                try:
                    message = source.read(header)
                except MaskError:
                    torn += 1
                    continue
                read += 1
                assert np.unique(message.mask).tolist() == [message.header.sequence % 65536]
                assert message.header.timestamp == message.header.sequence
    finally:
        process.kill()
        process.wait()
        source.close()
    assert read >= 300, f"{torn} torn"


def test_a_killed_publisher_is_an_error_and_its_successor_is_found(name: str) -> None:
    process = started(_LOOP, name)
    with ExternalSegmenter(SharedMemoryMasks(name), QUICK) as segment:
        assert segment._source.headers() or segment._source.headers()
        process.send_signal(signal.SIGKILL)
        process.wait()
        with pytest.raises(MaskError, match="earlier"):
            segment(frame(1e12))
        with MaskPublisher(name) as publisher:
            publisher.publish(masks(6), 1.0)
            assert segment(frame(1.0)).object_ids == (6,)
        with pytest.raises(MaskError, match="there is no publisher"):
            segment(frame(2.0))


def test_the_memory_outlives_its_readers(name: str) -> None:
    with MaskPublisher(name) as publisher:
        publisher.publish(masks(), 1.0)
        program = """
            import sys
            from zerograsp_edge.runtime.segmentation.external import SharedMemoryMasks
            assert len(SharedMemoryMasks(sys.argv[1]).headers()) == 1
        """
        for _ in range(2):
            subprocess.run([sys.executable, "-c", textwrap.dedent(program), name], check=True)


def test_the_memory_is_what_multiprocessing_calls_shared(name: str) -> None:
    with MaskPublisher(name, max_pixels=80 * 60, slots=2) as publisher:
        publisher.publish(masks(9), 4.0)
        other = shared_memory.SharedMemory(name)
        try:
            slot = RING.unpack(bytes(other.buf[: RING.size]))[3]
            at = RING.size + slot  # message 1
            message = decode(bytes(other.buf[at : at + HEADER.size + masks(9).astype(np.uint8).nbytes]))
            np.testing.assert_array_equal(message.mask, masks(9))
        finally:
            other.close()


def test_a_name_has_one_publisher(name: str) -> None:
    with MaskPublisher(name) as publisher:
        with pytest.raises(MaskError, match=rf"process {os.getpid()} publishes masks as '{name}'"):
            MaskPublisher(name)
        publisher.publish(masks(), 1.0)
        assert ExternalSegmenter(SharedMemoryMasks(name), QUICK)(frame(1.0)).object_ids == (3,)
    publisher.close()
    with pytest.raises(MaskError, match="this publisher is closed"):
        publisher.publish(masks(), 2.0)
    assert not [path for path in os.listdir("/dev/shm") if name in path]


def test_memory_of_something_else_is_left_alone(name: str) -> None:
    path = Path(f"/dev/shm/{name}")
    path.write_bytes(b"something else" * 100)
    with pytest.raises(MaskError, match="is not a publisher's of masks; choose another name, or remove"):
        MaskPublisher(name)
    with pytest.raises(MaskError, match=r"expected a publisher's of masks, got something else \(1400 bytes"):
        ExternalSegmenter(SharedMemoryMasks(name), QUICK)(frame(1.0))
    assert path.read_bytes().startswith(b"something else")
    path.write_bytes(b"")
    with pytest.raises(MaskError, match="the memory is empty"):
        ExternalSegmenter(SharedMemoryMasks(name), QUICK)(frame(1.0))


def test_memory_that_does_not_fit_is_an_error_and_leaves_nothing(name: str) -> None:
    with pytest.raises(MaskError, match="MB to be free"):
        MaskPublisher(name, max_pixels=1 << 40)
    assert not [path for path in os.listdir("/dev/shm") if name in path]
    with pytest.raises(ValueError, match="expected up to 4800 pixels, got 4880"), MaskPublisher(
        name, max_pixels=4800
    ) as publisher:  # fmt: skip
        publisher.publish(np.full((61, 80), 1 << 20), 1.0)


# --- damaged messages ---


def slot_of(publisher: MaskPublisher, sequence: int) -> int:
    return RING.size + sequence % publisher._slots * publisher._slot


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at, memory: memory.seek(at + 500) or memory.write(b"\xff"), "checksum is wrong: half-written"),
        (lambda at, memory: memory.seek(at) or memory.write(bytes(HEADER.size)), "nothing was published"),
        (lambda at, memory: memory.seek(at) or memory.write(b"garbage!" * 8), "refused: expected a message that be"),
        (lambda at, memory: memory.seek(at + 48) or memory.write(b"\xff" * 8), "refused: expected element type"),
        (lambda at, memory: memory.seek(at + 48) or memory.write(b"\xf0\x00\x00\x00"), "checksum is wrong"),
        (lambda at, memory: memory.seek(at + 16) or memory.write(b"\x07"), "refused: slot 1 holds message 7"),
        (lambda at, memory: memory.seek(at + 32) or memory.write(b"\x01"), "checksum is wrong"),
    ],
    ids=["payload", "being written", "garbage", "size", "height", "sequence", "timestamp"],
)
def test_a_message_that_is_damaged_or_half_written(name: str, damage: Any, message: str) -> None:
    with MaskPublisher(name, max_pixels=320 * 240) as publisher:
        publisher.publish(masks(), 1.0)
        with ExternalSegmenter(SharedMemoryMasks(name), QUICK) as segment:
            assert segment(frame(1.0)).object_ids == (3,)
            damage(slot_of(publisher, 1), publisher._map)
            with pytest.raises(MaskError, match=message):
                segment(frame(1.0))
            publisher.publish(masks(5), 2.0)
            assert segment(frame(2.0)).object_ids == (5,), "the next one is whole"


def test_a_publisher_that_dies_while_it_writes(name: str) -> None:
    with MaskPublisher(name, slots=2) as publisher, ExternalSegmenter(SharedMemoryMasks(name), QUICK) as segment:
        publisher.publish(masks(1), 1.0)
        publisher.publish(masks(2), 2.0)
        # The third: its header is gone, half of its mask is there.
        at = slot_of(publisher, 3)
        publisher._map[at : at + HEADER.size] = bytes(HEADER.size)
        publisher._map[at + HEADER.size : at + HEADER.size + 1000] = b"\x09" * 1000
        with pytest.raises(MaskError, match=r"the newest are of a frame 1\.000 s earlier"):
            segment(frame(3.0))
        assert segment(frame(2.0)).object_ids == (2,)


def test_garbage_over_zmq_is_said_and_does_not_hide_masks(tmp_path: Path) -> None:
    zmq = pytest.importorskip("zmq", reason="needs the extra `zmq`")
    address = f"ipc://{tmp_path}/masks"
    with ZmqMaskPublisher(address) as publisher, ExternalSegmenter(ZmqMasks(address), QUICK) as segment:
        connected(publisher, segment)
        header, payload = encode(checked_mask(masks(8)), 1, publisher._id, 3e6, time.time())
        whole = header + bytes(payload)
        for garbage, message in (
            ([b""], "expected a message of at least 64 bytes, got 0"),
            ([b"x" * 5000], "expected a message that begins with"),
            ([whole[:-100]], "half a message: expected 4864 bytes for its size, got 4764"),
            ([whole, whole], "expected messages of one part, got 2"),
            ([whole[:-1] + b"\x01"], "a message whose checksum is wrong"),
        ):
            publisher._socket.send_multipart(garbage)
            with pytest.raises(MaskError, match=f"refused: {message}"):
                segment(frame(3e6))
        publisher._socket.send(whole)
        publisher._socket.send(b"garbage")
        assert segment(frame(3e6)).object_ids == (8,)
    assert zmq.zmq_version_info() >= (4,)


def test_addresses_are_checked(name: str) -> None:
    pytest.importorskip("zmq", reason="needs the extra `zmq`")
    with pytest.raises(MaskError, match="cannot connect"):
        ZmqMasks("nonsense")
    with pytest.raises(MaskError, match="cannot publish masks at nonsense"):
        ZmqMaskPublisher("nonsense")
    for wrong in ("", "a/b"):
        with pytest.raises(ConfigError, match="expected a name without '/'"):
            SharedMemoryMasks(wrong)
    with pytest.raises(ConfigError, match="timeout"):
        ExternalConfig(timeout=-1)
    with pytest.raises(ConfigError, match="slots"):
        MaskPublisher(name, slots=1)


def test_without_pyzmq_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zmq", None)
    with pytest.raises(MissingExtra, match=r"zerograsp-edge\[zmq\]"):
        ZmqMasks("tcp://127.0.0.1:5555")


@given(st.binary(max_size=300))
@example(b"ZGMASKS1")
def test_garbage_is_never_anything_but_a_mask_error(data: bytes) -> None:
    with pytest.raises(MaskError):
        decode(data)
    with pytest.raises(MaskError):
        decode(b"ZGMASKS1" + data)


@given(st.data())
def test_any_changed_or_missing_byte_is_noticed(data: st.DataObject) -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    header, payload = encode(mask, 5, 6, 7.0, 8.0)
    whole = header + bytes(payload)
    np.testing.assert_array_equal(decode(whole).mask, mask)
    at = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    with pytest.raises(MaskError):
        decode(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
    with pytest.raises(MaskError):
        decode(whole[:at])


@given(st.sampled_from([np.uint8, np.uint16, np.int32, np.int64, np.uint32]), st.integers(0, 2**31 - 1))
def test_ids_of_every_integer_type_arrive(dtype: Any, highest: int) -> None:
    highest = min(highest, int(np.iinfo(dtype).max))
    mask = np.array([[0, 1, highest]], dtype)
    header, payload = encode(checked_mask(mask), 1, 2, 3.0, 4.0)
    np.testing.assert_array_equal(decode(header + bytes(payload)).mask, mask.astype(np.int64))


@pytest.mark.parametrize(
    "mask",
    [np.zeros((2, 2, 3), np.uint8), np.zeros((0, 3), int), np.ones((2, 2)), np.full((2, 2), -1), [[1]],
     np.full((2, 2), 1 << 31)],
)  # fmt: skip
def test_what_is_no_mask_is_not_published(name: str, mask: Any) -> None:
    with MaskPublisher(name) as publisher:
        with pytest.raises(ValueError, match="mask: expected"):
            publisher.publish(mask, 1.0)
        with pytest.raises(ValueError, match="timestamp"):
            publisher.publish(masks(), float("nan"))
        assert SharedMemoryMasks(name).headers() == []


def test_the_publisher_needs_nothing_heavy() -> None:
    program = "import sys, zerograsp_edge.runtime.segmentation.mask_publisher; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"cv2", "onnxruntime", "scipy", "torch", "yaml", "rich", "tyro", "zmq", "zerograsp_edge.kernels"}
    assert not set(done.stdout.split()) & heavy


# --- folders, and the command line ---


@pytest.fixture
def mask_folder(tmp_path: Path) -> Path:
    import cv2

    folder = tmp_path / "masks"
    folder.mkdir()
    cv2.imwrite(str(folder / "frame.mask.png"), masks(7))
    np.save(folder / "negative.mask.npy", np.full(SHAPE, -1))
    np.save(folder / "floats.mask.npy", np.zeros(SHAPE))
    cv2.imwrite(str(folder / "small.mask.png"), masks()[:20])
    return folder


def test_masks_from_a_folder(mask_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    segment = FolderSegmenter(mask_folder)
    found = segment(frame(0.0))
    np.testing.assert_array_equal(found.mask, masks(7))
    segment.reset()
    for name, message in (
        ("other", "has no mask for frame 'other'; it has: .*frame"),
        ("small", r"expected \(height, width\) \(60, 80\) integer ids for frame 'small', got uint16 of .*\(20, 80\)"),
        ("negative", r"expected ids from 0 \(the background\) to 2\^31 - 1, got -1 to -1"),
        ("floats", "integer ids for frame 'floats', got float64"),
    ):
        some = frame(0.0)
        object.__setattr__(some, "name", name)
        with pytest.raises(MaskError, match=message):
            segment(some)
    with pytest.raises(MaskError, match="holds no masks"):
        FolderSegmenter(tmp_path / "empty")
    with pytest.raises(FrameError, match="does not exist"):
        FolderSegmenter(tmp_path / "nothing")


def two_boxes() -> Frame:
    depth = np.full((240, 320), 700, np.float32)
    mask = np.zeros((240, 320), int)
    depth[80:140, 60:120], mask[80:140, 60:120] = 640, 1
    k = np.array([[300, 0, 159.5], [0, 300, 119.5], [0, 0, 1]], np.float32)
    return Frame(np.full((240, 320, 3), 90, np.uint8), depth, k, mask)


def test_run_takes_masks_from_everywhere(
    frame_files: Callable[..., list[str]], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = two_boxes()
    options = frame_files(scene, tmp_path / "frames")
    at = options.index("--mask")
    (tmp_path / "masks").mkdir()
    Path(options[at + 1]).rename(tmp_path / "masks" / "scene.mask.png")
    options = ["run", *options[:at], *options[at + 2 :], "--out", str(tmp_path / "out"), "--no-mesh", "--threads", "1"]
    assert main([*options, "--segment", f"folder:{tmp_path / 'masks'}"]) == 0
    said = "".join(capsys.readouterr().out.split())
    assert "segmentedbymasksin" in said and "1object" in said and "plane" not in said
    assert main([*options, "--segment", f"shm:{name}"]) == 1
    assert "there is no publisher" in capsys.readouterr().err
    stop = threading.Event()
    with MaskPublisher(name) as publisher:

        def publish() -> None:
            while not stop.is_set():
                publisher.publish(scene.mask, 0.0)
                time.sleep(0.01)

        thread = threading.Thread(target=publish)
        thread.start()
        try:
            assert main([*options, "--segment", f"shm:{name}"]) == 0
        finally:
            stop.set()
            thread.join()
    assert f"segmented by shared memory '{name}'".replace(" ", "") in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("nonsense", "--segment: expected geometric, none, sam2:BUNDLE"),
        ("sam2:", "--segment: expected"),
        ("sam2:nothing.zgb", "no bundle at nothing.zgb: make one with `zerograsp-edge export-sam2"),
        ("folder:nothing", "nothing does not exist"),
    ],
)
def test_a_wrong_choice_is_one_line(
    frame_files: Callable[..., list[str]], choice: str, message: str, failing_command: Callable[[list[str]], str]
) -> None:
    assert message in failing_command(["run", *frame_files(two_boxes()), "--segment", choice])
