// What LibTorch has and tch does not wrap. An exception of C++ must not reach Rust: each function returns what it says, or
// nothing, as a text that the caller frees.
#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include "guarded.h"

#include <array>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

namespace {

/// Whose memory a graph takes: `at::MempoolId_t`.
using Pool = std::pair<unsigned long long, unsigned long long>;

/// The functions of `at::cuda::CUDAGraph`. No program links the library that they are in, and its headers need those of
/// CUDA: they are found by their names in the C++ ABI of Unix, in which an object is the first argument.
struct GraphFunctions {
  void (*construct)(void*, bool);
  void (*destroy)(void*);
  void (*capture_begin)(void*, Pool, int);
  void (*capture_end)(void*);
  void (*replay)(void*);
  Pool (*new_pool)();

  GraphFunctions() {
    find(construct, "_ZN2at4cuda9CUDAGraphC1Eb");
    find(destroy, "_ZN2at4cuda9CUDAGraphD1Ev");
    find(capture_begin, "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
    find(capture_end, "_ZN2at4cuda9CUDAGraph11capture_endEv");
    find(replay, "_ZN2at4cuda9CUDAGraph6replayEv");
    find(new_pool, "_ZN2at4cuda17graph_pool_handleEv");
  }
  static const GraphFunctions& get() {
    static const GraphFunctions the;
    return the;
  }

 private:
  template <class Function>
  static void find(Function& function, const char* name) {
    function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
    TORCH_CHECK(function, "LibTorch's CUDA half has no function ", name);
  }
};

/// LibTorch notes graphs in what all threads share, and there is one stream to capture on: one thread at a time.
std::mutex& one_at_a_time() {
  static std::mutex mutex;
  return mutex;
}

/// Has a thread use a device, and a stream of it, until it is over.
class On {
 public:
  explicit On(c10::Stream stream) {
    device_ = guard_.exchangeDevice(stream.device());
    stream_ = guard_.exchangeStream(stream);
  }
  ~On() {
    guard_.exchangeStream(stream_);
    // It takes no context on a device that has none.
    guard_.uncheckedSetDevice(device_);
  }
  On(const On&) = delete;
  On& operator=(const On&) = delete;

