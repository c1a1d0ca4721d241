"""Keeps a camera streaming: notices that it stalls or vanishes, restarts it, resets it, waits for it to be plugged in.

    OPENING -> STREAMING -> (nothing for `stall` s) -> OPENING, at most `restarts` times
                                                    -> RESETTING -> OPENING, at most `resets` times
                                                    -> FAILED, with the reason and what to do
               (gone)    -> UNPLUGGED -> OPENING once it is there again; so does FAILED after it was unplugged

No threads and no clock of its own: `step` is called over and over, and waits in the backend or by the clock that it
was given.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum

from zerograsp_edge.runtime.camera.backend import Backend, DeviceFault, DeviceInfo, SetupFault, choose_device
from zerograsp_edge.runtime.camera.base import CameraCounters
from zerograsp_edge.runtime.camera.capture import Capture, Clock, Streams
from zerograsp_edge.runtime.camera.vetting import Vetting
from zerograsp_edge.runtime.errors import CameraError, ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecoveryConfig:
    """When a camera counts as failed, and what is tried; times in s.

    Attributes:
        stall: nothing for longer than this is a stall; at most 1, so that it is noticed within a second.
        first_frame: the same, for the first frame after the streams were started.
        restarts: of the streams, one after the other, before the hardware is reset.
        resets: of the hardware, before the camera is given up.
        back_after_reset: the device must be there again within this time.
        settle: after the device has come back, before it is opened.
        healthy: frames after which an attempt counts as successful and the count starts anew.
    """

    stall: float = 0.6
    first_frame: float = 5.0
    restarts: int = 1
    resets: int = 1
    back_after_reset: float = 10.0
    settle: float = 1.0
    healthy: int = 30

    def __post_init__(self) -> None:
        if not 0 < self.stall <= 1:
            raise ConfigError(f"recovery.stall must lie in (0, 1] s, got {self.stall:g}")
        for name in ("first_frame", "back_after_reset", "settle"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"recovery.{name} must be a time in s, got {getattr(self, name):g}")
        for name in ("restarts", "resets", "healthy"):
            if getattr(self, name) < 0:
                raise ConfigError(f"recovery.{name} must not be negative, got {getattr(self, name)}")


class State(Enum):
    OPENING = "opening"
    STREAMING = "streaming"
    RESETTING = "resetting"
    UNPLUGGED = "unplugged"
    FAILED = "failed"


# Longest wait for a frame within one step, s: how soon `close` is obeyed.
_POLL = 0.1
# And the shortest: less does not move a clock.
_SHORTEST = 0.001
# Between two looks at what is connected, s: each asks the whole bus.
_LOOK = 0.5


class Supervisor:
    """The state machine of one camera.

    Args:
        serial: which camera; None: the only one. Once one was opened, it is that one.
        warm_up: captures to leave out after every start, while the exposure settles.

    Attributes:
        state: where it stands.
        trouble: why there are no frames; empty while there are. Says what to do.
        streams: of the present run.
        counters: of everything, kept over restarts.
    """

    def __init__(
        self,
        backend: Backend,
        clock: Clock,
        config: RecoveryConfig | None = None,
        serial: str | None = None,
        warm_up: int = 0,
    ) -> None:
        self.backend, self.clock, self.config = backend, clock, config or RecoveryConfig()
        self.state = State.OPENING
        self.trouble = ""
        self.streams: Streams | None = None
        self.counters = CameraCounters()
        self.device: DeviceInfo | None = None
        self._serial, self._warm_up = serial, warm_up
        self._vetting: Vetting | None = None
        self._attempts = 0
        self._delivered = 0
        self._last_arrival = 0.0
        self._deadline = 0.0
        self._vanished = False

    def step(self) -> Capture | None:
        """Do the next thing; returns a capture that may become a frame, or None.

        Raises:
            EndOfFrames: of a finite source.
        """
        if self.state is State.STREAMING:
            return self._stream()
        if self.state is State.OPENING:
            self._open()
        elif self.state is State.RESETTING:
            self._await_reset()
        else:
            self._await_plug()
        return None

    def close(self) -> None:
        self.backend.stop()

    def _open(self) -> None:
        try:
            device = self._find()
            if device is None:
                self._unplug()
                return
            self.streams = self.backend.start(device)
        except SetupFault as fault:
            self._fail(str(fault))
            return
        except DeviceFault as fault:
            self._recover(str(fault))
            return
        self.device, self._serial = device, device.serial
        self._vetting = Vetting(self.streams.depth_shape, self.streams.colour_shape, self.counters)
        self._delivered = 0
        self._last_arrival = self.clock.now()
        self.state = State.STREAMING

    def _find(self) -> DeviceInfo | None:
        devices = self.backend.devices()
        if self.device is not None:  # it is known: other cameras that are there say nothing about it
            devices = [device for device in devices if device.serial == self.device.serial]
        return choose_device(devices, self._serial)

    def _stream(self) -> Capture | None:
        allowed = self.config.stall if self._delivered else max(self.config.first_frame, self.config.stall)
        silent = self.clock.now() - self._last_arrival
        try:
            capture = self.backend.wait(max(min(_POLL, allowed - silent), _SHORTEST))
        except DeviceFault as fault:
            if self._is_there():
                self._recover(str(fault))
            else:
                self._unplug()
            return None
        if capture is None:
            if self.clock.now() - self._last_arrival >= allowed:
                self._stalled(allowed)
            return None
        self._last_arrival = self.clock.now()
        self._delivered += 1
        if self._delivered >= self.config.healthy:
            self._attempts = 0
        assert self._vetting is not None
        capture = self._vetting.accept(capture)
        if capture is None:
            return None
        if self._warm_up and self._delivered <= self._warm_up:
            self.counters.warm_up += 1
            return None
        self.trouble = ""
        return capture

    def _stalled(self, allowed: float) -> None:
        if not self._is_there():
            self._unplug()
            return
        self.counters.stalls += 1
        self._recover(f"no frame for {allowed:g} s")

    def _is_there(self) -> bool:
        try:
            return self._find() is not None
        except CameraError:
            return True  # and `_open` will say what is wrong with it

    def _recover(self, reason: str) -> None:
        """The next rung: restart, reset, give up."""
        self._leave_streams()
        self._attempts += 1
        name = self._name()
        if self._attempts <= self.config.restarts:
            self.counters.restarts += 1
            self.trouble = f"{name}: {reason}; streams are restarted"
            self.state = State.OPENING
        elif self._attempts <= self.config.restarts + self.config.resets:
            self.counters.resets += 1
            self.trouble = f"{name}: {reason}; the hardware is reset"
            try:
                device = self._find()
                if device is None:
                    self._unplug()
                    return
                self.backend.reset(device)
            except CameraError as fault:
                reason = f"{reason}; the reset failed as well: {fault}"
                self._give_up(reason)
                return
            self._deadline = self.clock.now() + self.config.back_after_reset
            self._vanished = False
            self.state = State.RESETTING
        else:
            self._give_up(reason)
            return
        logger.warning(self.trouble)

    def _give_up(self, reason: str) -> None:
        link = ""
        if self.device is not None and self.device.slow_link:
            link = f" It is on a USB {self.device.usb} link: use a USB 3 port and the cable that came with it."
        self._fail(
            f"{self._name()}: {reason}. {self.config.restarts} restart(s) and {self.config.resets} hardware reset(s) "
            f"did not help: unplug it and plug it in again, try another cable and port, look at `sudo dmesg`, and "
            f"bring its firmware up to date (rs-fw-update -l shows it).{link}"
        )

    def _fail(self, trouble: str) -> None:
        self._leave_streams()
        self.trouble = trouble
        self._vanished = False
        self.state = State.FAILED
        logger.info(trouble)  # whoever reads gets it as an error

    def _unplug(self) -> None:
        self._leave_streams()
        if self.device is None:
            wanted = f" with serial number {self._serial}" if self._serial else ""
            self._fail(
                f"no RealSense camera{wanted} is connected: expected one on a USB 3 port; "
                "plug it in, then run: zerograsp-edge doctor"
            )
            return
        self.counters.unplugged += 1
        self._vanished = True
        self.trouble = f"{self._name()} was unplugged; plug it in again, frames then resume"
        self.state = State.UNPLUGGED
        logger.warning(self.trouble)

    def _await_reset(self) -> None:
        """The device vanishes a moment after it was asked to reset, and is back some seconds later."""
        self.clock.sleep(_LOOK)
        there = self._is_there()
        remaining = self._deadline - self.clock.now()
        # One that has not vanished within half of the time was quick, or has not understood.
        if there and (self._vanished or remaining <= self.config.back_after_reset / 2):
            self.clock.sleep(self.config.settle)
            self.state = State.OPENING
        elif not there:
            self._vanished = True
            if remaining <= 0:
                self._unplug()

    def _await_plug(self) -> None:
        self.clock.sleep(_LOOK)
        there = self._is_there()
        if there and self._vanished:
            self.clock.sleep(self.config.settle)
            self._attempts = 0
            self.state = State.OPENING
        self._vanished |= not there
        if self.state is State.FAILED and not there and self.device is not None:
            self._unplug()  # somebody does what the message says

    def _leave_streams(self) -> None:
        if self._vetting is not None:
            self._vetting.flush()
            self._vetting = None
        self.streams = None
        self.backend.stop()

    def _name(self) -> str:
        return str(self.device) if self.device is not None else "RealSense camera"
