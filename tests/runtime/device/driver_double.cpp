// A stand-in for the CUDA driver on a machine without one: the documented entry points that the runtime and PyCUDA call, with
// host memory as device memory. Work on a stream is deferred until somebody waits for it, so that a missing wait shows as wrong
// data; freshly allocated memory is poisoned; captured work runs only when its graph is launched. What a driver refuses, or
// what the runtime promises not to do, is refused and remembered as a violation: allocating or waiting while a stream captures,
// copies outside of an allocation or from memory that is not page-locked, calls without a context.
//
// It knows no kernels: double_enqueue puts a function of the test on a stream instead.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

enum Result {
  kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kInvalidContext = 201, kInvalidHandle = 400, kNotReady = 600,
  kIllegalAddress = 700, kLaunchFailed = 719, kCaptureUnsupported = 900, kCaptureInvalidated = 901
};

using Address = unsigned long long;
using Work = std::function<int()>;  // a Result

struct Graph {
  std::vector<Work> nodes;
};

struct Stream {
  std::vector<Work> queue;
  Graph* capture = nullptr;
  bool invalidated = false;
};

struct Event {
  double milliseconds = -1;  // when it was reached
  bool recorded = false;
  Stream* stream = nullptr;
};

struct Block {
  std::size_t size;
  bool host;  // page-locked host memory, else device memory
};

std::recursive_mutex mutex;
std::map<Address, Block> blocks;
std::map<std::string, long long> counters;
std::map<std::string, int> failures;  // entry point -> the result of its next call
std::vector<std::string> violations;
std::vector<Stream*> streams;
std::size_t device_bytes = 0, device_limit = std::size_t{32} << 30;
int integrated = 0, sticky = kSuccess;
char context_object;
thread_local std::vector<void*> contexts;

int violation(int result, const std::string& text) {
  violations.push_back(text);
  return result;
}

// Counts a call; the result a test has planned for it, or what an earlier fault on the device left behind.
int enter(const char* name, bool needs_context = true) {
  ++counters[name];
  const auto planned = failures.find(name);
  if (planned != failures.end()) {
    const int result = planned->second;
    failures.erase(planned);
    return result;
  }
  if (sticky != kSuccess) return sticky;
  if (needs_context && (contexts.empty() || contexts.back() == nullptr))
    return violation(kInvalidContext, std::string(name) + " without a current context");
  return kSuccess;
}

#define ENTER(...)                                          \
  std::lock_guard<std::recursive_mutex> lock(mutex);        \
  if (const int entered = enter(__VA_ARGS__)) return entered

// What no thread may do while it captures a stream.
int refuse_while_capturing(const char* name) {
  for (Stream* stream : streams) {
    if (stream->capture == nullptr) continue;
    stream->invalidated = true;
    return violation(kCaptureUnsupported, std::string(name) + " while a stream captures");
  }
  return kSuccess;
}

bool inside(Address address, std::size_t size, bool host) {
  auto block = blocks.upper_bound(address);
  if (block == blocks.begin()) return false;
  --block;
  return block->second.host == host && address + size <= block->first + block->second.size;
}

// Device memory, or page-locked memory through its device address, which is the same here.
bool on_device(Address address, std::size_t size) { return inside(address, size, false) || inside(address, size, true); }

int enqueue(Stream* stream, Work work) {
  if (stream == nullptr) return violation(kInvalidHandle, "work on the default stream");
  (stream->capture != nullptr ? stream->capture->nodes : stream->queue).push_back(std::move(work));
  return kSuccess;
}

int drain(Stream* stream) {
  std::vector<Work> queue;
  queue.swap(stream->queue);
  for (Work& work : queue)
    if (const int result = work()) return sticky = result;
  return kSuccess;
}

int drain_all() {
  for (Stream* stream : streams)
    if (const int result = drain(stream)) return result;
  return kSuccess;
}

int copy(const char* name, Address to, bool to_host, Address from, bool from_host, std::size_t size, Stream* stream) {
  counters[std::string(name) + " bytes"] += static_cast<long long>(size);
  if (!(to_host ? inside(to, size, true) : on_device(to, size)))
    return violation(kInvalidValue, std::string(name) + ": the destination lies outside of an allocation of its kind");
  if (!(from_host ? inside(from, size, true) : on_device(from, size)))
    return violation(kInvalidValue, std::string(name) + ": the source lies outside of an allocation of its kind");
  return enqueue(stream, [=] {
    std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), size);
    return 0;
  });
}

