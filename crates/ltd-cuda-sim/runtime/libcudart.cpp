// A CUDA runtime that computes nothing. On it LibTorch's own libtorch_cuda.so runs without a GPU: its choice of kernels,
// its launches, copies, waits and allocations are real and can be counted, at any size of model. Device memory is address
// space that nobody may follow; what is copied from it is zeros.
//
// LTD_SIM_TRACE: file to which a line for each event is appended. LTD_SIM_ARGUMENTS: with a line for the grid and the
// device addresses of each launch. LTD_SIM_CAPTURES: how many captures it does before it refuses. LTD_SIM_DEVICES, LTD_SIM_MEMORY: devices, and bytes of
// each. LTD_SIM_CAPABILITY: compute capability, 90 for 9.0. LTD_SIM_DRIVER: CUDA version of the driver, 13000 for 13.0.
#include <cuda_runtime_api.h>
#include <cxxabi.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

namespace {

// Addresses of each device.
constexpr size_t kSpan = size_t(1) << 40;
constexpr int kMostDevices = 8;

size_t number_of(const char* variable, size_t otherwise) {
  const char* value = std::getenv(variable);
  return value && *value ? std::strtoull(value, nullptr, 10) : otherwise;
}

[[noreturn]] void fail(const char* what, const char* which) {
  std::fprintf(stderr, "simulated CUDA runtime: %s%s\n", what, which);
  std::abort();
}

struct Kernel {
  std::string name;
  size_t arguments;
};

struct Machine {
  std::mutex mutex;
  int devices = static_cast<int>(number_of("LTD_SIM_DEVICES", 1));
  size_t bytes = number_of("LTD_SIM_MEMORY", size_t(80) << 30);
  int capability = static_cast<int>(number_of("LTD_SIM_CAPABILITY", 90));
  char* addresses = nullptr;
  size_t used[kMostDevices] = {};
  std::unordered_map<const void*, Kernel> kernels;
  bool contexts[kMostDevices] = {};
  FILE* trace = nullptr;
  const bool with_arguments = number_of("LTD_SIM_ARGUMENTS", 0);

