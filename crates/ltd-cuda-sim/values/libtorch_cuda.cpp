// CUDA devices that are simulated on the host: a libtorch_cuda.so that makes LibTorch's CPU half believe in them. Results
// are real; speed, the arithmetic of CUDA's kernels and races between streams are not.
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>

#include "attention.hpp"
#include "device.hpp"
#include "operations.hpp"

namespace c10::impl {
C10_REGISTER_GUARD_IMPL(CUDA, ::sim::Guard);
}

namespace at {
using ::at::CUDAHooksRegistry;
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, SimulatedHooks)
}  // namespace at

namespace {

const bool installed = [] {
  at::native::_fused_sdp_choice_stub.set_cuda_dispatch_ptr(&sim::choose_attention);
  c10::SetAllocator(c10::DeviceType::CUDA, &sim::device_allocator);
  return true;
}();

TORCH_LIBRARY_IMPL(_, CUDA, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&sim::on_contents>());
}

TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", &sim::empty);
  library.impl("empty_strided", &sim::empty_strided);
  library.impl("as_strided", &at::native::as_strided_tensorimpl);
  library.impl("view", &at::native::view);
  library.impl("_reshape_alias", &at::native::_reshape_alias);
  library.impl("unfold", &at::native::unfold);
  library.impl("copy_", &sim::copy);
  library.impl("_local_scalar_dense", &sim::item);
  library.impl("mm.dtype", &sim::product_as);
  library.impl("resize_", &sim::resize);
  library.impl("set_.source_Storage_storage_offset", &sim::set_storage);
  library.impl("_scaled_dot_product_flash_attention", &sim::flash_attention);
  library.impl("_scaled_dot_product_efficient_attention", &sim::efficient_attention);
  library.impl("_flash_attention_forward", &sim::flash_of_lengths);
}

}  // namespace

// The functions of the CUDA runtime that the engine calls itself.
#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int cudaGetDeviceCount(int* count) {
  constexpr int kNoDevice = 100;
  *count = sim::device_count();
  return *count ? 0 : kNoDevice;
}

EXPORT int cudaGetDevice(int* device) {
  *device = sim::current_device;
  return 0;
}

EXPORT int cudaSetDevice(int device) {
  constexpr int kInvalidDevice = 101;
  if (device < 0 || device >= sim::device_count()) return kInvalidDevice;
  sim::current_device = static_cast<c10::DeviceIndex>(device);
  return 0;
}

EXPORT int cudaMemGetInfo(size_t* free, size_t* total) {
  *total = sim::device_bytes();
  *free = sim::Memory::get().free_bytes(sim::current_device);
  return 0;
}

EXPORT const char* cudaGetErrorString(int code) {
  switch (code) {
    case 0: return "no error";
    case 100: return "no CUDA-capable device is detected";
    default: return "invalid device ordinal";
  }
}
