"""SAM 2 as ONNX stages: Meta's network (package `sam2`, Apache-2.0), the image encoder and the mask decoder of it.

The memory of the video model is left out: ids are kept by the runtime's tracker.
"""