  Machine() {
    void* at = mmap(nullptr, kSpan * kMostDevices, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || devices > kMostDevices || bytes > kSpan) fail("no address space for its devices", "");
    addresses = static_cast<char*>(at);
    for (size_t& of_device : used) of_device = std::min(bytes, number_of("LTD_SIM_HELD", 0));
    if (const char* path = std::getenv("LTD_SIM_TRACE")) {
      trace = std::fopen(path, "a");
      if (!trace) fail("cannot write ", path);
    }
  }
  int device_of(const void* pointer) const {
    const auto* at = static_cast<const char*>(pointer);
    return at >= addresses && at < addresses + kSpan * kMostDevices ? static_cast<int>((at - addresses) / kSpan) : -1;
  }
};

Machine& machine() {
  // Libraries free what they hold after statics are gone: it is never freed.
  static Machine* the = new Machine;
  return *the;
}

thread_local int current_device = 0;

/// The CUDA version that the driver knows.
int driver_version() { return static_cast<int>(number_of("LTD_SIM_DRIVER", CUDART_VERSION)); }

void event(const char* kind, const char* what) {
  Machine& m = machine();
  std::lock_guard<std::mutex> lock(m.mutex);
  // Flushed, as a process may end by a signal.
  if (m.trace) std::fprintf(m.trace, "%s %s\n", kind, what), std::fflush(m.trace);
}

void event(const char* kind, size_t number) { event(kind, std::to_string(number).c_str()); }

/// The current device is used, for which it gets a context.
void use_device() {
  bool& context = machine().contexts[current_device];
  if (!context) event("context", static_cast<size_t>(current_device));
  context = true;
}

/// What a thread captures.
struct Capture {
  void* stream = nullptr;
  unsigned long long id = 0;
  size_t nodes = 0;
};
thread_local Capture* capture = nullptr;

/// Whether something that is asked of a stream is captured, and not done. While a thread captures, it may use no other
/// stream, and not wait.
bool is_captured(const void* stream) {
  if (!capture) return false;
  if (stream != capture->stream) fail("what is captured goes to another stream", "");
  ++capture->nodes;
  return true;
}

cudaError_t wait(const char* what) {
  if (capture) return cudaErrorStreamCaptureUnsupported;
  event("wait", what);
  return cudaSuccess;
}

/// How many arguments a kernel has.
size_t count_arguments(const char* mangled) {
  int status = 0;
  char* name = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  const std::string text = name ? name : "";
  std::free(name);
  const size_t end = text.rfind(')');
  if (end == std::string::npos) return 0;
  size_t depth = 0, commas = 0, at = end;
  // From the end of the list to where it begins.
  do {
    const char c = text[at];
    if (c == ')' || c == '>' || c == '}' || c == ']') ++depth;
    if (c == '(' || c == '<' || c == '{' || c == '[') --depth;
    if (c == ',' && depth == 1) ++commas;
  } while (depth > 0 && at-- > 0);
  return end == at + 1 ? 0 : commas + 1;
}

void add_address(std::string& to, const void* address) {
  if (machine().device_of(address) < 0) return;
  char text[32];
  std::snprintf(text, sizeof text, " %p", address);
  to += text;
}

/// The device addresses in a kernel's arguments. How large one of them is nobody says here: they lie one after another
/// in memory, and no more than so many bytes of one are looked at.
std::string addresses_in(void** arguments, size_t count) {
  constexpr size_t kMost = 256;
  std::string found;
  std::vector<char*> places(reinterpret_cast<char**>(arguments), reinterpret_cast<char**>(arguments) + count);
  for (char* place : places) {
    size_t bytes = kMost;
    for (char* other : places)
      if (other > place) bytes = std::min(bytes, static_cast<size_t>(other - place));
    for (size_t at = 0; at + sizeof(void*) <= bytes && (at == 0 || bytes < kMost); at += sizeof(void*)) {
      void* address;
      std::memcpy(&address, place + at, sizeof address);
      add_address(found, address);
    }
  }
  return found;
}

void launched(bool captured, const char* name, const std::string& with) {
  event(captured ? "captured" : "launch", name);
  if (machine().with_arguments) event("with", with.c_str());
}

cudaError_t launch(const void* function, dim3 grid, dim3 block, void** arguments, const void* stream) {
  use_device();
  Machine& m = machine();
  Kernel kernel{"unknown", 0};
  {
    std::lock_guard<std::mutex> lock(m.mutex);
    const auto found = m.kernels.find(function);
    if (found != m.kernels.end()) kernel = found->second;
  }
  std::string with;
  if (m.with_arguments) {
    for (unsigned size : {grid.x, grid.y, grid.z, block.x, block.y, block.z}) with += std::to_string(size) + " ";
    with += "at" + addresses_in(arguments, kernel.arguments);
  }
  launched(is_captured(stream), kernel.name.c_str(), with);
  return cudaSuccess;
}

cudaError_t fill(size_t bytes, const void* stream) {
  if (is_captured(stream)) {
    event("captured", "fill");
  } else {
    event("fill", bytes);
  }
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t bytes, const void* stream = nullptr) {
  const int target = machine().device_of(to), source = machine().device_of(from);
  if (is_captured(stream)) {
    if (target < 0 || source < 0) return cudaErrorStreamCaptureUnsupported;
    event("captured", "copy");
    return cudaSuccess;
  }
  if (target >= 0 && source >= 0) {
    event(target == source ? "within_device" : "between_devices", bytes);
  } else if (target >= 0) {
    event("to_device", bytes);
  } else if (source >= 0) {
    event("to_host", bytes);
    std::memset(to, 0, bytes);
  } else {
    std::memcpy(to, from, bytes);
  }
  return cudaSuccess;
}

template <class Handle>
cudaError_t make(Handle* handle) {
  *handle = static_cast<Handle>(std::malloc(sizeof(void*)));
  return cudaSuccess;
}

// What a launch in the form `kernel<<<...>>>` leaves for the call that follows it.
struct Configuration {
  dim3 grid, block;
  size_t shared;
  void* stream;
};
thread_local std::vector<Configuration> configurations;

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

/// A library's function that would launch a kernel, with so many of its arguments.
EXPORT void ltd_sim_launch(const char* name, size_t count, void** arguments) {
  std::string with = "at";
  for (size_t i = 0; i < count; ++i) add_address(with, arguments[i]);
  launched(capture && is_captured(capture->stream), name, with);
}
/// Whether a device has a context.
EXPORT int ltd_sim_has_context(int device) {
  return device >= 0 && device < machine().devices && machine().contexts[device];
}
/// A function that nobody has written: it is named, and fails.
EXPORT int ltd_sim_missing(const char* name) {
  std::fprintf(stderr, "simulated CUDA runtime: %s is not simulated\n", name);
  return cudaErrorNotSupported;
}

// Kernels
EXPORT void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
EXPORT void __cudaRegisterFatBinaryEnd(void**) {}
EXPORT void __cudaUnregisterFatBinary(void**) {}
EXPORT void __cudaRegisterFunction(void**, const char* function, char*, const char* name, int, void*, void*, void*,
                                   void*, int*) {
  Machine& m = machine();
  std::lock_guard<std::mutex> lock(m.mutex);
  m.kernels.emplace(function, Kernel{name, m.with_arguments ? count_arguments(name) : 0});
}
EXPORT void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}
EXPORT cudaError_t __cudaGetKernel(const void** kernel, const void* function) {
  *kernel = function;
  return cudaSuccess;
}
EXPORT unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configurations.push_back({grid, block, shared, stream});
  return 0;
}
EXPORT cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (configurations.empty()) return cudaErrorMissingConfiguration;
  const Configuration last = configurations.back();
  configurations.pop_back();
  *grid = last.grid, *block = last.block, *shared = last.shared, *static_cast<void**>(stream) = last.stream;
  return cudaSuccess;
}
EXPORT cudaError_t __cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t,
                                      void* stream) {
  return launch(kernel, grid, block, arguments, stream);
}
EXPORT cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  return launch(kernel, config->gridDim, config->blockDim, arguments, config->stream);
}
EXPORT cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  std::memset(attributes, 0, sizeof *attributes);
  attributes->binaryVersion = attributes->ptxVersion = machine().capability;
  attributes->maxThreadsPerBlock = 1024, attributes->numRegs = 64, attributes->maxDynamicSharedSizeBytes = 49152;
  return cudaSuccess;
}
EXPORT cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
EXPORT cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t,
                                                                          unsigned) {
  *blocks = 2;
  return cudaSuccess;
}

