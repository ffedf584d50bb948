// CUDA graphs with real results: what a thread captures is noted as well as done, and done again when it is replayed, at
// the same addresses.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <functional>
#include <utility>
#include <vector>

namespace sim {

/// What a thread captures.
struct Capture {
  std::vector<std::function<void()>> steps;
  /// Tensors that were made on the way, which nobody but the graph may read.
  std::vector<at::Tensor> made;
  /// Whose memory they have.
  unsigned long long pool = 0;
};

inline thread_local Capture* capture = nullptr;

/// Notes what was just done, and the tensor that it made. It is handed that tensor again.
template <class Step>
at::Tensor noted(at::Tensor made, Step step) {
  if (capture && made.defined()) {
    capture->made.push_back(made);
    capture->steps.push_back([made, step] { step(made); });
  }
  return made;
}

/// What the host asks for cannot be captured.
inline void refuse_in_capture(const char* what) {
  TORCH_CHECK(!capture, "CUDA error: operation not permitted when stream is capturing (", what, ")");
}

}  // namespace sim

enum cudaStreamCaptureMode : int {};

namespace at::cuda {

using Pool = std::pair<unsigned long long, unsigned long long>;

__attribute__((visibility("default"))) Pool graph_pool_handle();

/// With the names of LibTorch's own.
class __attribute__((visibility("default"))) CUDAGraph {
 public:
  explicit CUDAGraph(bool keep = false);
  ~CUDAGraph();
  void capture_begin(Pool pool, cudaStreamCaptureMode mode);
  void capture_end();
  void replay();

 private:
  sim::Capture* captured_;
};

}  // namespace at::cuda
