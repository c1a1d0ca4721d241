"""The recovery of a camera, in simulated time: stalls, unplugging, wrong links, permission, firmware."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.runtime.camera.backend import DeviceFault, DeviceInfo, SetupFault
from zerograsp_edge.runtime.camera.recovery import RecoveryConfig, State, Supervisor
from zerograsp_edge.runtime.errors import ConfigError

from .conftest import D435, FakeBackend, FakeClock, refuse, run

OTHER = DeviceInfo("222", "Intel RealSense D405", usb="3.2")


def supervised(backend: FakeBackend, **options: object) -> Supervisor:
    return Supervisor(backend, backend.clock, **options)  # type: ignore[arg-type]


def test_frames_flow(backend: FakeBackend) -> None:
    supervisor = supervised(backend)
    delivered = run(supervisor, 10)
    assert len(delivered) == pytest.approx(300, abs=2)
    assert [c.depth.stamp.number for c in delivered if c.depth] == list(range(1, len(delivered) + 1))
    assert supervisor.trouble == "" and backend.calls() == ["start"]
    assert supervisor.counters.stalls == supervisor.counters.lost == 0


def test_warm_up_is_left_out_after_every_start(backend: FakeBackend) -> None:
    supervisor = supervised(backend, warm_up=15)
    first = next(c for c in run(supervisor, 2))
    assert first.depth is not None and first.depth.stamp.number == 16
    backend.silent = True
    backend.on_start = lambda: setattr(backend, "silent", False)
    delivered = run(supervisor, 5)
    assert min(c.depth.stamp.number for c in delivered if c.depth) == 16
    assert supervisor.counters.warm_up == 30


@pytest.mark.parametrize("phase", [0.0, 0.013, 0.05, 0.099])
def test_a_stall_is_noticed_within_a_second(backend: FakeBackend, phase: float) -> None:
    supervisor = supervised(backend)
    run(supervisor, 2 + phase)
    backend.silent, began = True, backend.clock.now()
    run(supervisor, 5, until=lambda: supervisor.counters.stalls > 0)
    assert backend.clock.now() - began < 1.0
    assert "no frame for 0.6 s" in supervisor.trouble and "111" in supervisor.trouble


def test_a_stall_is_cured_by_a_restart(backend: FakeBackend) -> None:
    supervisor = supervised(backend)
    run(supervisor, 2)
    backend.silent = True
    backend.on_start = lambda: setattr(backend, "silent", False)
    delivered = run(supervisor, 3)
    assert len(delivered) > 60 and supervisor.trouble == ""
    assert backend.calls() == ["start", "start"]
    assert (supervisor.counters.stalls, supervisor.counters.restarts, supervisor.counters.resets) == (1, 1, 0)


def test_then_by_a_reset_after_which_the_device_comes_back(backend: FakeBackend) -> None:
    supervisor = supervised(backend)
    run(supervisor, 2)
    backend.silent = True
    back: list[float] = []

    def reset() -> None:
        backend.connected, backend.silent = [], False
        back.append(backend.clock.now() + 3)

    def devices() -> None:
        if back and backend.clock.now() >= back[0]:
            backend.connected = [D435]

    backend.on_reset, backend.on_devices = reset, devices
    delivered = run(supervisor, 15)
    assert backend.calls() == ["start", "start", "reset", "start"]
    assert backend.log[-1][0] >= back[0]  # not opened while it was away
    assert len(delivered) > 60 and supervisor.state is State.STREAMING
    assert supervisor.counters.unplugged == 0 and supervisor.counters.resets == 1


def test_at_last_it_is_given_up_with_what_to_do(backend: FakeBackend) -> None:
    supervisor = supervised(backend, config=RecoveryConfig(restarts=2, resets=1))
    run(supervisor, 2)
    backend.silent = True
    delivered = run(supervisor, 120)
    assert delivered == [] and supervisor.state is State.FAILED
    assert backend.calls() == ["start"] * 3 + ["reset", "start"]
    for word in ("111", "unplug", "dmesg", "rs-fw-update", "2 restart(s)"):
        assert word in supervisor.trouble
    assert backend.device is None  # nothing is left open


def test_a_camera_that_was_given_up_resumes_after_replugging(backend: FakeBackend) -> None:
    supervisor = supervised(backend)
    backend.silent = True
    run(supervisor, 60)
    assert supervisor.state is State.FAILED
    backend.connected = []
    run(supervisor, 3)
    backend.connected, backend.silent = [D435], False
    assert len(run(supervisor, 5)) > 60
    assert supervisor.state is State.STREAMING and supervisor.trouble == ""


def test_unplugging_is_noticed_within_a_second_and_frames_resume(backend: FakeBackend) -> None:
    supervisor = supervised(backend)
    run(supervisor, 2)
    backend.connected, began = [], backend.clock.now()
    run(supervisor, 5, until=lambda: supervisor.state is State.UNPLUGGED)
    assert backend.clock.now() - began < 1.0
    assert "plug it in again" in supervisor.trouble
    assert run(supervisor, 3600) == []  # however long it takes
    assert supervisor.counters.stalls == 0 and supervisor.counters.unplugged == 1
    backend.connected, began = [D435], backend.clock.now()
    assert len(run(supervisor, 5)) > 60 and supervisor.trouble == ""


def test_a_driver_that_throws_when_the_device_vanishes(backend: FakeBackend) -> None:
    supervisor = supervised(backend)
    run(supervisor, 2)

    def pulled() -> None:
        backend.connected = []
        raise DeviceFault("No device connected")

    backend.on_wait = pulled
    run(supervisor, 1)
    assert supervisor.state is State.UNPLUGGED and backend.calls() == ["start"]


def test_another_camera_is_not_taken_for_the_one_that_was_unplugged(backend: FakeBackend) -> None:
    supervisor = supervised(backend)
    run(supervisor, 2)
    backend.connected = [OTHER]
    assert run(supervisor, 20) == []
    assert supervisor.state is State.UNPLUGGED
    backend.connected = [OTHER, D435]
    assert len(run(supervisor, 5)) > 60
    assert supervisor.device == D435


@pytest.mark.parametrize(
    ("connected", "serial", "words"),
    [
        ([], None, ("no RealSense camera", "USB 3", "doctor")),
        ([], "333", ("serial number 333", "plug it in")),
        ([D435, OTHER], None, ("found 2", "111", "222", "serial number")),
        ([D435, OTHER], "333", ("333", "111", "222")),
        ([replace(D435, recovery=True)], None, ("recovery mode", "rs-fw-update -r")),
    ],
)
def test_which_camera_is_meant(
    backend: FakeBackend, connected: list[DeviceInfo], serial: str | None, words: tuple[str, ...]
) -> None:
    backend.connected = connected
    supervisor = supervised(backend, serial=serial)
    run(supervisor, 1)
    assert supervisor.state is State.FAILED and backend.calls() == []
    assert all(word in supervisor.trouble for word in words), supervisor.trouble


def test_several_cameras_by_serial_number(clock: FakeClock) -> None:
    first, second = FakeBackend(clock, [D435, OTHER]), FakeBackend(clock, [D435, OTHER])
    supervisors = [Supervisor(first, clock, serial="222"), Supervisor(second, clock, serial="111")]
    for supervisor in supervisors:
        assert run(supervisor, 1)
    assert (first.device, second.device) == (OTHER, D435)


def test_missing_permission_is_no_reason_to_try_again(backend: FakeBackend) -> None:
    def refused() -> None:
        raise SetupFault("a D435 is connected, but this user may not open it; install the udev rules: sudo ...")

    backend.on_devices = refused
    supervisor = supervised(backend)
    run(supervisor, 60)
    assert supervisor.state is State.FAILED and "udev" in supervisor.trouble and backend.calls() == []
    # The rules are installed, and it is plugged in again.
    backend.on_devices, backend.connected = lambda: None, []
    run(supervisor, 2)
    backend.connected = [D435]
    assert len(run(supervisor, 5)) > 60


def test_replugged_into_a_slow_port(backend: FakeBackend) -> None:
    supervisor = supervised(backend)
    run(supervisor, 2)
    backend.connected = []
    run(supervisor, 2)
    backend.connected = [replace(D435, usb="2.1")]

    def no_profile() -> None:
        raise SetupFault("no depth stream 640x480 at 30 frames per second; it is on a USB 2.1 link: use a USB 3 port")

    backend.on_start = no_profile
    run(supervisor, 5)
    assert supervisor.state is State.FAILED and "USB 3 port" in supervisor.trouble
    backend.on_start, backend.connected = lambda: None, []
    run(supervisor, 2)
    backend.connected = [D435]
    assert len(run(supervisor, 5)) > 60


def test_a_stall_on_a_slow_link_is_explained_by_it(backend: FakeBackend) -> None:
    backend.connected, backend.silent = [replace(D435, usb="2.1")], True
    supervisor = supervised(backend)
    run(supervisor, 60)
    assert supervisor.state is State.FAILED and "USB 2.1" in supervisor.trouble


def test_firmware_that_does_not_answer(backend: FakeBackend) -> None:
    backend.on_start = refuse("hwmon command 0x10 failed; rs-fw-update ...")
    supervisor = supervised(backend)
    run(supervisor, 60)
    assert backend.calls() == ["start", "start", "reset", "start"]
    assert supervisor.state is State.FAILED and "hwmon" in supervisor.trouble


def test_a_reset_that_fails(backend: FakeBackend) -> None:
    backend.on_start, backend.on_reset = refuse("busy"), refuse("cannot be reset")
    supervisor = supervised(backend)
    run(supervisor, 60)
    assert supervisor.state is State.FAILED
    assert "busy" in supervisor.trouble and "cannot be reset" in supervisor.trouble


def test_a_device_that_never_comes_back_from_a_reset_counts_as_unplugged(backend: FakeBackend) -> None:
    backend.on_start = refuse("broken")
    supervisor = supervised(backend)
    run(supervisor, 0.5, until=lambda: bool(backend.calls()))
    backend.on_start, backend.silent = lambda: None, True
    backend.on_reset = lambda: setattr(backend, "connected", [])
    run(supervisor, 60)
    assert supervisor.state is State.UNPLUGGED and supervisor.counters.unplugged == 1
    backend.connected, backend.silent = [D435], False
    assert len(run(supervisor, 5)) > 60


def test_one_frame_does_not_end_a_series_of_failures(backend: FakeBackend) -> None:
    """A camera that stalls after its first frame each time is given up, not restarted for ever."""
    supervisor = supervised(backend)

    def once() -> None:
        backend.silent = backend.number >= 1

    backend.on_wait = once
    delivered = run(supervisor, 120)
    assert supervisor.state is State.FAILED and len(delivered) == 3


def test_frames_end_a_series_of_failures(backend: FakeBackend) -> None:
    """Stalls that lie far apart are each cured by a restart."""
    supervisor = supervised(backend)
    run(supervisor, 3)
    backend.on_start = lambda: setattr(backend, "silent", False)
    for _ in range(10):
        backend.silent = True
        assert len(run(supervisor, 3)) > 45
    assert supervisor.counters.stalls == supervisor.counters.restarts == 10 and "reset" not in backend.calls()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["silent", "unplug", "throw", "deaf"]), st.floats(0.05, 12)), max_size=6))
def test_whatever_happened_frames_resume_once_it_is_plugged_in_again(faults: list[tuple[str, float]]) -> None:
    clock = FakeClock()
    backend = FakeBackend(clock)
    supervisor = Supervisor(backend, clock)
    run(supervisor, 1)
    for kind, seconds in faults:
        if kind == "silent":
            backend.silent = True
        elif kind == "unplug":
            backend.connected = []
        elif kind == "throw":
            backend.on_wait = refuse("thrown")
        else:
            backend.on_start = refuse("deaf")
        run(supervisor, seconds)
        backend.silent, backend.connected = False, [D435]
        backend.on_wait = backend.on_start = lambda: None
        run(supervisor, 1)
    backend.connected = []
    run(supervisor, 20)
    backend.connected = [D435]
    assert len(run(supervisor, 20)) > 100
    assert supervisor.trouble == ""


@pytest.mark.parametrize("bad", [{"stall": 0.0}, {"stall": 1.5}, {"restarts": -1}, {"first_frame": float("inf")}])
def test_configuration_is_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        RecoveryConfig(**bad)  # type: ignore[arg-type]
