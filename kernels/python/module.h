#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>

namespace zerograsp {

namespace nb = nanobind;

template <class T, int Rank>
using Array = nb::ndarray<T, nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;

// An array of float32 or float16, as the element type says.
template <int Rank>
using RealArray = nb::ndarray<nb::ndim<Rank>, nb::c_contig, nb::device::cpu>;

template <class Array>
bool is_half(const Array& array) {
  return array.dtype().code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) && array.dtype().bits == 16;
}

void bind_convolution(nb::module_& m);
void bind_convolution_int8(nb::module_& m);
void bind_grasp(nb::module_& m);
void bind_octree(nb::module_& m);
void bind_occlusion(nb::module_& m);
void bind_segmentation(nb::module_& m);
void bind_training(nb::module_& m);

}  // namespace zerograsp
