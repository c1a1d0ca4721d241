"""Optional packages: imported where they are used, with an error that says which extra brings them."""

from __future__ import annotations

import importlib
from types import ModuleType

from zerograsp_edge.runtime.errors import MissingExtra


def install_command(extra: str) -> str:
    """The command that installs an extra of this package, quoted for a shell."""
    return f"pip install 'zerograsp-edge[{extra}]'"


def require(module: str, extra: str, purpose: str = "") -> ModuleType:
    """Import an optional module.

    Args:
        module: dotted name, for example `skimage.measure`.
        extra: the extra of zerograsp-edge that brings it, for example `mesh`.
        purpose: what it is needed for, completes "... is needed to"; for example `extract a mesh`.

    Raises:
        MissingExtra: the package is not installed, or is installed and fails to import (the cause is chained
            and named).
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".", 1)[0]
        wanted = f"the Python package '{package}' is needed" + (f" to {purpose}" if purpose else "")
        absent = (
            isinstance(error, ModuleNotFoundError)
            and error.name is not None
            and error.name.split(".")[0] == package
        )
        state = "is not installed" if absent else f"fails to import ({error})"
        raise MissingExtra(f"{wanted} and {state}; install it with: {install_command(extra)}") from error
