// Small kernels for test_cuda_on_cpu.py: correct ones, and ones with a planted fault that the stand-in must find.
#include "cuda_on_cpu.h"

#define SHARED(Type, name)                  \
  static const char name##_tag = 0;         \
  Type& name = *static_cast<Type*>(cuda_on_cpu::shared_variable(&name##_tag, sizeof(Type)))

namespace {

struct Tile {
  int value[128];
};

void reverse(const int* x, int* y, bool barrier) {
  SHARED(Tile, tile);
  const int t = threadIdx.x;
  tile.value[t] = x[128 * blockIdx.x + t];
  if (barrier) __syncthreads();
  y[128 * blockIdx.x + t] = tile.value[127 - t];
}

void read_poison(int* y) {
  SHARED(Tile, tile);
  y[blockIdx.x] = tile.value[5];
  tile.value[5] = 1;
}

void sum_warps(const int* x, int* y) {
  int v = x[threadIdx.x];
  for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
  const unsigned odd = __ballot_sync(0xffffffffu, x[threadIdx.x] % 2 != 0);
  y[threadIdx.x] = v * 64 + __popc(odd);
}

void halves_apart(int* y) {  // two groups of a warp, each with a mask of its own
  const unsigned lane = threadIdx.x % 32, mask = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  if (lane < 16)
    y[threadIdx.x] = __shfl_sync(mask, static_cast<int>(threadIdx.x), 3);
  else
    y[threadIdx.x] = __shfl_down_sync(mask, static_cast<int>(threadIdx.x), 1, 16);
}

void one_pace(const int* x, int* y) {  // the second warp relies on the first having gone as far
  SHARED(Tile, tile);
  const int t = threadIdx.x;
  int v = x[t];
  v = __shfl_xor_sync(0xffffffffu, v, 1);
  if (t < 32) tile.value[t] = v;
  for (int i = 0; i < 4; ++i) v = __shfl_xor_sync(0xffffffffu, v, 1);
  y[t] = t < 32 ? 0 : tile.value[t - 32];
}

void async(const int* x, int* y, bool wait) {
  SHARED(Tile, tile);
  const int t = threadIdx.x;
  cuda_on_cpu::async_copy(&tile.value[4 * t], x + 4 * t, 16, t == 31 ? 0 : 16);
  cuda_on_cpu::async_commit();
  if (wait) cuda_on_cpu::async_wait(0);
  __syncthreads();
  for (int i = 0; i < 4; ++i) y[4 * t + i] = tile.value[127 - 4 * t - i];
}

void mask_without_self() { __shfl_sync(0x0000ffffu, 1, 0); }
void reads_from_outside() {
  if (threadIdx.x < 16) __shfl_sync(0x0000ffffu, 1, 20);
}
void named_but_absent() {
  if (threadIdx.x != 7) __syncwarp(0xffffffffu);
}
void exits_before_barrier() {
  if (threadIdx.x == 3) return;
  __syncthreads();
}
void two_barriers() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
void barrier_in_half_a_warp() {
  if (threadIdx.x % 32 < 16) __syncthreads();
  __syncwarp();
  __syncthreads();
}
void misaligned_copy(const int* x) {
  SHARED(Tile, tile);
  cuda_on_cpu::async_copy(&tile.value[1], x, 16, 16);
}
struct Huge {
  char bytes[50000];
};
void too_much_shared() {
  SHARED(Huge, huge);
  huge.bytes[0] = 0;
}
void deep_stack(int* y) {
  volatile char frame[cuda_on_cpu::kStack + 1024];
  for (std::size_t i = 0; i < sizeof frame; i += 16) frame[i] = 1;
  y[0] = frame[16];
}
void out_of_bounds() {
  SHARED(Tile, tile);
  volatile int index = 128;
  tile.value[index] = 1;
}

}  // namespace

extern "C" __attribute__((visibility("default"))) int run_shim_kernel(const char* name, const int* x, int* y) {
  using cuda_on_cpu::launch;
  const std::string which = name;
  const auto is = [&](const char* other) { return which == other; };
  if (is("reverse")) return launch(3, 128, [&] { reverse(x, y, true); });
  if (is("missing barrier")) return launch(3, 128, [&] { reverse(x, y, false); });
  if (is("poison")) return launch(4, 1, [&] { read_poison(y); });
  if (is("warps")) return launch(1, 64, [&] { sum_warps(x, y); });
  if (is("one pace")) return launch(6, 64, [&] { one_pace(x, y + 64 * blockIdx.x); });
  if (is("halves")) return launch(1, 64, [&] { halves_apart(y); });
  if (is("async")) return launch(1, 32, [&] { async(x, y, true); });
  if (is("async without wait")) return launch(1, 32, [&] { async(x, y, false); });
  if (is("mask without self")) return launch(1, 32, [] { mask_without_self(); });
  if (is("reads from outside")) return launch(1, 32, [] { reads_from_outside(); });
  if (is("named but absent")) return launch(1, 32, [] { named_but_absent(); });
  if (is("exits before barrier")) return launch(1, 64, [] { exits_before_barrier(); });
  if (is("two barriers")) return launch(1, 64, [] { two_barriers(); });
  if (is("barrier in half a warp")) return launch(1, 64, [] { barrier_in_half_a_warp(); });
  if (is("misaligned copy")) return launch(1, 1, [&] { misaligned_copy(x); });
  if (is("too much shared")) return launch(1, 1, [] { too_much_shared(); });
  if (is("deep stack")) return launch(1, 1, [&] { deep_stack(y); });
  if (is("too many threads")) return launch(1, 1025, [] {});
  if (is("out of bounds")) return launch(1, 1, [] { out_of_bounds(); });
  return -1;
}

extern "C" __attribute__((visibility("default"))) void convert_halves(const unsigned short* h, float* f, int n, const float* g,
                                                                      unsigned short* k, int m) {
  for (int i = 0; i < n; ++i) f[i] = __half2float({h[i]});
  for (int i = 0; i < m; ++i) k[i] = __float2half(g[i]).bits;
}
