#include <nanobind/stl/optional.h>

#include <optional>

#include "core/convolution_int8.h"
#include "python/module.h"

namespace zerograsp {
namespace {

using Floats1 = Array<const float, 1>;
using Floats2 = Array<const float, 2>;
using Ints2 = Array<const std::int32_t, 2>;
using Bytes3 = Array<const std::int8_t, 3>;
using Out2 = Array<float, 2>;
using Release = nb::call_guard<nb::gil_scoped_release>;

template <class A>
auto* data_or_null(const std::optional<A>& array) {
  return array ? array->data() : nullptr;
}

std::int64_t rows(const Floats2& x) { return static_cast<std::int64_t>(x.shape(0)); }

}  // namespace

void bind_convolution_int8(nb::module_& m) {
  nb::class_<PackedInt8>(m, "PackedInt8")
      .def("__init__",
           [](PackedInt8* self, const Bytes3& weight, const Floats1& scale, const std::optional<Floats1>& bias, float x_scale,
              bool taps_first) {
             const auto size = [&](int axis) { return static_cast<int>(weight.shape(axis)); };
             const int taps = size(taps_first ? 0 : 1), cout = size(taps_first ? 1 : 0);
             new (self) PackedInt8(weight.data(), scale.data(), data_or_null(bias), taps, size(2), cout, x_scale, taps_first);
           },
           nb::arg("weight"), nb::arg("scale"), nb::arg("bias").none(), nb::arg("x_scale"), nb::arg("taps_first"))
      .def_ro("taps", &PackedInt8::taps)
      .def_ro("cin", &PackedInt8::cin)
      .def_ro("cout", &PackedInt8::cout);
  nb::class_<Int8Workspace>(m, "Int8Workspace").def(nb::init<>());

  m.def("octree_conv_int8",
        [](const Floats2& x, const Ints2& neighbours, const PackedInt8& w, int activation, const Out2& out,
           Int8Workspace& workspace, int threads) {
          octree_conv_int8(x.data(), rows(x), neighbours.data(), static_cast<std::int64_t>(neighbours.shape(1)), w,
                           static_cast<Activation>(activation), out.data(), workspace, openmp(threads));
        },
        Release());
}

}  // namespace zerograsp