int allocate(Address* address, std::size_t size, bool host) {
  if (size == 0) return kInvalidValue;
  if (!host && device_bytes + size > device_limit) return kOutOfMemory;
  // Untouched pages cost nothing, so only the beginning of a large block is poisoned.
  void* memory = std::aligned_alloc(512, (size + 511) / 512 * 512);
  if (memory == nullptr) return kOutOfMemory;
  std::memset(memory, 0xcd, size < (std::size_t{1} << 20) ? size : std::size_t{1} << 20);
  blocks[reinterpret_cast<Address>(memory)] = {size, host};
  device_bytes += host ? 0 : size;
  *address = reinterpret_cast<Address>(memory);
  return kSuccess;
}

int release(Address address, bool host) {
  const auto block = blocks.find(address);
  if (block == blocks.end() || block->second.host != host) return violation(kInvalidValue, "freed what was not allocated");
  device_bytes -= host ? 0 : block->second.size;
  blocks.erase(block);
  std::free(reinterpret_cast<void*>(address));
  return kSuccess;
}

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return 1e3 * static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_nsec);
}

}  // namespace

// ---- for tests ----

API int double_enqueue(Stream* stream, int (*function)()) {
  std::lock_guard<std::recursive_mutex> lock(mutex);
  ++counters["double_enqueue"];
  return enqueue(stream, [function] { return function(); });
}
API long long double_pending() {
  long long pending = 0;
  for (const Stream* stream : streams) pending += static_cast<long long>(stream->queue.size());
  return pending;
}
API int double_capturing(Stream* stream) { return stream->capture != nullptr; }
API int double_on_device(Address address, std::size_t size) { return on_device(address, size); }
API long long double_count(const char* name) { return counters.count(name) ? counters[name] : 0; }
API void double_fail(const char* name, int result) { failures[name] = result; }
API void double_configure(std::size_t bytes, int is_integrated) {
  device_limit = bytes;
  integrated = is_integrated;
}
API long long double_used() { return static_cast<long long>(device_bytes); }
API void double_reset() {
  for (Stream* stream : streams) stream->queue.clear();
  counters.clear();
  violations.clear();
  failures.clear();
  sticky = kSuccess;
}
API const char* double_violation(unsigned index) { return index < violations.size() ? violations[index].c_str() : nullptr; }

// ---- initialisation, devices, contexts ----

API int cuInit(unsigned) { ENTER("cuInit", false); return kSuccess; }
API int cuDriverGetVersion(int* version) { *version = 12060; return kSuccess; }
API int cuDeviceGetCount(int* count) { ENTER("cuDeviceGetCount", false); *count = 1; return kSuccess; }
API int cuDeviceGet(int* device, int ordinal) {
  ENTER("cuDeviceGet", false);
  if (ordinal != 0) return 101;
  *device = 0;
  return kSuccess;
}
API int cuDeviceGetName(char* name, int size, int) { std::snprintf(name, static_cast<std::size_t>(size), "Orin"); return kSuccess; }
API int cuDeviceTotalMem_v2(std::size_t* bytes, int) { *bytes = device_limit; return kSuccess; }
API int cuDeviceGetAttribute(int* value, int attribute, int) {
  ENTER("cuDeviceGetAttribute", false);
  switch (attribute) {
    case 75: *value = 8; break;           // compute capability
    case 76: *value = 7; break;
    case 18: *value = integrated; break;  // integrated
    case 19: *value = 1; break;           // can map host memory
    case 16: *value = 16; break;          // multiprocessors
    default: *value = 0;
  }
  return kSuccess;
}
API int cuDevicePrimaryCtxRetain(void** context, int) { ENTER("cuDevicePrimaryCtxRetain", false); *context = &context_object; return kSuccess; }
API int cuDevicePrimaryCtxRelease_v2(int) { ++counters["cuDevicePrimaryCtxRelease_v2"]; return kSuccess; }
API int cuCtxPushCurrent_v2(void* context) { ++counters["cuCtxPushCurrent_v2"]; contexts.push_back(context); return kSuccess; }
API int cuCtxPopCurrent_v2(void** context) {
  ++counters["cuCtxPopCurrent_v2"];
  if (contexts.empty()) return kInvalidContext;
  if (context != nullptr) *context = contexts.back();
  contexts.pop_back();
  return kSuccess;
}
API int cuCtxGetCurrent(void** context) { *context = contexts.empty() ? nullptr : contexts.back(); return kSuccess; }
API int cuCtxGetDevice(int* device) { ENTER("cuCtxGetDevice"); *device = 0; return kSuccess; }
API int cuCtxSynchronize() {
  ENTER("cuCtxSynchronize");
  if (const int refused = refuse_while_capturing("cuCtxSynchronize")) return refused;
  return drain_all();
}