// Devices
EXPORT cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (driver_version() < CUDART_VERSION) return cudaErrorInsufficientDriver;
  *count = machine().devices;
  return *count ? cudaSuccess : cudaErrorNoDevice;
}
EXPORT cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
EXPORT cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= machine().devices) return cudaErrorInvalidDevice;
  current_device = device;
  // Since CUDA 12.
  use_device();
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 0;
  return cudaSuccess;
}
// As an A100 and an H100 have them (NVIDIA's tuning guides): into how many parts LibTorch divides attention and sums
// depends on the multiprocessors.
EXPORT cudaError_t cudaGetDeviceProperties(cudaDeviceProp* device, int) {
  std::memset(device, 0, sizeof *device);
  std::strcpy(device->name, "simulated");
  device->major = machine().capability / 10, device->minor = machine().capability % 10;
  device->totalGlobalMem = machine().bytes;
  const bool hopper = machine().capability >= 90;
  device->multiProcessorCount = hopper ? 132 : 108, device->l2CacheSize = (hopper ? 50 : 40) << 20;
  device->sharedMemPerBlock = 49152, device->sharedMemPerBlockOptin = hopper ? 232448 : 166912;
  device->sharedMemPerMultiprocessor = hopper ? 233472 : 167936;
  device->regsPerBlock = device->regsPerMultiprocessor = 65536;
  device->warpSize = 32, device->maxThreadsPerBlock = 1024;
  device->maxThreadsPerMultiProcessor = 2048, device->maxBlocksPerMultiProcessor = 32;
  device->maxThreadsDim[0] = device->maxThreadsDim[1] = 1024, device->maxThreadsDim[2] = 64;
  device->maxGridSize[0] = 2147483647, device->maxGridSize[1] = device->maxGridSize[2] = 65535;
  device->textureAlignment = 512;
  device->concurrentKernels = device->unifiedAddressing = device->cooperativeLaunch = 1;
  return cudaSuccess;
}
EXPORT cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  cudaDeviceProp of;
  cudaGetDeviceProperties(&of, device);
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = of.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = of.minor; break;
    case cudaDevAttrMaxBlockDimX:
    case cudaDevAttrMaxBlockDimY:
    case cudaDevAttrMaxThreadsPerBlock: *value = of.maxThreadsPerBlock; break;
    case cudaDevAttrMaxGridDimX: *value = of.maxGridSize[0]; break;
    case cudaDevAttrMaxGridDimY:
    case cudaDevAttrMaxGridDimZ: *value = of.maxGridSize[1]; break;
    case cudaDevAttrMaxRegistersPerBlock: *value = of.regsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = static_cast<int>(of.sharedMemPerBlock); break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(of.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = static_cast<int>(of.sharedMemPerMultiprocessor);
      break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = of.maxThreadsPerMultiProcessor; break;
    case cudaDevAttrMultiProcessorCount: *value = of.multiProcessorCount; break;
    case cudaDevAttrWarpSize: *value = of.warpSize; break;
    default: *value = 0;
  }
  return cudaSuccess;
}

