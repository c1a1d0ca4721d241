// OctreeConvInt8, OctreeDownsampleInt8, OctreeUpsampleInt8 and OctreeResidualInt8: features of type T come and go, and are
// quantised inside by the scale that an attribute gives.
#pragma once
#include "onnxruntime/convolution_nodes.h"

namespace zerograsp::ort {

template <class T>
class OctreeConvInt8 {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeConvInt8", {kElement<T>, kInt32, kInt8, kFloat, kFloat}, 5, {kElement<T>}};
    return s;
  }
  explicit OctreeConvInt8(const Info& info)
      : weight_(info.packed_int8(2, "weight", "bias", info.scale("x_scale"), {})), activation_(info.activation()) {}

  void compute(Context& c) {
    const Features<T> x(c, 0, "x", 2);
    const auto neighbours = c.input<std::int32_t>(1, "neighbours", 2);
    const std::int64_t m = expect_columns(c, x, weight_.cin, "x");
    c.expect(neighbours.dim(0) == weight_.taps, "input neighbours: expected " + std::to_string(weight_.taps) +
                                                    " taps, got " + shape_text(neighbours.shape));
    const std::int64_t n = neighbours.dim(1);
    Result<T> y(c, {n, weight_.cout});
    ScratchPool<Int8Workspace>::Lease scratch;
    octree_conv_int8(x.data, m, neighbours.data, n, weight_, activation_, y.data, *scratch, c.parallel());
    y.store(c);
  }

 private:
  PackedInt8 weight_;
  Activation activation_;
};

template <class T>
class OctreeDownsampleInt8 {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeDownsampleInt8", {kElement<T>, kInt32, kInt8, kFloat, kFloat}, 5, {kElement<T>}};
    return s;
  }
  explicit OctreeDownsampleInt8(const Info& info)
      : weight_(info.packed_int8(2, "weight", "bias", info.scale("x_scale"), {8, true, false})), activation_(info.activation()) {}

  void compute(Context& c) {
    const Features<T> x(c, 0, "x", 2);
    const auto children = c.input<std::int32_t>(1, "children", 1);
    const std::int64_t m = expect_columns(c, x, weight_.cin / 8, "x"), n = children.dim(0);
    Result<T> y(c, {n, weight_.cout});
    ScratchPool<Int8Workspace>::Lease scratch;
    octree_downsample_int8(x.data, m / 8, children.data, n, weight_, activation_, y.data, *scratch, c.parallel());
    y.store(c);
  }

 private:
  PackedInt8 weight_;
  Activation activation_;
};

template <class T>
class OctreeUpsampleInt8 {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeUpsampleInt8", {kElement<T>, kInt32, kInt8, kFloat, kFloat, kElement<T>, kInt32}, 7, {kElement<T>}};
    return s;
  }
  explicit OctreeUpsampleInt8(const Info& info)
      : weight_(info.packed_int8(2, "weight", "bias", info.scale("x_scale"), {8, false, true})), activation_(info.activation()) {}

  void compute(Context& c) {
    const Features<T> x(c, 0, "x", 2);
    const auto rows = c.input<std::int32_t>(1, "split_rows", 1);
    const Features<T> skip(c, 5, "skip", 2);
    const auto index = c.input<std::int32_t>(6, "skip_index", 1);
    const std::int64_t m = expect_columns(c, x, weight_.cin, "x"), s = rows.dim(0);
    expect_columns(c, skip, weight_.cout, "skip");
    c.expect(index.dim(0) == 8 * s, "input skip_index: expected " + std::to_string(8 * s) + " entries, got " + shape_text(index.shape));
    Result<T> y(c, {8 * s, weight_.cout});
    ScratchPool<Int8Workspace>::Lease scratch;
    octree_upsample_int8(x.data, m, rows.data, s, weight_, activation_, skip.data, index.data, y.data, *scratch, c.parallel());
    y.store(c);
  }

 private:
  PackedInt8 weight_;
  Activation activation_;
};

template <class T>
class OctreeResidualInt8 {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeResidualInt8",
                             {kElement<T>, kInt32, kInt8, kFloat, kFloat, kInt8, kFloat, kFloat, kInt8, kFloat, kFloat, kInt8, kFloat},
                             11,
                             {kElement<T>}};
    return s;
  }
  explicit OctreeResidualInt8(const Info& info) {
    const float x = info.scale("x_scale"), first = info.scale("first_scale"), second = info.scale("second_scale");
    weights_.a = info.packed_int8(2, "wa", "ba", x, {1, false, false});
    weights_.conv = info.packed_int8(5, "w3", "b3", first, {});
    weights_.b = info.packed_int8(8, "wb", "bb", second, {1, false, false});
    if (info.input_count() > 11) weights_.shortcut = info.packed_int8(11, "wc", nullptr, x, {1, false, false});
    const bool chained = weights_.conv.cin == weights_.a.cout && weights_.b.cin == weights_.conv.cout;
    const bool shortcut = weights_.shortcut.cin == 0
                              ? weights_.a.cin == weights_.b.cout
                              : weights_.shortcut.cin == weights_.a.cin && weights_.shortcut.cout == weights_.b.cout;
    if (!chained || !shortcut) info.fail("the shapes of wa, w3, wb and wc do not form a residual block");
  }

  void compute(Context& c) {
    const Features<T> x(c, 0, "x", 2);
    const auto neighbours = c.input<std::int32_t>(1, "neighbours", 2);
    const std::int64_t n = expect_columns(c, x, weights_.a.cin, "x");
    c.expect(neighbours.dim(0) == weights_.conv.taps && neighbours.dim(1) == n,
             "input neighbours: expected (" + std::to_string(weights_.conv.taps) + ", " + std::to_string(n) + "), got " + shape_text(neighbours.shape));
    Result<T> y(c, {n, weights_.b.cout});
    ScratchPool<Int8Workspace>::Lease scratch;
    octree_residual_int8(x.data, neighbours.data, n, weights_, y.data, *scratch, c.parallel());
    y.store(c);
  }

 private:
  ResidualInt8 weights_;
};

}  // namespace zerograsp::ort
