#include <nanobind/stl/optional.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "core/octree.h"
#include "core/parallel.h"
#include "python/module.h"

namespace zerograsp {

namespace {

using Floats = Array<const float, 1>;
using Release = nb::call_guard<nb::gil_scoped_release>;

template <class A>
auto* data_or_null(const std::optional<A>& array) {
  return array ? array->data() : nullptr;
}

template <class T>
std::vector<T*> pointers(const std::vector<nb::ndarray<T, nb::c_contig, nb::device::cpu>>& arrays) {
  std::vector<T*> result;
  for (const auto& array : arrays) result.push_back(array.data());
  return result;
}

bool scan(PointScan& self, Array<const float, 2> depth, Array<const std::int32_t, 2> labels, std::int64_t objects,
          Floats inverse, float grid_size, float z_margin, float half_extent, float margin, float min_depth,
          std::optional<Array<std::int32_t, 2>> valid_labels, int threads) {
  Camera camera;
  std::copy_n(inverse.data(), 9, camera.inverse);
  return self.scan(openmp(threads), depth.data(), labels.data(), static_cast<std::int64_t>(depth.shape(0)),
                   static_cast<std::int64_t>(depth.shape(1)), objects, camera, {grid_size, z_margin, half_extent, margin, min_depth},
                   data_or_null(valid_labels));
}

using Keys = nb::ndarray<std::int64_t, nb::c_contig, nb::device::cpu>;
using Ranks = nb::ndarray<std::int32_t, nb::c_contig, nb::device::cpu>;

void write_octree(OctreeBuild& self, const std::vector<Keys>& keys, const std::vector<Ranks>& children,
                  const std::vector<Ranks>& split_neighbours, Array<std::int32_t, 1> voxel, int threads) {
  self.write(openmp(threads), pointers(keys).data(), pointers(children).data(), pointers(split_neighbours).data(),
             voxel.data());
}

bool decide(OctreeGrowth& self, std::optional<Array<const float, 2>> logits,
            std::optional<Array<const std::int32_t, 1>> rows, std::optional<Array<const std::uint8_t, 1>> forced,
            std::int64_t nodes, bool keep_one, int threads) {
  const std::int64_t row_count = logits ? static_cast<std::int64_t>(logits->shape(0)) : INT32_MAX;
  return self.decide(openmp(threads), data_or_null(logits), row_count,
                     logits ? static_cast<std::int64_t>(logits->shape(1)) : 0, data_or_null(rows), data_or_null(forced),
                     nodes, keep_one);
}

void write_growth(OctreeGrowth& self, std::optional<Array<const std::int32_t, 1>> rows, Array<const std::int64_t, 1> keys,
                  Array<std::int32_t, 1> children, Array<std::int32_t, 1> split_rows,
                  std::optional<Array<std::int64_t, 1>> next_keys, int threads) {
  self.write(openmp(threads), data_or_null(rows), keys.data(), children.data(), split_rows.data(),
             data_or_null(next_keys));
}

bool voxel_features(VoxelFeatures& self, Array<const float, 2> points, Array<const std::int32_t, 1> voxel,
                    std::int64_t voxels, int depth, std::optional<RealArray<3>> features, Floats intrinsics,
                    float half_extent, float z_min, std::int64_t height, std::int64_t width, RealArray<2> out,
                    int threads) {
  Projection projection;
  std::copy_n(intrinsics.data(), 9, projection.intrinsics);
  projection.half_extent = half_extent;
  projection.z_min = z_min;
  projection.height = height;
  projection.width = width;
  const auto extent = [&](int axis) { return features ? static_cast<std::int64_t>(features->shape(axis)) : 0; };
  const auto run = [&](const auto* map, auto* to) {
    return self.run(openmp(threads), points.data(), voxel.data(), static_cast<std::int64_t>(voxel.shape(0)), voxels, depth,
                    map, extent(0), extent(1), extent(2), projection, to);
  };
  const auto run_to = [&](auto* to) {
    if (!features) return run(static_cast<const float*>(nullptr), to);
    if (is_half(*features)) return run(static_cast<const Half*>(features->data()), to);
    return run(static_cast<const float*>(features->data()), to);
  };
  return is_half(out) ? run_to(static_cast<Half*>(out.data())) : run_to(static_cast<float*>(out.data()));
}

}  // namespace

void bind_octree(nb::module_& m) {
  nb::class_<PointScan>(m, "PointScan")
      .def(nb::init<>())
      .def("scan", &scan, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg().noconvert().none(), nb::arg(), Release())
      .def_prop_ro("points", &PointScan::points)
      .def_prop_ro("z_min", &PointScan::z_min)
      .def_prop_ro("wrong_label", &PointScan::wrong_label)
      .def("write",
           [](PointScan& self, Array<float, 2> points, Array<std::int32_t, 1> counts, Array<std::int32_t, 1> valid_counts,
              int threads) { self.write(openmp(threads), points.data(), counts.data(), valid_counts.data()); },
           nb::arg().noconvert(), nb::arg().noconvert(), nb::arg().noconvert(), nb::arg(), Release());

  nb::class_<OctreeBuild>(m, "OctreeBuild")
      .def(nb::init<>())
      .def("sort",
           [](OctreeBuild& self, Array<const float, 2> points, Array<const std::int32_t, 1> counts, int depth,
              int full_depth, int threads) {
             return self.sort(openmp(threads), points.data(), counts.data(), static_cast<std::int64_t>(counts.shape(0)),
                              depth, full_depth);
           },
           Release())
      .def("split_counts",
           [](const OctreeBuild& self, Array<std::int64_t, 2> counts) {
             for (int d = 0; d <= self.depth(); ++d)
               for (std::int64_t o = 0; o < self.objects(); ++o)
                 counts.data()[d * self.objects() + o] = self.split_count(d, o);
           },
           nb::arg().noconvert())
      .def("write", &write_octree, nb::arg().noconvert(), nb::arg().noconvert(), nb::arg().noconvert(),
           nb::arg().noconvert(), nb::arg(), Release());

  nb::class_<OctreeGrowth>(m, "OctreeGrowth")
      .def(nb::init<>())
      .def("decide", &decide, nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg(), Release())
      .def_prop_ro("split_count", &OctreeGrowth::split_count)
      .def_prop_ro("nan_count", &OctreeGrowth::nan_count)
      .def("write", &write_growth, nb::arg().none(), nb::arg(), nb::arg().noconvert(), nb::arg().noconvert(),
           nb::arg().noconvert().none(), nb::arg(), Release());

  nb::class_<ActiveGrid>(m, "ActiveGridBuild")
      .def(nb::init<>())
      .def("mark",
           [](ActiveGrid& self, Array<const std::int64_t, 1> keys, std::int64_t objects, int depth, int radius) {
             return self.mark(keys.data(), static_cast<std::int64_t>(keys.shape(0)), objects, depth, radius);
           },
           Release())
      .def_prop_ro("rows", &ActiveGrid::rows)
      .def_prop_ro("active", &ActiveGrid::active)
      .def("write",
           [](ActiveGrid& self, Array<const std::int64_t, 1> keys, Array<std::int32_t, 1> rows,
              Array<std::int32_t, 2> neighbours, Array<std::int32_t, 1> source, int threads) {
             self.write(openmp(threads), keys.data(), rows.data(), neighbours.data(), source.data());
           },
           nb::arg(), nb::arg().noconvert(), nb::arg().noconvert(), nb::arg().noconvert(), nb::arg(), Release());

  nb::class_<VoxelFeatures>(m, "VoxelFeatures")
      .def(nb::init<>())
      .def("run", &voxel_features, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg(), nb::arg(), nb::arg().noconvert(), nb::arg(), Release());

  nb::class_<MaskAdjacency>(m, "MaskAdjacency")
      .def(nb::init<>())
      .def("run",
           [](MaskAdjacency& self, Array<const std::int32_t, 2> labels, Array<std::uint8_t, 2> adjacent, int threads) {
             return self.run(openmp(threads), labels.data(), static_cast<std::int64_t>(labels.shape(0)),
                             static_cast<std::int64_t>(labels.shape(1)), static_cast<std::int64_t>(adjacent.shape(0)),
                             adjacent.data());
           },
           nb::arg(), nb::arg().noconvert(), nb::arg(), Release())
      .def_prop_ro("wrong_label", &MaskAdjacency::wrong_label);

  m.def("expand_neighbours",
        [](Array<const std::int32_t, 2> split_neighbours, std::optional<Array<const std::int32_t, 1>> rank,
           Array<std::int32_t, 2> neighbours, int threads) {
          expand_neighbours(openmp(threads), split_neighbours.data(), static_cast<std::int64_t>(split_neighbours.shape(0)),
                            data_or_null(rank), neighbours.data());
        },
        nb::arg(), nb::arg().none(), nb::arg().noconvert(), nb::arg(), Release());
  m.def("split_neighbours_from_parents",
        [](Array<const std::int32_t, 2> parents, Array<const std::int32_t, 1> children,
           Array<std::int32_t, 2> split_neighbours, int threads) {
          split_neighbours_from_parents(openmp(threads), parents.data(), static_cast<std::int64_t>(parents.shape(0)),
                                        children.data(), split_neighbours.data());
        },
        nb::arg(), nb::arg(), nb::arg().noconvert(), nb::arg(), Release());
  m.def("split_neighbours_of_grid",
        [](int depth, Array<const std::int32_t, 1> children, Array<std::int32_t, 2> split_neighbours, int threads) {
          split_neighbours_of_grid(openmp(threads), depth, static_cast<std::int64_t>(children.shape(0)) >> (3 * depth),
                                   children.data(), split_neighbours.data());
        },
        nb::arg(), nb::arg(), nb::arg().noconvert(), nb::arg(), Release());
  m.def("align_keys",
        [](Array<const std::int64_t, 1> source, Array<const std::int64_t, 1> target, Array<std::int32_t, 1> rows,
           int threads) {
          align_keys(openmp(threads), source.data(), static_cast<std::int64_t>(source.shape(0)), target.data(),
                     static_cast<std::int64_t>(target.shape(0)), rows.data());
        },
        nb::arg(), nb::arg(), nb::arg().noconvert(), nb::arg(), Release());
}

}  // namespace zerograsp