// ---- memory ----

API int cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  ENTER("cuMemGetInfo_v2");
  *total = device_limit;
  *free = device_limit - device_bytes;
  return kSuccess;
}
API int cuMemAlloc_v2(Address* address, std::size_t size) {
  ENTER("cuMemAlloc_v2");
  if (const int refused = refuse_while_capturing("cuMemAlloc_v2")) return refused;
  return allocate(address, size, false);
}
API int cuMemFree_v2(Address address) {
  ENTER("cuMemFree_v2");
  if (const int refused = refuse_while_capturing("cuMemFree_v2")) return refused;
  if (const int result = drain_all()) return result;  // freeing waits for the device
  return release(address, false);
}
API int cuMemHostAlloc(void** memory, std::size_t size, unsigned) {
  ENTER("cuMemHostAlloc");
  if (const int refused = refuse_while_capturing("cuMemHostAlloc")) return refused;
  return allocate(reinterpret_cast<Address*>(memory), size, true);
}
API int cuMemFreeHost(void* memory) {
  ENTER("cuMemFreeHost");
  if (const int refused = refuse_while_capturing("cuMemFreeHost")) return refused;
  if (const int result = drain_all()) return result;
  return release(reinterpret_cast<Address>(memory), true);
}
API int cuMemHostGetDevicePointer_v2(Address* address, void* memory, unsigned) {
  ENTER("cuMemHostGetDevicePointer_v2");
  if (!inside(reinterpret_cast<Address>(memory), 1, true)) return kInvalidValue;
  *address = reinterpret_cast<Address>(memory);
  return kSuccess;
}
API int cuMemcpyHtoDAsync_v2(Address to, const void* from, std::size_t size, Stream* stream) {
  ENTER("cuMemcpyHtoDAsync_v2");
  return copy("cuMemcpyHtoDAsync_v2", to, false, reinterpret_cast<Address>(from), true, size, stream);
}
API int cuMemcpyDtoHAsync_v2(void* to, Address from, std::size_t size, Stream* stream) {
  ENTER("cuMemcpyDtoHAsync_v2");
  return copy("cuMemcpyDtoHAsync_v2", reinterpret_cast<Address>(to), true, from, false, size, stream);
}
API int cuMemcpyDtoDAsync_v2(Address to, Address from, std::size_t size, Stream* stream) {
  ENTER("cuMemcpyDtoDAsync_v2");
  return copy("cuMemcpyDtoDAsync_v2", to, false, from, false, size, stream);
}
API int cuMemsetD8Async(Address to, unsigned char value, std::size_t size, Stream* stream) {
  ENTER("cuMemsetD8Async");
  if (!on_device(to, size)) return violation(kInvalidValue, "cuMemsetD8Async outside of an allocation");
  return enqueue(stream, [=] {
    std::memset(reinterpret_cast<void*>(to), value, size);
    return 0;
  });
}

// ---- streams and events ----

