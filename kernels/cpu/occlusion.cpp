// occlusion
