#include <stdexcept>

#include "core/occlusion.h"
#include "python/module.h"

namespace zerograsp {

void bind_occlusion(nb::module_& m) {
  nb::class_<OcclusionWorkspace>(m, "OcclusionWorkspace").def(nb::init<>());
  m.def(
      "occlusion_field",
      [](Array<const float, 2> centres, Array<const std::int32_t, 1> object_index, Array<const float, 2> depth,
         Array<const std::int32_t, 2> labels, Array<const std::uint8_t, 2> adjacency, Array<const float, 2> intrinsics,
         float edge, int resolution, int threads, Array<float, 5> out, OcclusionWorkspace& workspace) {
        const float* k = intrinsics.data();
        const OcclusionInput input = {centres.data(), object_index.data(), static_cast<int>(centres.shape(0)),
                                      depth.data(), labels.data(), static_cast<int>(depth.shape(0)),
                                      static_cast<int>(depth.shape(1)), adjacency.data(),
                                      static_cast<int>(adjacency.shape(0)), k[0], k[4], k[2], k[5], edge, resolution};
        OcclusionError error;
        {
          nb::gil_scoped_release release;
          error = occlusion_field(input, out.data(), workspace, openmp(threads));
        }
        if (error != OcclusionError::none) throw std::invalid_argument(describe(error));
      },
      nb::arg("centres"), nb::arg("object_index"), nb::arg("depth"), nb::arg("labels"), nb::arg("adjacency"),
      nb::arg("intrinsics"), nb::arg("edge"), nb::arg("resolution"), nb::arg("threads"), nb::arg("out"),
      nb::arg("workspace"));
}

}  // namespace zerograsp