API int cuStreamCreate(Stream** stream, unsigned) {
  ENTER("cuStreamCreate");
  streams.push_back(*stream = new Stream);
  return kSuccess;
}
API int cuStreamDestroy_v2(Stream* stream) {
  ENTER("cuStreamDestroy_v2");
  const int result = drain(stream);
  for (auto& entry : streams)
    if (entry == stream) {
      entry = streams.back();
      streams.pop_back();
      break;
    }
  delete stream;
  return result;
}
API int cuStreamSynchronize(Stream* stream) {
  ENTER("cuStreamSynchronize");
  if (const int refused = refuse_while_capturing("cuStreamSynchronize")) return refused;
  return drain(stream);
}
API int cuStreamQuery(Stream* stream) { ENTER("cuStreamQuery"); return stream->queue.empty() ? kSuccess : kNotReady; }
API int cuStreamWaitEvent(Stream*, Event*, unsigned) { return violation(kInvalidValue, "cuStreamWaitEvent: not expected"); }
API int cuEventCreate(Event** event, unsigned) { ENTER("cuEventCreate"); *event = new Event; return kSuccess; }
API int cuEventDestroy_v2(Event* event) {
  ENTER("cuEventDestroy_v2");
  if (const int result = drain_all()) return result;  // its record may still be queued
  delete event;
  return kSuccess;
}
API int cuEventRecord(Event* event, Stream* stream) {
  ENTER("cuEventRecord");
  event->recorded = false;
  event->stream = stream;
  return enqueue(stream, [event] {
    event->recorded = true;
    event->milliseconds = now();
    return 0;
  });
}
API int cuEventSynchronize(Event* event) {
  ENTER("cuEventSynchronize");
  if (const int refused = refuse_while_capturing("cuEventSynchronize")) return refused;
  return event->stream == nullptr ? kSuccess : drain(event->stream);
}
API int cuEventQuery(Event* event) { ENTER("cuEventQuery"); return event->recorded ? kSuccess : kNotReady; }
API int cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
  ENTER("cuEventElapsedTime");
  if (start->stream == nullptr || end->stream == nullptr) return kInvalidHandle;
  if (!start->recorded || !end->recorded) return kNotReady;
  *milliseconds = static_cast<float>(end->milliseconds - start->milliseconds);
  return kSuccess;
}
API int cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
  return cuEventElapsedTime(milliseconds, start, end);
}

// ---- graphs ----

API int cuStreamBeginCapture_v2(Stream* stream, int) {
  ENTER("cuStreamBeginCapture_v2");
  if (stream == nullptr || stream->capture != nullptr) return kInvalidValue;
  stream->capture = new Graph;
  stream->invalidated = false;
  return kSuccess;
}
API int cuStreamEndCapture(Stream* stream, Graph** graph) {
  ENTER("cuStreamEndCapture");
  if (stream->capture == nullptr) return kInvalidValue;
  *graph = stream->invalidated ? nullptr : stream->capture;
  if (stream->invalidated) delete stream->capture;
  stream->capture = nullptr;
  return stream->invalidated ? kCaptureInvalidated : kSuccess;
}
API int cuGraphInstantiateWithFlags(Graph** executable, Graph* graph, unsigned long long) {
  ENTER("cuGraphInstantiateWithFlags");
  *executable = new Graph(*graph);
  return kSuccess;
}
API int cuGraphLaunch(Graph* executable, Stream* stream) {
  ENTER("cuGraphLaunch");
  for (const Work& work : executable->nodes)
    if (const int result = enqueue(stream, work)) return result;
  return kSuccess;
}
API int cuGraphDestroy(Graph* graph) { ENTER("cuGraphDestroy"); delete graph; return kSuccess; }
API int cuGraphExecDestroy(Graph* executable) { ENTER("cuGraphExecDestroy"); delete executable; return kSuccess; }

// ---- errors ----

API int cuGetErrorName(int result, const char** text) {
  switch (result) {
    case kSuccess: *text = "CUDA_SUCCESS"; break;
    case kOutOfMemory: *text = "CUDA_ERROR_OUT_OF_MEMORY"; break;
    case kIllegalAddress: *text = "CUDA_ERROR_ILLEGAL_ADDRESS"; break;
    case kLaunchFailed: *text = "CUDA_ERROR_LAUNCH_FAILED"; break;
    case kCaptureInvalidated: *text = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"; break;
    default: *text = "CUDA_ERROR";
  }
  return kSuccess;
}
API int cuGetErrorString(int result, const char** text) {
  *text = result == kOutOfMemory ? "out of memory" : "error of the stand-in";
  return kSuccess;
}

// ---- entry points that PyCUDA links to and nothing here calls ----

#ifdef UNEXPECTED_CALLS  // a file of UNEXPECTED(name), made from what the installed PyCUDA needs
#define UNEXPECTED(name) \
  API int name() { return violation(801, #name ": not expected"); }
#include UNEXPECTED_CALLS
#endif
