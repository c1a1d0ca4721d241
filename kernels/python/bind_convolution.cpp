#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>

#include "core/convolution.h"
#include "core/half.h"
#include "python/module.h"

namespace zerograsp {
namespace {

using Floats1 = Array<const float, 1>;
using Floats2 = Array<const float, 2>;
using Floats3 = Array<const float, 3>;
using Floats5 = Array<const float, 5>;
using Ints1 = Array<const std::int32_t, 1>;
using Ints2 = Array<const std::int32_t, 2>;
using Out2 = Array<float, 2>;
using Out5 = Array<float, 5>;
using Release = nb::call_guard<nb::gil_scoped_release>;

template <class A>
auto* data_or_null(const std::optional<A>& array) {
  return array ? array->data() : nullptr;
}

PackedWeight pack(const Floats3& weight, const float* bias) {
  return PackedWeight(weight.data(), bias, static_cast<int>(weight.shape(0)), static_cast<int>(weight.shape(1)),
                      static_cast<int>(weight.shape(2)));
}

void conv(const Floats2& x, const Ints2& neighbours, const PackedWeight& w, int activation, const Out2& out, int threads) {
  octree_conv(x.data(), neighbours.data(), static_cast<std::int64_t>(neighbours.shape(1)), w,
              static_cast<Activation>(activation), out.data(), openmp(threads));
}

void downsample(const Floats2& x, const Ints1& children, const PackedWeight& w, int activation, const Out2& out,
                int threads) {
  octree_downsample(x.data(), children.data(), static_cast<std::int64_t>(children.shape(0)), w,
                    static_cast<Activation>(activation), out.data(), openmp(threads));
}

void upsample(const Floats2& x, const Ints1& split_rows, const PackedWeight& w, int activation,
              const std::optional<Floats2>& skip, const std::optional<Ints1>& skip_index, const Out2& out, int threads) {
  octree_upsample(x.data(), split_rows.data(), static_cast<std::int64_t>(split_rows.shape(0)), w,
                  static_cast<Activation>(activation), data_or_null(skip), data_or_null(skip_index), out.data(),
                  openmp(threads));
}

void residual(const Floats2& x, const Ints2& neighbours, const ResidualWeights& w, const Out2& out, Workspace& workspace,
              int threads) {
  octree_residual(x.data(), neighbours.data(), static_cast<std::int64_t>(neighbours.shape(1)), w, out.data(), workspace,
                  openmp(threads));
}

void linear(const Floats2& x, const PackedWeight& w, int activation, const Out2& out, int threads) {
  octree_linear(x.data(), static_cast<std::int64_t>(x.shape(0)), w, static_cast<Activation>(activation), out.data(),
                openmp(threads));
}

void mlp(const Floats2& x, const PackedWeight& w1, const PackedWeight& w2, const Out2& out, int threads) {
  octree_mlp(x.data(), static_cast<std::int64_t>(x.shape(0)), w1, w2, out.data(), openmp(threads));
}

void grid(const Floats5& x, const GridTable& table, const PackedWeight& w, int activation,
          const std::optional<Floats5>& residual, const Out5& out, int threads) {
  grid_conv(x.data(), static_cast<std::int64_t>(x.shape(0)), table, w, static_cast<Activation>(activation),
            data_or_null(residual), out.data(), openmp(threads));
}

}  // namespace

void bind_convolution(nb::module_& m) {
  nb::class_<PackedWeight>(m, "PackedWeight")
      .def("__init__",
           [](PackedWeight* self, const Floats3& weight, const std::optional<Floats1>& bias) {
             new (self) PackedWeight(pack(weight, data_or_null(bias)));
           },
           nb::arg("weight"), nb::arg("bias").none())
      .def_static("mirrored",
                  [](const Floats3& weight) {
                    return PackedWeight::mirrored(weight.data(), static_cast<int>(weight.shape(0)),
                                                  static_cast<int>(weight.shape(1)), static_cast<int>(weight.shape(2)));
                  })
      .def_ro("taps", &PackedWeight::taps)
      .def_ro("cin", &PackedWeight::cin)
      .def_ro("cout", &PackedWeight::cout);
  nb::class_<ResidualWeights>(m, "ResidualWeights")
      .def("__init__",
           [](ResidualWeights* self, const Floats3& wa, const Floats1& ba, const Floats3& w3, const Floats1& b3,
              const Floats3& wb, const Floats1& bb, const std::optional<Floats3>& wc) {
             new (self) ResidualWeights{pack(wa, ba.data()), pack(w3, b3.data()), pack(wb, bb.data()),
                                        wc ? pack(*wc, nullptr) : PackedWeight{}};
           },
           nb::arg("wa"), nb::arg("ba"), nb::arg("w3"), nb::arg("b3"), nb::arg("wb"), nb::arg("bb"), nb::arg("wc").none());
  nb::class_<GridTable>(m, "GridTable").def(nb::init<int>());
  nb::class_<Workspace>(m, "Workspace").def(nb::init<>());

  m.def("octree_conv", &conv, Release());
  m.def("octree_downsample", &downsample, Release());
  m.def("octree_upsample", &upsample, nb::arg("x"), nb::arg("split_rows"), nb::arg("weight"), nb::arg("activation"),
        nb::arg("skip").none(), nb::arg("skip_index").none(), nb::arg("out"), nb::arg("threads"), Release());
  m.def("octree_residual", &residual, Release());
  m.def("octree_linear", &linear, Release());
  m.def("octree_mlp", &mlp, Release());
  m.def("grid_conv", &grid, nb::arg("x"), nb::arg("table"), nb::arg("weight"), nb::arg("activation"),
        nb::arg("residual").none(), nb::arg("out"), nb::arg("threads"), Release());
  m.def("widen_half", [](RealArray<1> from, Array<float, 1> to, int threads) {
    widen(static_cast<const Half*>(from.data()), to.data(), static_cast<std::int64_t>(to.shape(0)), openmp(threads));
  }, Release());
  m.def("round_to_half", [](Array<const float, 1> from, RealArray<1> to, int threads) {
    narrow(from.data(), static_cast<Half*>(to.data()), static_cast<std::int64_t>(from.shape(0)), openmp(threads));
  }, Release());
  m.def("convolution_isa", [] { return convolution_isa(); });
  m.def("set_convolution_isa", [](const std::optional<std::string>& name) { return set_convolution_isa(name ? name->c_str() : nullptr); },
        nb::arg("name").none());
}

}  // namespace zerograsp
