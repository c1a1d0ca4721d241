"""The pipeline on the GPU, from one upload of a frame to one download of its results, on `runtime/device.py`."""
