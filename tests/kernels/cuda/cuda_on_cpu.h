// Runs the CUDA sources of kernels/cuda/ on a CPU, for tests: what nvcc would compile is compiled by any C++17 compiler
// with -DZEROGRASP_CUDA_ON_CPU and this folder on the include path.
//
// One fiber per CUDA thread. Blocks run one after the other; within a block, threads run one at a time from one
// synchronisation to the next. A seed shuffles the order of blocks and of threads, and holds back one warp of most blocks
// for as long as others can go on, so that code which relies on an order or a pace gives different results. Checked on
// the way, each ending the launch with an error that names the place:
//
//   __syncthreads   every thread of the block arrives, at the same source line, and none has exited
//   warp intrinsics every thread that the mask names arrives, at the same line, with the same mask that names itself;
//                   a shuffle reads only from threads that the mask names
//   shared memory   poisoned for every block and gone after it, at most 48 KB; exact bounds under AddressSanitizer
//   cp.async        data arrive when they are waited for and not before; addresses are aligned
//   mma, ldmatrix   computed by the whole warp from the fragment layouts of the PTX ISA (9.7.14.5)
//   launches        block and grid sizes are possible, stacks do not overflow
//
// What it cannot see: races between two threads that do not depend on order at synchronisations (blocks are serial, and
// a thread is never interrupted elsewhere), weak memory ordering, warp divergence and timing. Texture, cooperative groups
// and dynamic parallelism do not exist here. One launch at a time.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
// Switching stacks: by a few instructions on x86-64, elsewhere by ucontext, which makes system calls.
#if !defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)
#define CUDA_ON_CPU_UCONTEXT
#endif
#if defined(CUDA_ON_CPU_UCONTEXT)
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

using cudaStream_t = struct CUstream_st*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9, cudaErrorLaunchFailure = 719 };

// ---- IEEE half precision, as cuda_fp16.h has it: conversions round to nearest even ----

struct __half {
  std::uint16_t bits;
};

inline float __half2float(__half h) {
  const std::uint32_t sign = (h.bits & 0x8000u) << 16, exponent = h.bits >> 10 & 31u, fraction = h.bits & 0x3ffu;
  std::uint32_t word;
  if (exponent == 31) {
    word = sign | 0x7f800000u | fraction << 13;
  } else if (exponent != 0) {
    word = sign | (exponent + 112) << 23 | fraction << 13;
  } else {
    const float value = static_cast<float>(fraction) * 0x1p-24f;
    return sign ? -value : value;
  }
  float out;
  std::memcpy(&out, &word, 4);
  return out;
}

inline __half __float2half(float f) {
  std::uint32_t word;
  std::memcpy(&word, &f, 4);
  const std::uint16_t sign = static_cast<std::uint16_t>(word >> 16 & 0x8000u);
  const float magnitude = std::fabs(f);
  if (!(magnitude == magnitude)) return {0x7fff};
  if (magnitude >= 65520.0f) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x1p-14f) {  // subnormal: the fraction in units of 2^-24; nearbyint rounds to even
    return {static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(std::nearbyint(magnitude * 0x1p24f)))};
  }
  word &= 0x7fffffffu;
  const std::uint32_t rounded = word + 0xfffu + (word >> 13 & 1u);  // a carry moves into the exponent, as it should
  return {static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112u << 10)))};
}

namespace cuda_on_cpu {

constexpr unsigned kWarp = 32, kMaxThreads = 1024;
constexpr std::size_t kMaxShared = 48 * 1024;
#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStack = 256 * 1024;
#else
constexpr std::size_t kStack = 64 * 1024;
#endif
constexpr std::size_t kGuard = 8 * 1024;  // below every stack, to see an overflow
constexpr char kCanary = 0x5c;

enum class State { kReady, kBlockBarrier, kWarpCollective, kDone };

// What a warp does together: called once with the arguments of all its threads that take part (null for the others).
using Collective = void (*)(void** arguments);

struct AsyncCopy {
  void* to;
  const void* from;
  unsigned bytes, valid;  // from `valid` on: zeros
  int group;
};

struct Thread {
  dim3 index{0, 0, 0};
  unsigned linear = 0;
  State state = State::kDone;
  const char* place = nullptr;  // where it waits
  int line = 0;
  unsigned mask = 0;
  Collective collective = nullptr;
  void* argument = nullptr;
  std::vector<AsyncCopy> copies;
  int open_group = 0;