// Memory
EXPORT cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  use_device();
  Machine& m = machine();
  {
    std::lock_guard<std::mutex> lock(m.mutex);
    size_t& used = m.used[current_device];
    if (used + bytes > m.bytes) return cudaErrorMemoryAllocation;
    *pointer = m.addresses + kSpan * static_cast<size_t>(current_device) + used;
    used += (bytes + 511) / 512 * 512;
  }
  event("malloc", bytes);
  return cudaSuccess;
}
EXPORT cudaError_t cudaFree(void*) { return cudaSuccess; }
EXPORT cudaError_t cudaMallocAsync(void** pointer, size_t bytes, cudaStream_t) { return cudaMalloc(pointer, bytes); }
EXPORT cudaError_t cudaFreeAsync(void*, cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  *pointer = std::malloc(bytes);
  event("malloc_host", bytes);
  return *pointer ? cudaSuccess : cudaErrorMemoryAllocation;
}
EXPORT cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}
EXPORT cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  use_device();
  Machine& m = machine();
  std::lock_guard<std::mutex> lock(m.mutex);
  *total = m.bytes;
  *free = m.bytes - m.used[current_device];
  return cudaSuccess;
}
EXPORT cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  std::memset(attributes, 0, sizeof *attributes);
  const int device = machine().device_of(pointer);
  attributes->type = device >= 0 ? cudaMemoryTypeDevice : cudaMemoryTypeUnregistered;
  attributes->device = device >= 0 ? device : 0;
  attributes->devicePointer = const_cast<void*>(pointer);
  return cudaSuccess;
}
EXPORT cudaError_t cudaGetSymbolAddress(void** pointer, const void*) { return cudaMalloc(pointer, 1 << 20); }
EXPORT cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }
EXPORT cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (capture) return cudaErrorStreamCaptureUnsupported;
  copy(to, from, bytes);
  return wait("copy");
}
EXPORT cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}
EXPORT cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes, cudaStream_t stream) {
  return copy(to, from, bytes, stream);
}
EXPORT cudaError_t cudaMemset(void*, int, size_t bytes) { return fill(bytes, nullptr); }
EXPORT cudaError_t cudaMemsetAsync(void*, int, size_t bytes, cudaStream_t stream) { return fill(bytes, stream); }

// Waits, streams and events
EXPORT cudaError_t cudaDeviceSynchronize() { return wait("device"); }
EXPORT cudaError_t cudaStreamSynchronize(cudaStream_t) { return wait("stream"); }
EXPORT cudaError_t cudaEventSynchronize(cudaEvent_t) { return wait("event"); }
EXPORT cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { return make(stream); }
EXPORT cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamQuery(cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
EXPORT cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const bool is = capture && capture->stream == stream;
  *status = is ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                            unsigned long long* id, cudaGraph_t*, const cudaGraphNode_t**,
                                            const cudaGraphEdgeData**, size_t*) {
  cudaStreamIsCapturing(stream, status);
  if (id) *id = *status == cudaStreamCaptureStatusActive ? capture->id : 0;
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  static std::atomic<unsigned long long> last{0};
  const bool refused = last >= number_of("LTD_SIM_CAPTURES", ~size_t(0));
  if (refused || !stream || capture) return cudaErrorStreamCaptureUnsupported;
  capture = new Capture{stream, ++last, 0};
  return cudaSuccess;
}
EXPORT cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!capture || capture->stream != stream) return cudaErrorStreamCaptureUnmatched;
  *graph = reinterpret_cast<cudaGraph_t>(capture);
  capture = nullptr;
  return cudaSuccess;
}

// Graphs: each is what was captured.
EXPORT cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
  *count = reinterpret_cast<Capture*>(graph)->nodes;
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
  *made = reinterpret_cast<cudaGraphExec_t>(new Capture(*reinterpret_cast<Capture*>(graph)));
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long flags) {
  return cudaGraphInstantiate(made, graph, flags);
}
EXPORT cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  event("graph", reinterpret_cast<Capture*>(graph)->nodes);
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Capture*>(graph);
  return cudaSuccess;
}
EXPORT cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<Capture*>(graph);
  return cudaSuccess;
}
EXPORT cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
EXPORT cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
EXPORT cudaError_t cudaEventCreate(cudaEvent_t* made) { return make(made); }
EXPORT cudaError_t cudaEventCreateWithFlags(cudaEvent_t* made, unsigned) { return make(made); }
EXPORT cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
EXPORT cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
EXPORT cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
EXPORT cudaError_t cudaEventRecordWithFlags(cudaEvent_t, cudaStream_t, unsigned) { return cudaSuccess; }
EXPORT cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return cudaSuccess;
}

// Errors, versions and the driver
EXPORT cudaError_t cudaGetLastError() { return cudaSuccess; }
EXPORT cudaError_t cudaPeekAtLastError() { return cudaSuccess; }
EXPORT const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "error";
}
EXPORT const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    default: return "not simulated";
  }
}
EXPORT cudaError_t cudaDriverGetVersion(int* version) {
  *version = driver_version();
  return cudaSuccess;
}
EXPORT cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
static int any_function(...) { return 0; }
EXPORT cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, unsigned long long,
                                                    cudaDriverEntryPointQueryResult* result) {
  *function = reinterpret_cast<void*>(&any_function);
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
