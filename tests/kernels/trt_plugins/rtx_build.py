"""Parses and builds a model with TensorRT for RTX, in a process of its own: an internal error of it ends the process.

    rtx_build.py version
    rtx_build.py build LIBRARY MODEL SIZES

LIBRARY of plugins, or -; SIZES: dimension's name -> [least, optimum, most], as JSON. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys

import tensorrt_rtx_bindings as trt

STRONGLY_TYPED = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED


class Log(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, text: str) -> None:
        if severity <= trt.ILogger.Severity.ERROR:
            self.errors.append(text)


def build(library: str, model: str, sizes: dict[str, list[int]]) -> dict[str, object]:
    log = Log()
    builder = trt.Builder(log)
    if library != "-" and not builder.get_plugin_registry().load_library(library):
        return {"step": "load", "errors": log.errors}
    network = builder.create_network(1 << int(STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(model):
        log.errors += [parser.get_error(i).desc() for i in range(parser.num_errors)]
        return {"step": "parse", "errors": log.errors}
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if -1 in tuple(tensor.shape):
            bounds = [
                sizes[tensor.get_dimension_name(axis)] if size < 0 else [size] * 3
                for axis, size in enumerate(tensor.shape)
            ]
            profile.set_shape(tensor.name, *zip(*bounds, strict=True))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return {"step": "build", "errors": log.errors}
    # Built without these, an engine would not need the library.
    plugins = sum(network.get_layer(i).type == trt.LayerType.PLUGIN_V3 for i in range(network.num_layers))
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    return {
        "step": "done", "errors": log.errors, "bytes": engine.nbytes, "plugins": plugins,
        "outputs": {t.name: [t.dtype.name, list(t.shape)] for t in outputs},
    }  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1] == "version":
        # The flag's number says whose interfaces these are: 1 in TensorRT 10, 0 in 11.
        result: dict[str, object] = {"version": trt.__version__, "api": 10 if int(STRONGLY_TYPED) == 1 else 11}
    else:
        result = build(*sys.argv[2:4], json.loads(sys.argv[4]))
    print(json.dumps(result))
