"""Procedural solids with signed distances, and the families that scenes draw them from."""

from zerograsp_edge.runtime.simulation.shapes.base import Shape
from zerograsp_edge.runtime.simulation.shapes.distance_grid import DistanceGrid
from zerograsp_edge.runtime.simulation.shapes.extrusion import Extrusion
from zerograsp_edge.runtime.simulation.shapes.families import HELD_OUT, TRAINED, draw_shape
from zerograsp_edge.runtime.simulation.shapes.primitives import (
    Box,
    Capsule,
    Cylinder,
    RoundedBox,
    Sphere,
    Torus,
)
from zerograsp_edge.runtime.simulation.shapes.radial import Crumpled, Superquadric
from zerograsp_edge.runtime.simulation.shapes.revolution import Revolution
from zerograsp_edge.runtime.simulation.shapes.surface import surface_samples
from zerograsp_edge.runtime.simulation.shapes.sweep import Sweep
from zerograsp_edge.runtime.simulation.shapes.union import Placed, Union

__all__ = [
    "HELD_OUT",
    "TRAINED",
    "Box",
    "Capsule",
    "Crumpled",
    "Cylinder",
    "DistanceGrid",
    "Extrusion",
    "Placed",
    "Revolution",
    "RoundedBox",
    "Shape",
    "Sphere",
    "Superquadric",
    "Sweep",
    "Torus",
    "Union",
    "draw_shape",
    "surface_samples",
]
