// The yardstick of benchmarks/occlusion.py: the occlusion field as a GPU would do it, one work item per (sub-voxel,
// triangle), ported straight to C++: rasterise every triangle, OR the flags. OpenMP over the sub-voxels, no shortcuts.
// Built on demand: g++ -O3 -march=native -ffp-contract=off -fopenmp -shared -fPIC.
#include <algorithm>
#include <cmath>
#include <cstdint>

namespace {

struct Corner {
  float x, y, z;
};

struct Image {
  const float* depth;
  const std::int32_t* labels;
  int height, width;
  const std::uint8_t* adjacency;
  int objects;
};

// Corner index = 4 * (x high) + 2 * (y high) + (z high).
constexpr int kTriangles[12][3] = {{1, 2, 3}, {1, 0, 2}, {4, 6, 7}, {4, 5, 7}, {0, 1, 5}, {0, 5, 4},
                                   {3, 7, 6}, {3, 6, 2}, {4, 6, 2}, {4, 0, 2}, {7, 1, 5}, {1, 7, 3}};

float to_pixel(float value, float z, float focal, float centre, int size) {
  const float ndc = 2.0f * ((focal * value + centre * z) / z - size / 2.0f) / size;
  return 0.5f * (ndc * size + size - 1.0f);
}

void rasterise(Corner a, Corner b, Corner c, const Image& image, int owner, float* self, float* inter) {
  if (b.x < a.x) std::swap(a, b);
  if (c.x < b.x) std::swap(b, c);
  if (b.x < a.x) std::swap(a, b);
  const float area = c.x * (a.y - b.y) + a.x * (b.y - c.y) + b.x * (c.y - a.y);
  if (a.x == c.x || area == 0.0f) return;
  float inverse[9] = {b.y - c.y, c.x - b.x, b.x * c.y - c.x * b.y, c.y - a.y, a.x - c.x,
                      c.x * a.y - a.x * c.y, a.y - b.y, b.x - a.x, a.x * b.y - b.x * a.y};
  for (float& v : inverse) v /= area;
  const int first_x = static_cast<int>(std::max(std::floor(a.x), 0.0f));
  const int last_x = static_cast<int>(std::min(c.x, image.width - 1.0f));
  for (int x = first_x; x <= last_x; ++x) {
    const float at = std::min(std::max(static_cast<float>(x), a.x), c.x);
    float shorter = b.y;
    if (at <= b.x) {
      if (b.x != a.x) shorter = (b.y - a.y) / (b.x - a.x) * (at - a.x) + a.y;
    } else if (c.x != b.x) {
      shorter = (c.y - b.y) / (c.x - b.x) * (at - b.x) + b.y;
    }
    const float longer = (c.y - a.y) / (c.x - a.x) * (at - a.x) + a.y;
    const int first_y = static_cast<int>(std::max(0.0f, std::floor(std::min(shorter, longer))));
    const int last_y = static_cast<int>(std::min(std::max(shorter, longer), image.height - 1.0f));
    for (int y = first_y; y <= last_y; ++y) {
      float w[3], sum = 0.0f;
      for (int k = 0; k < 3; ++k) {
        w[k] = inverse[3 * k] * x + inverse[3 * k + 1] * y + inverse[3 * k + 2];
        w[k] = std::min(std::max(w[k], 0.0f), 1.0f);
        sum += w[k];
      }
      const float z = 1.0f / (w[0] / sum / a.z + w[1] / sum / b.z + w[2] / sum / c.z);
      const float depth = image.depth[y * image.width + x];
      if (!(z > depth && depth > 10.0f)) continue;
      const int label = image.labels[y * image.width + x];
      if (label == owner) *self = 1.0f;
      if (label >= 0 && image.adjacency[owner * image.objects + label]) *inter = 1.0f;
    }
  }
}

}  // namespace

extern "C" void occlusion_port(const float* centres, const std::int32_t* object, int nodes, const float* depth,
                               const std::int32_t* labels, int height, int width, const std::uint8_t* adjacency,
                               int objects, const float* intrinsics, float edge, int resolution, int threads,
                               float* out) {
  const Image image = {depth, labels, height, width, adjacency, objects};
  const int r = resolution, cells = r * r * r;
  const float half = edge / r / 2.0f;
#pragma omp parallel for schedule(dynamic, 64) num_threads(threads)
  for (int item = 0; item < nodes * cells; ++item) {
    const int node = item / cells, cell = item % cells, grid[3] = {cell / (r * r), cell / r % r, cell % r};
    float centre[3];
    for (int axis = 0; axis < 3; ++axis)
      centre[axis] = centres[3 * node + axis] + static_cast<float>(edge * ((grid[axis] + 0.5) / r - 0.5));
    float self = 0.0f, inter = 0.0f;
    if (centre[2] - half >= 1.0f) {
      Corner corners[8];
      for (int v = 0; v < 8; ++v) {
        const float z = centre[2] + (v & 1 ? half : -half);
        corners[v] = {to_pixel(centre[0] + (v & 4 ? half : -half), z, intrinsics[0], intrinsics[2], width),
                      to_pixel(centre[1] + (v & 2 ? half : -half), z, intrinsics[4], intrinsics[5], height), z};
      }
      for (const auto& t : kTriangles)
        rasterise(corners[t[0]], corners[t[1]], corners[t[2]], image, object[node], &self, &inter);
    }
    out[2 * node * cells + cell] = self;
    out[(2 * node + 1) * cells + cell] = inter;
  }
}