 private:
  c10::impl::VirtualGuardImpl guard_{c10::DeviceType::CUDA};
  c10::Device device_{c10::DeviceType::CUDA, 0};
  c10::Stream stream_{c10::Stream::DEFAULT, device_};
};

/// An `at::cuda::CUDAGraph`. Its size in LibTorch 2.11, the only version that is used, is less than what is kept for it:
/// `ltd-cuda-sim` compares the two where CUDA's headers are.
class Graph {
 public:
  Graph() = default;
  ~Graph() {
    if (!lock_.owns_lock()) lock_ = std::unique_lock<std::mutex>(one_at_a_time());
    if (constructed_ && !broken_) GraphFunctions::get().destroy(object_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  void begin(c10::DeviceIndex device, Pool pool) {
    lock_ = std::unique_lock<std::mutex>(one_at_a_time());
    on_.emplace(stream_of({c10::DeviceType::CUDA, device}));
    GraphFunctions::get().construct(object_, false);
    constructed_ = true;
    call([&] {
      // Other threads may go on to use the device: cudaStreamCaptureModeThreadLocal.
      constexpr int kThreadLocal = 1;
      GraphFunctions::get().capture_begin(object_, pool, kThreadLocal);
    });
    capturing_ = true;
  }
  void end() {
    call([&] { GraphFunctions::get().capture_end(object_); });
    on_.reset();
    lock_.unlock();
  }
  /// Ends a capture that nobody will end any more.
  void give_up() {
    if (capturing_) std::free(guarded([this] { end(); }));
  }
  void replay() { GraphFunctions::get().replay(object_); }
  /// Whether its capture has failed. LibTorch's allocators keep pointing to such a one.
  bool is_broken() const { return broken_; }

 private:
  /// The stream of a device that is captured on: the default one cannot be. Always the same one, as libraries keep a
  /// workspace for each.
  static c10::Stream stream_of(c10::Device device) {
    static std::array<std::optional<c10::Stream>, 128> streams;
    std::optional<c10::Stream>& stream = streams.at(static_cast<size_t>(device.index()));
    if (!stream) stream = c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA).getStreamFromGlobalPool(device);
    return *stream;
  }

  /// A step of a capture, which is over where it throws.
  template <class Step>
  void call(Step step) {
    capturing_ = false;
    try {
      step();
    } catch (...) {
      broken_ = true;
      on_.reset();
      lock_.unlock();
      throw;
    }
  }

  alignas(std::max_align_t) unsigned char object_[LTD_CUDA_GRAPH_BYTES];
  std::unique_lock<std::mutex> lock_;
  std::optional<On> on_;
  bool capturing_ = false;
  bool constructed_ = false;
  bool broken_ = false;
};

/// What is left of a broken graph is kept for ever.
void drop(Graph* graph) {
  graph->give_up();
  if (!graph->is_broken()) delete graph;
}

}  // namespace

extern "C" {

/// Copies numbers into a tensor when its device comes to it.
char* ltd_copy_later(at::Tensor* to, const at::Tensor* from) {
  return guarded([&] { to->copy_(*from, /*non_blocking=*/true); });
}

/// Flash attention of one row of queries, `[1, heads, width]`, over the first `*used` of keys and values, each
/// `[positions, kv_heads, width]`: `[1, heads, width]`.
char* ltd_attend_to_first(at::Tensor** attended, const at::Tensor* queries, const at::Tensor* keys,
                          const at::Tensor* values, const at::Tensor* ends_of_queries, const at::Tensor* ends_of_keys,
                          const at::Tensor* used) {
  return guarded([&] {
    auto results = at::_flash_attention_forward(*queries, *keys, *values, *ends_of_queries, *ends_of_keys, 1,
                                                keys->size(0), 0.0, false, false, std::nullopt, std::nullopt,
                                                std::nullopt, *used);
    *attended = new at::Tensor(std::get<0>(std::move(results)));
  });
}

/// A pool of memory for graphs that are replayed one after another.
char* ltd_graph_pool(Pool* pool) {
  return guarded([&] { *pool = GraphFunctions::get().new_pool(); });
}

/// What this thread has a device do from here on is captured, not done.
char* ltd_graph_begin(Graph** graph, int device, const Pool* pool) {
  return guarded([&] {
    std::unique_ptr<Graph, void (*)(Graph*)> made(new Graph, &drop);
    made->begin(static_cast<c10::DeviceIndex>(device), *pool);
    *graph = made.release();
  });
}

/// Ends what `ltd_graph_begin` began. After a failure it can only be dropped.
char* ltd_graph_end(Graph* graph) {
  return guarded([&] { graph->end(); });
}

/// Has the device do what was captured.
char* ltd_graph_replay(Graph* graph) {
  return guarded([&] { graph->replay(); });
}

void ltd_graph_drop(Graph* graph) { drop(graph); }

/// Gives device memory that LibTorch holds without using it back, which it does not do on its own in a capture.
char* ltd_empty_cache() {
  return guarded([] {
    std::lock_guard<std::mutex> lock(one_at_a_time());
    if (auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(c10::DeviceType::CUDA)))
      allocator->emptyCache();
  });
}

/// LibTorch's profiler notes what CUDA devices do from here on.
char* ltd_profile_begin() {
  return guarded([] {
    const torch::profiler::impl::ProfilerConfig config(torch::profiler::impl::ProfilerState::KINETO);
    const std::set<torch::profiler::impl::ActivityType> activities = {torch::profiler::impl::ActivityType::CUDA};
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(config, activities);
  });
}

/// Ends what `ltd_profile_begin` began: how many kernels devices have run.
char* ltd_profile_end(unsigned long long* kernels) {
  return guarded([&] {
    const auto profiled = torch::autograd::profiler::disableProfiler();
    *kernels = 0;
    for (const auto& event : profiled->events())
      // "Memcpy HtoD" and the like are no kernels.
      *kernels += event.deviceType() == c10::DeviceType::CUDA && event.name().rfind("Mem", 0) != 0;
  });
}

}  // extern "C"
