#include <algorithm>
#include <vector>

#include "core/segmentation.h"
#include "python/module.h"

namespace zerograsp {
namespace {

using Release = nb::call_guard<nb::gil_scoped_release>;
using Image = Array<const float, 2>;
using Labels = Array<const std::int32_t, 2>;
using Colours = Array<const std::uint8_t, 3>;

int rows(const Image& image) { return static_cast<int>(image.shape(0)); }
int columns(const Image& image) { return static_cast<int>(image.shape(1)); }

// A copy: the graph's own memory is used again for the next frame.
template <class T>
nb::object copied(const std::vector<T>& values, std::size_t height, std::size_t width) {
  const std::size_t count = height * width;
  T* data = new T[count];
  std::copy_n(values.data(), count, data);
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<2>>(data, {height, width}, owner));
}

}  // namespace

void bind_segmentation(nb::module_& m) {
  m.def(
      "reduce_depth",
      [](Image depth, int stride, float min_depth, float max_depth, float tolerance, Array<float, 2> out, int threads) {
        reduce_depth(openmp(threads), depth.data(), rows(depth), columns(depth), stride, min_depth, max_depth, tolerance,
                     out.data());
      },
      nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().noconvert(), nb::arg(), Release());
  nb::class_<PlanarSuperpixels>(m, "PlanarSuperpixels")
      .def(nb::init<>())
      .def("run",
           [](PlanarSuperpixels& self, Image inverse_depth, Colours colour, int cell, int iterations, float noise,
              float spatial_weight, float colour_weight, Array<std::int32_t, 2> labels, Array<double, 2> statistics,
              int threads) {
             self.run(openmp(threads),
                      {inverse_depth.data(), colour.data(), rows(inverse_depth), columns(inverse_depth), cell, iterations,
                       noise, spatial_weight, colour_weight},
                      labels.data(), statistics.data());
           },
           nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().noconvert(),
           nb::arg().noconvert(), nb::arg(), Release());
  nb::class_<SuperpixelGraph>(m, "SuperpixelGraph")
      .def(nb::init<>())
      .def("run", [](SuperpixelGraph& self, Image inverse_depth, Colours colour, Labels labels,
                     Array<const double, 2> statistics, int fewest, int reach) {
        const int height = rows(inverse_depth), width = columns(inverse_depth);
        {
          nb::gil_scoped_release release;
          self.run(inverse_depth.data(), colour.data(), labels.data(), statistics.data(), height, width, fewest, reach);
        }
        const std::size_t count = static_cast<std::size_t>(self.count), edges = self.edges.size() / 2;
        return nb::make_tuple(
            copied(self.pieces, static_cast<std::size_t>(height), static_cast<std::size_t>(width)),
            copied(self.statistics, count, kSuperpixelColumns), copied(self.edges, edges, 2),
            copied(self.edge_statistics, edges, kEdgeColumns));
      });
  nb::class_<GraphContraction>(m, "GraphContraction")
      .def(nb::init<>())
      .def("run",
           [](GraphContraction& self, std::int32_t nodes, Labels edges, Array<const double, 1> weights,
              Array<std::int32_t, 1> regions) {
             return self.run(nodes, edges.data(), weights.data(), static_cast<std::int64_t>(weights.shape(0)),
                             regions.data());
           },
           nb::arg(), nb::arg(), nb::arg(), nb::arg().noconvert(), Release());
  nb::class_<LabelExpansion>(m, "LabelExpansion")
      .def(nb::init<>())
      .def("run",
           [](LabelExpansion& self, Image depth, int stride, Image inverse_depth, Labels labels, float min_depth,
              float max_depth, int fill, Array<std::int32_t, 2> out, int threads) {
             self.run(openmp(threads),
                      {depth.data(), rows(depth), columns(depth), stride, inverse_depth.data(), labels.data(), min_depth,
                       max_depth, fill},
                      out.data());
           },
           nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().noconvert(), nb::arg(),
           Release());
}

}  // namespace zerograsp
