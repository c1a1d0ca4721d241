#include <nanobind/stl/optional.h>

#include <optional>

#include "core/training.h"
#include "python/module.h"

namespace zerograsp {
namespace {

using Floats1 = Array<const float, 1>;
using Floats2 = Array<const float, 2>;
using Ints1 = Array<const std::int32_t, 1>;
using Ints2 = Array<const std::int32_t, 2>;
using Out1 = Array<float, 1>;
using Out2 = Array<float, 2>;
using Out3 = Array<float, 3>;
using Release = nb::call_guard<nb::gil_scoped_release>;

std::int64_t rows(const Floats2& x) { return static_cast<std::int64_t>(x.shape(0)); }
int columns(const Floats2& x) { return static_cast<int>(x.shape(1)); }

template <class A>
auto* data_or_null(const std::optional<A>& array) {
  return array ? array->data() : nullptr;
}

void weight_gradient(const Floats2& x, const std::optional<Ints2>& neighbours, const Floats2& dy, const Out3& dw,
                     Workspace& workspace, int threads) {
  const TapTable table{data_or_null(neighbours), neighbours ? static_cast<std::int64_t>(neighbours->shape(1)) : rows(dy),
                       neighbours ? static_cast<int>(neighbours->shape(0)) : 1};
  conv_weight_gradient(x.data(), columns(x), table, dy.data(), rows(dy), columns(dy), dw.data(), workspace, openmp(threads));
}

void grid_weight_gradient(const Floats2& x, const GridTable& grid, const Floats2& dy, const Out3& dw, Workspace& workspace,
                          int threads) {
  const TapTable table{grid.neighbours.data(), grid.rows, 27};
  conv_weight_gradient(x.data(), columns(x), table, dy.data(), rows(dy), columns(dy), dw.data(), workspace, openmp(threads));
}

void statistics(const Floats2& x, const Out1& mean, const Out1& variance, Workspace& workspace, int threads) {
  batch_statistics(x.data(), rows(x), columns(x), mean.data(), variance.data(), workspace, openmp(threads));
}

Normalisation normalisation(const Floats1& mean, const Floats1& inverse, const Floats1& weight, const Floats1& bias,
                            int activation) {
  return {static_cast<int>(mean.shape(0)), mean.data(), inverse.data(), weight.data(), bias.data(),
          static_cast<Activation>(activation)};
}

void normalise_rows(const Floats2& x, const Floats1& mean, const Floats1& inverse, const Floats1& weight,
                    const Floats1& bias, int activation, const std::optional<Floats2>& residual, const Out2& y, int threads) {
  normalise(x.data(), rows(x), normalisation(mean, inverse, weight, bias, activation), data_or_null(residual), y.data(),
            openmp(threads));
}

void gradient(const Floats2& dy, const Floats2& x, const Floats1& mean, const Floats1& inverse, const Floats1& weight,
              const Floats1& bias, int activation, const std::optional<Floats2>& residual, const Out2& dx,
              const Out1& dweight, const Out1& dbias, const std::optional<Out2>& dresidual, Workspace& workspace,
              int threads) {
  normalise_gradient(dy.data(), x.data(), rows(x), normalisation(mean, inverse, weight, bias, activation),
                     data_or_null(residual), dx.data(), dweight.data(), dbias.data(), data_or_null(dresidual), workspace,
                     openmp(threads));
}

void gather(const Floats2& x, const Ints1& index, const std::optional<Floats2>& base, const Out2& y, int threads) {
  gather_rows(x.data(), index.data(), static_cast<std::int64_t>(index.shape(0)), columns(x), data_or_null(base), y.data(),
              openmp(threads));
}

}  // namespace

void bind_training(nb::module_& m) {
  m.def("conv_weight_gradient", &weight_gradient, nb::arg("x"), nb::arg("neighbours").none(), nb::arg("dy"), nb::arg("dw"),
        nb::arg("workspace"), nb::arg("threads"), Release());
  m.def("grid_weight_gradient", &grid_weight_gradient, Release());
  m.def("batch_statistics", &statistics, Release());
  m.def("normalise", &normalise_rows, nb::arg("x"), nb::arg("mean"), nb::arg("inverse_deviation"), nb::arg("weight"),
        nb::arg("bias"), nb::arg("activation"), nb::arg("residual").none(), nb::arg("y"), nb::arg("threads"), Release());
  m.def("normalise_gradient", &gradient, nb::arg("dy"), nb::arg("x"), nb::arg("mean"), nb::arg("inverse_deviation"),
        nb::arg("weight"), nb::arg("bias"), nb::arg("activation"), nb::arg("residual").none(), nb::arg("dx"),
        nb::arg("dweight"), nb::arg("dbias"), nb::arg("dresidual").none(), nb::arg("workspace"), nb::arg("threads"),
        Release());
  m.def("gather_rows", &gather, nb::arg("x"), nb::arg("index"), nb::arg("base").none(), nb::arg("y"), nb::arg("threads"),
        Release());
}

}  // namespace zerograsp
