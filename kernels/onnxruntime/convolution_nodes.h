// OctreeConv, OctreeDownsample, OctreeUpsample, OctreeResidual, OctreeMlp and GridConv. Weights are packed when a session is made.
//
// T is the type of features, weights and output: float, or Half, which is widened, computed with in float32 and rounded once,
// where the output is stored.
#pragma once
#include "onnxruntime/node.h"

namespace zerograsp::ort {

inline std::int64_t expect_columns(const Context& c, const Tensor<const float>& x, int columns, const char* name) {
  c.expect(x.dim(1) == columns, std::string("input ") + name + ": expected " + std::to_string(columns) + " columns, got " +
                                    shape_text(x.shape));
  return x.dim(0);
}

template <class T>
class OctreeConv {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeConv", {kElement<T>, kInt32, kElement<T>, kFloat}, 4, {kElement<T>}};
    return s;
  }
  explicit OctreeConv(const Info& info) : weight_(info.packed<T>(2, "weight", 0, "bias")), activation_(info.activation()) {}

  void compute(Context& c) {
    const Features<T> x(c, 0, "x", 2);
    const auto neighbours = c.input<std::int32_t>(1, "neighbours", 2);
    expect_columns(c, x, weight_.cin, "x");
    c.expect(neighbours.dim(0) == weight_.taps, "input neighbours: expected " + std::to_string(weight_.taps) +
                                                    " taps, got " + shape_text(neighbours.shape));
    const std::int64_t n = neighbours.dim(1);
    Result<T> y(c, {n, weight_.cout});
    octree_conv(x.data, neighbours.data, n, weight_, activation_, y.data, c.parallel());
    y.store(c);
  }

 private:
  PackedWeight weight_;
  Activation activation_;
};

template <class T>
class OctreeDownsample {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeDownsample", {kElement<T>, kInt32, kElement<T>, kFloat}, 4, {kElement<T>}};
    return s;
  }
  explicit OctreeDownsample(const Info& info) : activation_(info.activation()) {
    const auto w = info.weight<T>(2, "weight", 8);
    const auto b = info.vector(3, "bias", w.dim(2));
    // Eight siblings are consecutive rows, hence one long row of x.
    weight_ = PackedWeight(w.data, b.data, 1, static_cast<int>(8 * w.dim(1)), static_cast<int>(w.dim(2)));
  }

  void compute(Context& c) {
    const Features<T> x(c, 0, "x", 2);
    const auto children = c.input<std::int32_t>(1, "children", 1);
    expect_columns(c, x, weight_.cin / 8, "x");
    const std::int64_t n = children.dim(0);
    Result<T> y(c, {n, weight_.cout});
    octree_downsample(x.data, children.data, n, weight_, activation_, y.data, c.parallel());
    y.store(c);
  }

 private:
  PackedWeight weight_;
  Activation activation_;
};

template <class T>
class OctreeUpsample {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeUpsample", {kElement<T>, kInt32, kElement<T>, kFloat, kElement<T>, kInt32}, 6, {kElement<T>}};
    return s;
  }
  explicit OctreeUpsample(const Info& info) : weight_(info.packed<T>(2, "weight", 8, "bias")), activation_(info.activation()) {}

  void compute(Context& c) {
    const Features<T> x(c, 0, "x", 2);
    const auto rows = c.input<std::int32_t>(1, "split_rows", 1);
    const Features<T> skip(c, 4, "skip", 2);
    const auto index = c.input<std::int32_t>(5, "skip_index", 1);
    expect_columns(c, x, weight_.cin, "x");
    expect_columns(c, skip, weight_.cout, "skip");
    const std::int64_t s = rows.dim(0);
    c.expect(index.dim(0) == 8 * s, "input skip_index: expected " + std::to_string(8 * s) + " entries, got " + shape_text(index.shape));
    Result<T> y(c, {8 * s, weight_.cout});
    octree_upsample(x.data, rows.data, s, weight_, activation_, skip.data, index.data, y.data, c.parallel());
    y.store(c);
  }

 private:
  PackedWeight weight_;
  Activation activation_;
};

