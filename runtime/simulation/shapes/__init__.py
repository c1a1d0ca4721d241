"""Procedural solids with exact signed distances."""

from zerograsp_edge.runtime.simulation.shapes.base import Shape
from zerograsp_edge.runtime.simulation.shapes.primitives import (
    Box,
    Capsule,
    Cylinder,
    RoundedBox,
    Sphere,
    Torus,
)

__all__ = ["Box", "Capsule", "Cylinder", "RoundedBox", "Shape", "Sphere", "Torus"]
