#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace zerograsp {

namespace nb = nanobind;

template <class T, int Rank>
using Array = nb::ndarray<T, nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;

void bind_convolution(nb::module_& m);
void bind_grasp(nb::module_& m);
void bind_octree(nb::module_& m);
void bind_occlusion(nb::module_& m);
void bind_segmentation(nb::module_& m);
void bind_training(nb::module_& m);

}  // namespace zerograsp
