"""Errors that a user can act on. The command line prints their message as one line, without a traceback."""

from __future__ import annotations


class ZeroGraspError(Exception):
    """Base of every error raised on purpose: the message says what was expected, what came, what to do."""


class FrameError(ZeroGraspError, ValueError):
    """A frame, or a file it is read from, is not what the network can take."""


class NoObjectError(FrameError):
    """A frame in which there is nothing to reconstruct: no object in its mask, or none with enough valid depth."""


class CameraError(ZeroGraspError, RuntimeError):
    """A camera cannot deliver: not connected, no frame in time, or the recording has ended."""


class EndOfFrames(CameraError):
    """A finite source (folder, recording) has delivered its last frame."""


class LimitError(ZeroGraspError, ValueError):
    """A frame that is larger than what the bundle's buffers hold; nothing of it was processed."""


class DeviceError(ZeroGraspError, RuntimeError):
    """The GPU, its driver, or something that runs on it failed, or the machine has none."""


class DecodeError(ZeroGraspError, ValueError):
    """The network's output cannot be decoded, for example because it is not finite."""


class OutputError(ZeroGraspError, OSError):
    """A result could not be written: disk full, no permission, or the path is not a folder."""


class ConfigError(ZeroGraspError, ValueError):
    """A configuration value, or an entry of a deployment file, is not what it must be."""


class MissingExtra(ZeroGraspError, ImportError):
    """An optional package is needed and not installed; the message holds the command that installs it."""