  // The fiber.
  std::unique_ptr<char[]> stack;
  bool entered = false;
#if !defined(CUDA_ON_CPU_UCONTEXT)
  void* saved = nullptr;
#else
  ucontext_t context;
#endif
};

struct SharedVariable {
  const void* tag;
  void* data;
};

struct Machine {
  std::vector<Thread> threads;
  Thread* current = nullptr;
  dim3 grid, block, block_index{0, 0, 0};
  std::function<void()> body;
  std::vector<SharedVariable> shared;
  std::size_t shared_bytes = 0;
  unsigned char poison = 0;
  unsigned seed = 0;
  int reduction = 0;      // of __syncthreads_or, while threads arrive
  int reduced = 0;        // and its result
  std::string fault;      // of the current launch
  std::string last_fault;
  cudaError_t pending = cudaSuccess;
  unsigned long launches = 0;
#if !defined(CUDA_ON_CPU_UCONTEXT)
  void* scheduler = nullptr;
#else
  ucontext_t scheduler;
#endif
  const void* scheduler_stack = nullptr;
  std::size_t scheduler_stack_size = 0;
};

inline Machine& machine() {
  static Machine one;
  return one;
}

// ---- switching stacks ----

#if !defined(CUDA_ON_CPU_UCONTEXT)
// Pushes the registers that a call preserves, stores the stack pointer and takes the other one.
__attribute__((naked, noinline)) inline void switch_stack(void** /*save*/, void* /*load*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}
#endif

// From a thread to the scheduler; returns when the scheduler resumes the thread.
inline void leave() {
  Machine& m = machine();
  Thread& t = *m.current;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, m.scheduler_stack, m.scheduler_stack_size);
#endif
#if !defined(CUDA_ON_CPU_UCONTEXT)
  switch_stack(&t.saved, m.scheduler);
#else
  swapcontext(&t.context, &m.scheduler);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, &m.scheduler_stack, &m.scheduler_stack_size);
#endif
}

inline void fiber_main() {
  Machine& m = machine();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &m.scheduler_stack, &m.scheduler_stack_size);
#endif
  for (;;) {  // a fiber lives on for the next block
    m.body();
    m.current->state = State::kDone;
    leave();
  }
}

inline void enter(Thread& t) {
  Machine& m = machine();
  m.current = &t;
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, t.stack.get() + kGuard, kStack);
#endif
#if !defined(CUDA_ON_CPU_UCONTEXT)
  if (!t.entered) {  // as if switch_stack had been called at the start of fiber_main
    auto top = reinterpret_cast<std::uintptr_t>(t.stack.get() + kGuard + kStack) & ~std::uintptr_t{15};
    void** frame = reinterpret_cast<void**>(top) - 8;
    std::fill(frame, frame + 8, nullptr);
    frame[6] = reinterpret_cast<void*>(&fiber_main);
    t.saved = frame;
  }
  t.entered = true;
  switch_stack(&m.scheduler, t.saved);
#else
  if (!t.entered) {
    getcontext(&t.context);
    t.context.uc_stack.ss_sp = t.stack.get() + kGuard;
    t.context.uc_stack.ss_size = kStack;
    t.context.uc_link = nullptr;
    makecontext(&t.context, fiber_main, 0);
  }
  t.entered = true;
  swapcontext(&m.scheduler, &t.context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  m.current = nullptr;
}

// ---- faults ----

__attribute__((format(printf, 1, 2))) inline void report(const char* format, ...) {
  char text[512];
  std::va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (machine().fault.empty()) machine().fault = text;
}

// A thread that has done something impossible: never resumed.
template <class... Arguments>
void stop_thread(const char* format, Arguments... arguments) {
  report(format, arguments...);
  for (;;) leave();
}

inline void wait_as(State state, const char* place, int line) {
  Thread& t = *machine().current;
  t.state = state, t.place = place, t.line = line;
  leave();
}

// ---- the scheduler ----

inline std::string describe(const Thread& t) {
  const char* what = t.state == State::kDone ? "has exited" : t.state == State::kReady ? "is running" : "waits at ";
  std::string text = "thread " + std::to_string(t.linear) + " " + what;
  if (t.place && (t.state == State::kBlockBarrier || t.state == State::kWarpCollective))
    text += std::string(t.place) + ", line " + std::to_string(t.line);
  return text;
}

// Runs the collective of a group of threads when all have arrived. True if it did.
inline bool finish_collective(Machine& m, unsigned first_of_warp, Thread& leader) {
  const unsigned warp_end = std::min<unsigned>(first_of_warp + kWarp, static_cast<unsigned>(m.threads.size()));
  void* arguments[kWarp] = {};
  for (unsigned lane = 0; lane < kWarp; ++lane) {
    if (!(leader.mask >> lane & 1u)) continue;
    const unsigned i = first_of_warp + lane;
    if (i >= warp_end) continue;  // a block's last warp may be short: those threads do not exist
    Thread& t = m.threads[i];
    if (t.state == State::kReady) return false;
    const bool joins = t.state == State::kWarpCollective && t.mask == leader.mask && t.line == leader.line &&
                       t.collective == leader.collective;
    if (!joins) {
      report("%s (line %d) with mask 0x%08x: %s, but the mask names it", leader.place, leader.line, leader.mask,
             describe(t).c_str());
      return false;
    }
    arguments[lane] = t.argument;
  }
  leader.collective(arguments);
  for (unsigned lane = 0; lane < kWarp; ++lane)
    if (arguments[lane]) m.threads[first_of_warp + lane].state = State::kReady;
  return true;
}

// `held`: a warp that waits until no other can go on.
inline bool release_warps(Machine& m, unsigned held) {
  bool any = false;
  for (const bool its_turn : {false, true})
    for (Thread& t : m.threads)
      if (t.state == State::kWarpCollective && m.fault.empty() && (t.linear / kWarp == held) == its_turn && !(its_turn && any))
        any |= finish_collective(m, t.linear / kWarp * kWarp, t);
  return any;
}

inline bool release_block(Machine& m) {
  const Thread* first = nullptr;
  for (const Thread& t : m.threads) {
    if (t.state != State::kBlockBarrier) continue;
    if (!first) first = &t;
    if (t.line != first->line || t.place != first->place) {
      report("__syncthreads: %s, but %s", describe(*first).c_str(), describe(t).c_str());
      return false;
    }
  }
  if (!first) return false;
  for (const Thread& t : m.threads)
    if (t.state != State::kBlockBarrier) {
      if (t.state == State::kDone) report("__syncthreads: %s, but %s", describe(*first).c_str(), describe(t).c_str());
      return false;
    }
  m.reduced = m.reduction, m.reduction = 0;
  for (Thread& t : m.threads) t.state = State::kReady;
  return true;
}

inline void run_block(Machine& m, std::vector<unsigned>& order, std::mt19937& random) {
  for (unsigned i = 0; i < m.threads.size(); ++i) {
    Thread& t = m.threads[i];
    t.linear = i, t.index = dim3(i % m.block.x, i / m.block.x % m.block.y, i / (m.block.x * m.block.y));
    t.state = State::kReady, t.copies.clear(), t.open_group = 0;
  }
  m.reduction = 0;
  const unsigned warps_of_block = (static_cast<unsigned>(m.threads.size()) + kWarp - 1) / kWarp;
  const unsigned held = m.seed ? random() % (warps_of_block + 1) : warps_of_block;  // the last: none
  for (bool done = false; !done && m.fault.empty();) {
    if (m.seed) std::shuffle(order.begin(), order.end(), random);
    for (unsigned i : order)
      if (m.threads[i].state == State::kReady && m.fault.empty()) enter(m.threads[i]);
    if (!m.fault.empty()) break;
    done = true;
    for (const Thread& t : m.threads) done &= t.state == State::kDone;
    if (done) break;
    const bool warps = release_warps(m, held);
    if (m.fault.empty() && !warps && !release_block(m) && m.fault.empty()) {
      const auto stuck = std::find_if(m.threads.begin(), m.threads.end(), [](const Thread& t) { return t.state != State::kDone; });
      report("deadlock: %s", describe(*stuck).c_str());
    }
  }
  for (const SharedVariable& v : m.shared) std::free(v.data);
  m.shared.clear(), m.shared_bytes = 0;
}

inline void prepare_fibers(Machine& m, unsigned count) {
  const std::size_t before = m.threads.size();
  m.threads.resize(count);
  for (std::size_t i = before; i < count; ++i) {
    m.threads[i].stack.reset(new char[kGuard + kStack]);
    std::memset(m.threads[i].stack.get(), kCanary, kGuard);
  }
}

inline void check_stacks(const Machine& m) {
  for (const Thread& t : m.threads)
    for (std::size_t i = 0; i < kGuard; ++i)
      if (t.stack[i] != kCanary) return report("thread %u: stack overflow (%zu bytes)", t.linear, kStack);
}

template <class Body>
cudaError_t launch(dim3 grid, dim3 block, Body&& body) {
  Machine& m = machine();
  const unsigned count = block.x * block.y * block.z;
  ++m.launches;
  if (count == 0 || count > kMaxThreads || block.z > 64 || grid.x == 0 || grid.x > 0x7fffffffu || grid.y == 0 ||
      grid.y > 65535 || grid.z == 0 || grid.z > 65535) {
    m.last_fault = "launch: impossible grid or block size";
    return m.pending = cudaErrorInvalidConfiguration;
  }
  prepare_fibers(m, count);
  m.grid = grid, m.block = block, m.body = std::forward<Body>(body), m.fault.clear();
  std::mt19937 random(m.seed);
  std::vector<unsigned> order(count);
  for (unsigned i = 0; i < count; ++i) order[i] = i;
  std::vector<std::uint64_t> blocks(static_cast<std::size_t>(grid.x) * grid.y * grid.z);
  for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
  if (m.seed) std::shuffle(blocks.begin(), blocks.end(), random);
  for (std::uint64_t b : blocks) {
    m.block_index = dim3(static_cast<unsigned>(b % grid.x), static_cast<unsigned>(b / grid.x % grid.y),
                         static_cast<unsigned>(b / grid.x / grid.y));
    m.poison = (b + m.seed) % 2 ? 0x7e : 0xfe;  // large positive or large negative, as float, half or int
    run_block(m, order, random);
    if (b == blocks.back() || !m.fault.empty()) check_stacks(m);
    if (!m.fault.empty()) {
      m.last_fault = "block " + std::to_string(b) + ": " + m.fault;
      m.threads.clear();  // their stacks hold frames that never return
      return m.pending = cudaErrorLaunchFailure;
    }
  }
  return cudaSuccess;
}

// ---- shared memory ----

inline void* shared_variable(const void* tag, std::size_t bytes) {
  Machine& m = machine();
  for (const SharedVariable& v : m.shared)
    if (v.tag == tag) return v.data;
  m.shared_bytes += bytes;
  if (m.shared_bytes > kMaxShared) stop_thread("shared memory: %zu bytes, a block has %zu", m.shared_bytes, kMaxShared);
  void* data = nullptr;
  if (posix_memalign(&data, 16, bytes) != 0) std::abort();
  std::memset(data, m.poison, bytes);
  m.shared.push_back({tag, data});
  return data;
}

// ---- warp collectives ----

template <class Argument>
void collective(unsigned mask, Argument& argument, Collective run, const char* place, int line) {
  Thread& t = *machine().current;
  if (!(mask >> (t.linear % kWarp) & 1u))
    stop_thread("%s (line %d): mask 0x%08x does not name thread %u, which calls it", place, line, mask, t.linear);
  t.mask = mask, t.collective = run, t.argument = &argument;
  wait_as(State::kWarpCollective, place, line);
}

template <class T>
struct Shuffle {
  T value, result;
  int source;
  bool read;
};

template <class T>
T shuffle(unsigned mask, T value, int source, const char* place, int line) {
  Shuffle<T> s{value, value, source, true};
  collective(mask, s, [](void** all) {
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      auto* mine = static_cast<Shuffle<T>*>(all[lane]);
      if (!mine || mine->source < 0) continue;
      const auto* theirs = static_cast<const Shuffle<T>*>(all[mine->source]);
      if (theirs) mine->result = theirs->value; else mine->read = false;
    }
  }, place, line);
  if (!s.read) stop_thread("%s (line %d): thread %u reads from lane %d, which does not take part", place, line,
                           machine().current->linear, source);
  return s.result;
}

inline int lane() { return static_cast<int>(machine().current->linear % kWarp); }

struct Vote {
  bool mine;
  unsigned result;
};

inline unsigned ballot(unsigned mask, bool mine, const char* place, int line) {
  Vote v{mine, 0};
  collective(mask, v, [](void** all) {
    unsigned votes = 0;
    for (unsigned i = 0; i < kWarp; ++i)
      if (all[i] && static_cast<Vote*>(all[i])->mine) votes |= 1u << i;
    for (unsigned i = 0; i < kWarp; ++i)
      if (all[i]) static_cast<Vote*>(all[i])->result = votes;
  }, place, line);
  return v.result;
}

// ---- tensor cores, asynchronous copies ----

// mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32: c (16 x 8) += a (16 x 16) b (16 x 8)
struct Mma {
  const std::uint32_t *a, *b;
  float* c;
};

inline float half_of(const std::uint32_t* registers, int element) {
  return __half2float({static_cast<std::uint16_t>(registers[element / 2] >> (element % 2 * 16))});
}

inline void mma_of_warp(void** all) {
  float a[16][16], b[16][8];
  for (int i = 0; i < 32; ++i) {
    const auto* lane = static_cast<const Mma*>(all[i]);
    const int group = i / 4, within = i % 4;
    for (int e = 0; e < 8; ++e)
      a[group + (e / 2 % 2) * 8][within * 2 + e % 2 + (e / 4) * 8] = half_of(lane->a, e);
    for (int e = 0; e < 4; ++e) b[within * 2 + e % 2 + (e / 2) * 8][group] = half_of(lane->b, e);
  }
  for (int i = 0; i < 32; ++i) {
    const auto* lane = static_cast<const Mma*>(all[i]);
    for (int e = 0; e < 4; ++e) {
      const int row = i / 4 + e / 2 * 8, column = i % 4 * 2 + e % 2;
      float sum = lane->c[e];
      for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
      lane->c[e] = sum;
    }
  }
}

// mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32: c (16 x 8) += a (16 x 32) b (32 x 8), wrapping as the hardware does
struct MmaInt8 {
  const std::uint32_t *a, *b;
  std::int32_t* c;
};

inline int int8_of(const std::uint32_t* registers, int element) {
  return static_cast<std::int8_t>(registers[element / 4] >> (element % 4 * 8));
}

inline void mma_int8_of_warp(void** all) {
  int a[16][32], b[32][8];
  for (int i = 0; i < 32; ++i) {
    const auto* lane = static_cast<const MmaInt8*>(all[i]);
    const int group = i / 4, within = i % 4;
    for (int e = 0; e < 16; ++e)
      a[group + (e / 4 % 2) * 8][within * 4 + e % 4 + (e / 8) * 16] = int8_of(lane->a, e);
    for (int e = 0; e < 8; ++e) b[within * 4 + e % 4 + (e / 4) * 16][group] = int8_of(lane->b, e);
  }
  for (int i = 0; i < 32; ++i) {
    const auto* lane = static_cast<const MmaInt8*>(all[i]);
    for (int e = 0; e < 4; ++e) {
      const int row = i / 4 + e / 2 * 8, column = i % 4 * 2 + e % 2;
      std::uint32_t sum = static_cast<std::uint32_t>(lane->c[e]);
      for (int k = 0; k < 32; ++k) sum += static_cast<std::uint32_t>(a[row][k] * b[k][column]);
      lane->c[e] = static_cast<std::int32_t>(sum);
    }
  }
}

// ldmatrix.sync.aligned.m8n8.x4[.trans].shared.b16: lane 8 m + r gives the address of row r of matrix m
struct LoadMatrix {
  std::uint32_t* to;
  const void* row;
  bool transposed;
};

inline void load_matrix_of_warp(void** all) {
  for (int i = 0; i < 32; ++i) {
    const auto* lane = static_cast<const LoadMatrix*>(all[i]);
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::uint16_t pair[2];
      for (int e = 0; e < 2; ++e) {
        const int row = lane->transposed ? i % 4 * 2 + e : i / 4, column = lane->transposed ? i / 4 : i % 4 * 2 + e;
        const auto* source = static_cast<const LoadMatrix*>(all[8 * matrix + row]);
        std::memcpy(&pair[e], static_cast<const char*>(source->row) + 2 * column, 2);
      }
      lane->to[matrix] = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
    }
  }
}

inline void mma(float* c, const std::uint32_t* a, const std::uint32_t* b, int line = __builtin_LINE()) {
  Mma argument{a, b, c};
  collective(0xffffffffu, argument, mma_of_warp, "mma", line);
}

inline void mma(std::int32_t* c, const std::uint32_t* a, const std::uint32_t* b, int line = __builtin_LINE()) {
  MmaInt8 argument{a, b, c};
  collective(0xffffffffu, argument, mma_int8_of_warp, "mma", line);
}

inline void load_matrix(std::uint32_t* to, const void* row, bool transposed, int line = __builtin_LINE()) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16) stop_thread("ldmatrix (line %d): row at an address not divisible by 16", line);
  LoadMatrix argument{to, row, transposed};
  collective(0xffffffffu, argument, load_matrix_of_warp, "ldmatrix", line);
}

inline void async_copy(void* to, const void* from, unsigned bytes, unsigned valid, int line = __builtin_LINE()) {
  Thread& t = *machine().current;
  if (bytes != 4 && bytes != 8 && bytes != 16) stop_thread("cp.async (line %d): %u bytes, expected 4, 8 or 16", line, bytes);
  if (reinterpret_cast<std::uintptr_t>(to) % bytes || reinterpret_cast<std::uintptr_t>(from) % bytes)
    stop_thread("cp.async (line %d): addresses not divisible by %u", line, bytes);
  t.copies.push_back({to, from, bytes, valid, t.open_group});
}

inline void async_commit() { ++machine().current->open_group; }

// Lets all but the latest `pending` groups arrive.
inline void async_wait(int pending) {
  Thread& t = *machine().current;
  const int arrived = t.open_group - pending;
  for (const AsyncCopy& c : t.copies) {
    if (c.group >= arrived) continue;
    if (c.valid) std::memcpy(c.to, c.from, c.valid);
    std::memset(static_cast<char*>(c.to) + c.valid, 0, c.bytes - c.valid);
  }
  t.copies.erase(std::remove_if(t.copies.begin(), t.copies.end(), [&](const AsyncCopy& c) { return c.group < arrived; }),
                 t.copies.end());
}

}  // namespace cuda_on_cpu

// ---- the names that kernels use ----

#define threadIdx (cuda_on_cpu::machine().current->index)
#define blockIdx (cuda_on_cpu::machine().block_index)
#define blockDim (cuda_on_cpu::machine().block)
#define gridDim (cuda_on_cpu::machine().grid)

inline void __syncthreads(int line = __builtin_LINE()) {
  cuda_on_cpu::wait_as(cuda_on_cpu::State::kBlockBarrier, "__syncthreads", line);
}

inline int __syncthreads_or(int value, int line = __builtin_LINE()) {
  cuda_on_cpu::machine().reduction |= value != 0;
  cuda_on_cpu::wait_as(cuda_on_cpu::State::kBlockBarrier, "__syncthreads_or", line);
  return cuda_on_cpu::machine().reduced;
}

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  int nothing = 0;
  cuda_on_cpu::collective(mask, nothing, [](void**) {}, "__syncwarp", line);
}

// `width` splits the warp into segments that shuffle among themselves; past its segment's end a thread keeps its value.
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, int line = __builtin_LINE()) {
  const int first = cuda_on_cpu::lane() / width * width;
  return cuda_on_cpu::shuffle(mask, value, first + lane % width, "__shfl_sync", line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
  const int lane = cuda_on_cpu::lane(), from = lane - static_cast<int>(delta);
  return cuda_on_cpu::shuffle(mask, value, from < lane / width * width ? -1 : from, "__shfl_up_sync", line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, int line = __builtin_LINE()) {
  const int lane = cuda_on_cpu::lane(), from = lane + static_cast<int>(delta);
  return cuda_on_cpu::shuffle(mask, value, from >= (lane / width + 1) * width ? -1 : from, "__shfl_down_sync", line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, int line = __builtin_LINE()) {
  const int lane = cuda_on_cpu::lane(), from = lane ^ bits;
  return cuda_on_cpu::shuffle(mask, value, from >= (lane / width + 1) * width ? -1 : from, "__shfl_xor_sync", line);
}
inline unsigned __ballot_sync(unsigned mask, bool mine, int line = __builtin_LINE()) {
  return cuda_on_cpu::ballot(mask, mine, "__ballot_sync", line);
}
inline bool __any_sync(unsigned mask, bool mine, int line = __builtin_LINE()) {
  return cuda_on_cpu::ballot(mask, mine, "__any_sync", line) != 0;
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline void __threadfence() {}

template <class T>
T __ldg(const T* p) { return *p; }

template <class T>
T atomicAdd(T* p, T v) { const T old = *p; *p = old + v; return old; }
template <class T>
T atomicOr(T* p, T v) { const T old = *p; *p = old | v; return old; }
template <class T>
T atomicMin(T* p, T v) { const T old = *p; *p = std::min(old, v); return old; }
template <class T>
T atomicMax(T* p, T v) { const T old = *p; *p = std::max(old, v); return old; }

inline int __float_as_int(float f) { int i; std::memcpy(&i, &f, 4); return i; }
inline float __int_as_float(int i) { float f; std::memcpy(&f, &i, 4); return f; }

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_on_cpu::machine().pending;
  cuda_on_cpu::machine().pending = cudaSuccess;
  return error;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline const char* cudaGetErrorString(cudaError_t) { return cuda_on_cpu::machine().last_fault.c_str(); }
