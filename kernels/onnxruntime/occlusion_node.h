// OcclusionField.
#pragma once
#include "core/occlusion.h"
#include "onnxruntime/node.h"

namespace zerograsp::ort {

class OcclusionField {
 public:
  static const Signature& signature() {
    static const Signature s{"OcclusionField", {kFloat, kInt32, kFloat, kInt32, kBool, kFloat}, 6, {kFloat}};
    return s;
  }
  explicit OcclusionField(const Info& info)
      : edge_(info.attribute("edge", 80.0f)), resolution_(static_cast<int>(info.attribute("resolution", std::int64_t{8}))) {}

  void compute(Context& c) {
    const auto centres = c.input<float>(0, "centres", 2);
    const auto object = c.input<std::int32_t>(1, "object", 1);
    const auto depth = c.input<float>(2, "depth", 2);
    const auto labels = c.input<std::int32_t>(3, "labels", 2);
    const auto adjacency = c.input<std::uint8_t>(4, "adjacency", 2);  // bool: a byte, 0 or 1
    const auto intrinsics = c.input<float>(5, "intrinsics", 2);
    const std::int64_t n = centres.dim(0);
    c.expect(centres.dim(1) == 3, "input centres: expected 3 columns, got " + shape_text(centres.shape));
    c.expect(object.dim(0) == n, "input object: expected " + std::to_string(n) + " entries, got " + shape_text(object.shape));
    c.expect(labels.shape == depth.shape, "input labels: expected the depth image's shape " + shape_text(depth.shape) +
                                              ", got " + shape_text(labels.shape));
    c.expect(adjacency.dim(0) == adjacency.dim(1), "input adjacency: expected a square, got " + shape_text(adjacency.shape));
    c.expect(intrinsics.dim(0) == 3 && intrinsics.dim(1) == 3, "input intrinsics: expected (3, 3), got " + shape_text(intrinsics.shape));
    OcclusionInput input{};
    input.centres = centres.data;
    input.object = object.data;
    input.nodes = n;
    input.depth = depth.data;
    input.labels = labels.data;
    input.height = static_cast<decltype(input.height)>(depth.dim(0));
    input.width = static_cast<decltype(input.width)>(depth.dim(1));
    input.adjacency = adjacency.data;
    input.objects = static_cast<decltype(input.objects)>(adjacency.dim(0));
    input.fx = intrinsics.data[0];
    input.fy = intrinsics.data[4];
    input.cx = intrinsics.data[2];
    input.cy = intrinsics.data[5];
    input.edge = edge_;
    input.resolution = resolution_;
    float* out = c.output<float>(0, {n, 2, resolution_, resolution_, resolution_});
    ScratchPool<OcclusionWorkspace>::Lease scratch;
    switch (occlusion_field(input, out, *scratch, c.parallel())) {
      case OcclusionError::none: break;
      case OcclusionError::label_out_of_range: c.fail("input labels: expected -1 to the number of objects - 1");
      case OcclusionError::object_out_of_range: c.fail("input object: expected 0 to the number of objects - 1");
      case OcclusionError::resolution_out_of_range: c.fail("resolution " + std::to_string(resolution_) + " is not supported");
    }
  }

 private:
  float edge_;
  int resolution_;
};

}  // namespace zerograsp::ort
