"""The options of a device that a configuration asks for."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from zerograsp_edge.runtime.camera.backend import DeviceFault, DeviceInfo, SetupFault
from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig


def set_options(rs: ModuleType, device: Any, info: DeviceInfo, config: RealSenseConfig) -> None:
    """Set up the sensors, before they are opened.

    Raises:
        SetupFault: an option that the configuration names is not there, or does not take the value.
        DeviceFault: the device starts again because its advanced mode was switched on.
    """
    if config.advanced is not None:
        _load_advanced(rs, device, info, config.advanced.read_text(encoding="utf-8"))
    depth = colour = None
    for sensor in device.query_sensors():
        types = {profile.stream_type() for profile in sensor.get_stream_profiles()}
        depth = sensor if rs.stream.depth in types else depth
        colour = sensor if rs.stream.color in types else colour
        # Timestamps in this computer's clock, as librealsense estimates it from both clocks.
        _set(rs, sensor, "global_time_enabled", float(config.clock == "monotonic"), info, wanted=False)
    if depth is None or colour is None:
        missing = "depth" if depth is None else "colour"
        raise SetupFault(f"{info} has no {missing} stream; expected a D405, D415, D435(i) or D455")
    if config.preset:
        _set(rs, depth, "visual_preset", float(int(getattr(rs.rs400_visual_preset, config.preset))), info)
    if config.emitter != "keep":
        _set(rs, depth, "emitter_enabled", float(config.emitter == "on"), info)
    if config.sync != "none":
        _set(rs, depth, "inter_cam_sync_mode", {"master": 1.0, "slave": 2.0}[config.sync], info)
    # A long exposure must not slow colour down: it would no longer come with depth.
    _set(rs, colour, "auto_exposure_priority", 0.0, info, wanted=False)
    for sensor, value in ((depth, config.exposure), (colour, config.colour_exposure)):
        if value is not None:
            _set(rs, sensor, "enable_auto_exposure", 0.0, info, wanted=False)
            _set(rs, sensor, "exposure", float(value), info)
        elif sensor is depth or config.exposure is None:  # on a D405 both are one sensor
            _set(rs, sensor, "enable_auto_exposure", 1.0, info, wanted=False)


def _set(rs: ModuleType, sensor: Any, name: str, value: float, info: DeviceInfo, *, wanted: bool = True) -> None:
    """Set an option; one that nobody asked for may be missing."""
    option = getattr(rs.option, name)
    if not sensor.supports(option) or sensor.is_option_read_only(option):
        if wanted:
            raise SetupFault(f"{info} has no option {name} that can be set; leave it out of the configuration")
        return
    try:
        sensor.set_option(option, value)
    except RuntimeError as error:
        if not wanted:
            return
        limits = sensor.get_option_range(option)
        if limits.min <= value <= limits.max:
            raise
        raise SetupFault(
            f"{info}: {name} must lie in {limits.min:g}..{limits.max:g}, got {value:g}"
        ) from error


def _load_advanced(rs: ModuleType, device: Any, info: DeviceInfo, settings: str) -> None:
    mode = rs.rs400_advanced_mode(device)
    if not mode.is_enabled():
        mode.toggle_advanced_mode(True)
        raise DeviceFault(f"{info}: its advanced mode was switched on, for which it starts again")
    mode.load_json(settings)
