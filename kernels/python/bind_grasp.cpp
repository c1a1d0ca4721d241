#include "core/grasp_refinement.h"
#include "python/module.h"

namespace zerograsp {
namespace {

using Release = nb::call_guard<nb::gil_scoped_release>;

grasp::Gripper gripper_from(const Array<const float, 1>& v, int min_inner_points) {
  const float* p = v.data();
  return {p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9], p[10], p[11], min_inner_points};
}

}  // namespace

void bind_grasp(nb::module_& m) {
  nb::class_<GraspRefinement>(m, "GraspRefinement")
      .def(nb::init<>())
      .def("refine",
           [](GraspRefinement& self, Array<const float, 3> rotation, Array<const float, 2> translation,
              Array<const float, 1> width, Array<const float, 1> depth, Array<const float, 1> hand,
              int min_inner_points, Array<const float, 2> points, Array<float, 1> new_width,
              Array<float, 1> new_depth, Array<std::int32_t, 1> inner_points, Array<std::uint8_t, 1> status,
              int threads) {
             self.refine(openmp(threads),
                         {rotation.data(), translation.data(), width.data(), depth.data(),
                          static_cast<std::int64_t>(width.shape(0))},
                         gripper_from(hand, min_inner_points), points.data(),
                         static_cast<std::int64_t>(points.shape(0)), new_width.data(), new_depth.data(),
                         inner_points.data(), status.data());
           },
           nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().noconvert(),
           nb::arg().noconvert(), nb::arg().noconvert(), nb::arg().noconvert(), nb::arg(), Release())
      .def("suppress",
           [](GraspRefinement& self, Array<const float, 3> rotation, Array<const float, 2> translation,
              Array<const std::int32_t, 1> group, float distance, float cosine, Array<std::uint8_t, 1> kept) {
             self.suppress({rotation.data(), translation.data(), nullptr, nullptr,
                            static_cast<std::int64_t>(translation.shape(0))},
                           group.data(), {distance, cosine}, kept.data());
           },
           nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().noconvert(), Release());
}

}  // namespace zerograsp
