#include "graphs.hpp"

#include "operations.hpp"

namespace at::cuda {

Pool graph_pool_handle() { return {0, 1}; }

CUDAGraph::CUDAGraph(bool) : captured_(new sim::Capture) {}

CUDAGraph::~CUDAGraph() { delete captured_; }

void CUDAGraph::capture_begin(Pool, cudaStreamCaptureMode) {
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  TORCH_CHECK(guard.getStream(guard.getDevice()) != guard.getDefaultStream(guard.getDevice()),
              "CUDA graphs must be captured on a non-default stream");
  TORCH_CHECK(!std::getenv("LTD_SIM_CAPTURE"), "CUDA error: operation not supported");
  TORCH_CHECK(!sim::capture, "two captures at once");
  sim::capture = captured_;
}

void CUDAGraph::capture_end() {
  TORCH_CHECK(sim::capture == captured_, "CUDA error: the capture was not begun");
  sim::capture = nullptr;
  // A device would not have done it.
  for (const at::Tensor& tensor : captured_->made)
    if (tensor.is_cuda() && tensor.numel()) std::memset(sim::content(tensor).data_ptr(), 0xff, tensor.nbytes());
}

void CUDAGraph::replay() {
  sim::refuse_in_capture("a graph");
  at::AutoDispatchBelowADInplaceOrView guard;
  for (const auto& step : captured_->steps) step();
}

}  // namespace at::cuda
