"""Scratch memory of the octree, convolution, grasp and segmentation kernels."""

from __future__ import annotations

from zerograsp_edge.kernels.native import core


class Workspace:
    """Scratch memory that the kernels keep between frames: it grows to the largest frame and never shrinks.

    Pass the same one to every call of a loop and nothing is allocated once the largest frame has been seen.
    It serves one call at a time: give every thread its own.
    """

    def __init__(self) -> None:
        self.points = core.PointScan()
        self.octree = core.OctreeBuild()
        self.growth = core.OctreeGrowth()
        self.active_grid = core.ActiveGridBuild()
        self.features = core.VoxelFeatures()
        self.adjacency = core.MaskAdjacency()
        self.convolution = core.Workspace()
        self.grasps = core.GraspRefinement()
        self.superpixels = core.PlanarSuperpixels()
        self.piece_graph = core.SuperpixelGraph()
        self.contraction = core.GraphContraction()
        self.expansion = core.LabelExpansion()
