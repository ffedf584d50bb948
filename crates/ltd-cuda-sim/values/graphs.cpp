#include "graphs.hpp"

#include <algorithm>
#include <cstdlib>

#include "operations.hpp"

namespace {

/// All graphs. What one of them makes on the way, another one of its pool may overwrite.
std::vector<sim::Capture*>& all_graphs() {
  static std::vector<sim::Capture*> the;
  return the;
}

/// A device would not have made it, or has used its memory for something else.
void poison(const sim::Capture& graph) {
  for (const at::Tensor& tensor : graph.made)
    if (tensor.is_cuda() && tensor.numel()) std::memset(sim::content(tensor).data_ptr(), 0xff, tensor.nbytes());
}

/// How many captures a device does before it refuses.
long captures_left = [] {
  const char* most = std::getenv("LTD_SIM_CAPTURES");
  return most ? std::strtol(most, nullptr, 10) : -1;
}();

}  // namespace

namespace at::cuda {

Pool graph_pool_handle() {
  static unsigned long long last = 0;
  return {0, ++last};
}

CUDAGraph::CUDAGraph(bool) : captured_(new sim::Capture) {}

CUDAGraph::~CUDAGraph() {
  all_graphs().erase(std::remove(all_graphs().begin(), all_graphs().end(), captured_), all_graphs().end());
  delete captured_;
}

void CUDAGraph::capture_begin(Pool pool, cudaStreamCaptureMode) {
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  TORCH_CHECK(guard.getStream(guard.getDevice()) != guard.getDefaultStream(guard.getDevice()),
              "CUDA graphs must be captured on a non-default stream");
  TORCH_CHECK(captures_left != 0, "CUDA error: operation not supported");
  --captures_left;
  TORCH_CHECK(!sim::capture, "two captures at once");
  captured_->pool = pool.second;
  sim::capture = captured_;
}

void CUDAGraph::capture_end() {
  TORCH_CHECK(sim::capture == captured_, "CUDA error: the capture was not begun");
  sim::capture = nullptr;
  poison(*captured_);
  all_graphs().push_back(captured_);
}

void CUDAGraph::replay() {
  sim::refuse_in_capture("a graph");
  for (const sim::Capture* other : all_graphs())
    if (other != captured_ && other->pool == captured_->pool) poison(*other);
  at::AutoDispatchBelowADInplaceOrView guard;
  for (const auto& step : captured_->steps) step();
}

}  // namespace at::cuda
