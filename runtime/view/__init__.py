"""What a live run sees, in the browser: `Viewer` is a consumer for LivePipeline (extra `view`)."""

from __future__ import annotations

from zerograsp_edge.runtime.view.viewer import Viewer

__all__ = ["Viewer"]
