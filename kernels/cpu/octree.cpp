// octree