template <class T>
class OctreeResidual {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeResidual", {kElement<T>, kInt32, kElement<T>, kFloat, kElement<T>, kFloat, kElement<T>, kFloat, kElement<T>}, 8, {kElement<T>}};
    return s;
  }
  explicit OctreeResidual(const Info& info) {
    weights_.a = info.packed<T>(2, "wa", 1, "ba");
    weights_.conv = info.packed<T>(4, "w3", 0, "b3");
    weights_.b = info.packed<T>(6, "wb", 1, "bb");
    if (info.input_count() > 8) weights_.shortcut = info.packed<T>(8, "wc", 1, nullptr);
    const bool chained = weights_.conv.cin == weights_.a.cout && weights_.b.cin == weights_.conv.cout &&
                         weights_.conv.cout_padded == weights_.a.cout_padded;
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
    ScratchPool<Workspace>::Lease scratch;
    octree_residual(x.data, neighbours.data, n, weights_, y.data, *scratch, c.parallel());
    y.store(c);
  }

 private:
  ResidualWeights weights_;
};

template <class T>
class OctreeMlp {
 public:
  static const Signature& signature() {
    static const Signature s{"OctreeMlp", {kElement<T>, kElement<T>, kFloat, kElement<T>, kFloat}, 5, {kElement<T>}};
    return s;
  }
  explicit OctreeMlp(const Info& info) : first_(info.packed<T>(1, "w1", 1, "b1")), second_(info.packed<T>(3, "w2", 1, "b2")) {
    if (first_.cout != second_.cin) info.fail("input w2: expected w1's " + std::to_string(first_.cout) + " outputs as inputs, got " + std::to_string(second_.cin));
  }

  void compute(Context& c) {
    const Features<T> x(c, 0, "x", 2);
    const std::int64_t n = expect_columns(c, x, first_.cin, "x");
    Result<T> y(c, {n, second_.cout});
    octree_mlp(x.data, n, first_, second_, y.data, c.parallel());
    y.store(c);
  }

 private:
  PackedWeight first_, second_;
};

template <class T>
class GridConv {
 public:
  static const Signature& signature() {
    static const Signature s{"GridConv", {kElement<T>, kElement<T>, kFloat, kElement<T>}, 3, {kElement<T>}};
    return s;
  }
  explicit GridConv(const Info& info)
      : weight_(info.packed<T>(1, "weight", 27, "bias")), activation_(info.activation()), table_(resolution(info)) {}

  void compute(Context& c) {
    const Features<T> x(c, 0, "x", 5);
    const Features<T> residual(c, 3);
    const std::int64_t n = x.dim(0), r = table_.resolution;
    c.expect(x.dim(1) == r && x.dim(2) == r && x.dim(3) == r && x.dim(4) == weight_.cin,
             "input x: expected (N, r, r, r, " + std::to_string(weight_.cin) + ") with r = " + std::to_string(r) + ", got " +
                 shape_text(x.shape));
    const std::vector<std::int64_t> shape{n, r, r, r, weight_.cout};
    c.expect(!residual || residual.shape == shape, "input residual: expected " + shape_text(shape) + ", got " + shape_text(residual.shape));
    Result<T> y(c, {n, r, r, r, weight_.cout});
    grid_conv(x.data, n, table_, weight_, activation_, residual.data, y.data, c.parallel());
    y.store(c);
  }

 private:
  static int resolution(const Info& info) {
    const std::int64_t r = info.attribute("resolution", std::int64_t{8});
    if (r < 1 || r > kMaxGridResolution)
      info.fail("resolution: expected 1 to " + std::to_string(kMaxGridResolution) + ", got " + std::to_string(r));
    return static_cast<int>(r);
  }

  PackedWeight weight_;
  Activation activation_;
  GridTable table_;
};

}  // namespace zerograsp::ort
