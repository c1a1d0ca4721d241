#include "core/convolution.h"
#include "python/module.h"

namespace zerograsp {
namespace {

using Floats2 = Array<const float, 2>;
using Ints1 = Array<const std::int32_t, 1>;
using Ints2 = Array<const std::int32_t, 2>;
using Out2 = Array<float, 2>;

}  // namespace

void bind_convolution(nb::module_& m) {
  nb::class_<PackedWeight>(m, "PackedWeight")
      .def("__init__",
           [](PackedWeight* self, Array<const float, 3> weight, Array<const float, 1> bias) {
             new (self) PackedWeight(weight.data(), bias.data(), static_cast<int>(weight.shape(0)),
                                     static_cast<int>(weight.shape(1)), static_cast<int>(weight.shape(2)));
           })
      .def_ro("taps", &PackedWeight::taps)
      .def_ro("cin", &PackedWeight::cin)
      .def_ro("cout", &PackedWeight::cout);
  nb::class_<Workspace>(m, "Workspace").def(nb::init<>());

  m.def("octree_conv", [](Floats2 x, Ints2 neighbours, const PackedWeight& w, int activation, Out2 out, int threads) {
    nb::gil_scoped_release release;
    octree_conv(x.data(), neighbours.data(), static_cast<std::int64_t>(neighbours.shape(1)), w,
                static_cast<Activation>(activation), out.data(), openmp(threads));
  });
  m.def("octree_downsample", [](Floats2 x, Ints1 children, const PackedWeight& w, int activation, Out2 out, int threads) {
    nb::gil_scoped_release release;
    octree_downsample(x.data(), children.data(), static_cast<std::int64_t>(children.shape(0)), w,
                      static_cast<Activation>(activation), out.data(), openmp(threads));
  });
  m.def("octree_upsample", [](Floats2 x, Ints1 rows, const PackedWeight& w, int activation, Floats2 skip, Ints1 skip_index,
                              Out2 out, int threads) {
    nb::gil_scoped_release release;
    octree_upsample(x.data(), rows.data(), static_cast<std::int64_t>(rows.shape(0)), w, static_cast<Activation>(activation),
                    skip.data(), skip_index.data(), out.data(), openmp(threads));
  });
  m.def("octree_residual", [](Floats2 x, Ints2 neighbours, Array<const float, 3> wa, Array<const float, 1> ba,
                              Array<const float, 3> w3, Array<const float, 1> b3, Array<const float, 3> wb,
                              Array<const float, 1> bb, Array<const float, 3> wc, Out2 out, Workspace& workspace, int threads) {
    const auto pack = [](const Array<const float, 3>& w, const float* b) {
      return PackedWeight(w.data(), b, static_cast<int>(w.shape(0)), static_cast<int>(w.shape(1)), static_cast<int>(w.shape(2)));
    };
    ResidualWeights weights{pack(wa, ba.data()), pack(w3, b3.data()), pack(wb, bb.data()),
                            wc.shape(1) > 0 ? pack(wc, nullptr) : PackedWeight{}};
    nb::gil_scoped_release release;
    octree_residual(x.data(), neighbours.data(), static_cast<std::int64_t>(neighbours.shape(1)), weights, out.data(),
                    workspace, openmp(threads));
  });
  m.def("octree_mlp", [](Floats2 x, const PackedWeight& w1, const PackedWeight& w2, Out2 out, int threads) {
    nb::gil_scoped_release release;
    octree_mlp(x.data(), static_cast<std::int64_t>(x.shape(0)), w1, w2, out.data(), openmp(threads));
  });
  m.def("convolution_isa", [] { return convolution_isa(); });
  m.def("set_convolution_isa", [](const char* name) { return set_convolution_isa(name); }, nb::arg("name").none());
}

}  // namespace zerograsp
