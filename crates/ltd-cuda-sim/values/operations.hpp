// Operations on tensors of a simulated device: LibTorch's CPU kernels on their contents.
#pragma once

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "graphs.hpp"
#include "memory.hpp"

namespace sim {

using c10::DeviceType;

/// The content of a device tensor as a CPU tensor; any other tensor itself.
inline at::Tensor content(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  const c10::Storage& storage = tensor.storage();
  c10::DataPtr data(Memory::get().content(storage.data_ptr().get()), c10::Device(DeviceType::CPU));
  c10::Storage alias(c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data), nullptr, false);
  at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
      std::move(alias), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  c10::TensorImpl* impl = result.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides(), tensor.storage_offset());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return result;
}

inline at::Tensor empty_on(DeviceIndex device, at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType type) {
  c10::DeviceGuard guard(c10::Device(DeviceType::CUDA, device));
  return at::detail::empty_strided_generic(sizes, strides, &device_allocator,
                                           c10::DispatchKeySet(c10::DispatchKey::CUDA), type);
}

/// A result of a CPU kernel as a device tensor of the same layout.
inline at::Tensor on_device(const at::Tensor& result, DeviceIndex device) {
  if (!result.defined()) return result;
  at::Tensor copy = empty_on(device, result.sizes(), result.strides(), result.scalar_type());
  content(copy).copy_(result);
  return copy;
}

/// Where the tensors of an operation are: all on one device, but for numbers of no dimension.
class Places {
 public:
  explicit Places(std::string operation) : operation_(std::move(operation)) {}

  void look(const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    if (!tensor.is_cuda()) {
      host_ = host_ || tensor.dim() > 0;
    } else {
      const DeviceIndex device = tensor.device().index();
      refuse_if(device_ && *device_ != device, "cuda:" + std::to_string(device));
      device_ = device;
    }
    refuse_if(host_ && device_, "cpu");
  }
  void name(DeviceIndex device) { device_ = device; }
  DeviceIndex device() const { return device_.value_or(current_device); }

 private:
  void refuse_if(bool mixed, const std::string& other) const {
    TORCH_CHECK(!mixed, "Expected all tensors to be on the same device, but found at least two devices, cuda:",
                static_cast<int>(device()), " and ", other, "! (", operation_, ")");
  }

  std::string operation_;
  std::optional<DeviceIndex> device_;
  bool host_ = false;
};

/// An argument with its device tensors' contents in their place.
inline c10::IValue to_host(const c10::IValue& value, Places& places) {
  const auto host = [&places](const at::Tensor& tensor) {
    places.look(tensor);
    return content(tensor);
  };
  if (value.isTensor()) return host(value.toTensor());
  if (value.isTensorList()) {
    std::vector<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(host(tensor));
    return list;
  }
  if (value.isOptionalTensorList()) {
    auto list = value.toOptionalTensorList().copy();
    for (size_t i = 0; i < list.size(); ++i) {
      const std::optional<at::Tensor> tensor = list.get(i);
      if (tensor) list.set(i, host(*tensor));
    }
    return list;
  }
  if (value.isDevice() && value.toDevice().is_cuda()) {
    places.name(value.toDevice().index());
    return c10::Device(DeviceType::CPU);
  }
  return value;
}

inline const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef sizes, std::optional<at::MemoryFormat>) {
  c10::TensorImpl* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(sizes);
  const size_t bytes = static_cast<size_t>(self.storage_offset() + self.numel()) * self.element_size();
  c10::StorageImpl* storage = impl->unsafe_storage().unsafeGetStorageImpl();
  if (bytes > storage->nbytes()) {
    c10::DeviceGuard guard(self.device());
    c10::DataPtr grown = device_allocator.allocate(bytes);
    if (storage->nbytes()) device_allocator.copy_data(grown.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(grown));
    storage->set_nbytes(bytes);
  }
  return self;
}

/// An output that gets its size from the operation, which makes memory of the host's for it.
inline bool is_yet_to_be(const at::Tensor& output) {
  return output.defined() && output.is_cuda() && output.numel() == 0;
}

/// A result as the operation on the device gives it: what was written in place is the argument itself.
inline c10::IValue to_device(const c10::IValue& value, const c10::FunctionSchema& schema, size_t number,
                             const std::vector<c10::IValue>& arguments, DeviceIndex device) {
  const c10::AliasInfo* alias = schema.returns()[number].alias_info();
  if (alias && alias->isWrite()) {
    for (size_t i = 0; i < arguments.size(); ++i) {
      const c10::AliasInfo* of = schema.arguments()[i].alias_info();
      if (!of || !of->isWrite() || !(*of == *alias)) continue;
      at::Tensor output = arguments[i].toTensor();
      if (is_yet_to_be(output)) {
        sim::resize(output, value.toTensor().sizes(), std::nullopt);
        content(output).copy_(value.toTensor());
      }
      TORCH_CHECK(value.toTensor().sizes() == output.sizes(), schema.name(), " resizes its output");
      return output;
    }
  }
  if (value.isTensor()) {
    TORCH_CHECK(!alias, schema.name(), " makes a view, which is not simulated");
    return on_device(value.toTensor(), device);
  }
  if (value.isTensorList()) {
    std::vector<at::Tensor> list;
    for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(on_device(tensor, device));
    return list;
  }
  return value;
}

/// Does an operation.
inline void call_on_contents(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const c10::FunctionSchema& schema = operation.schema();
  const size_t first = stack->size() - schema.arguments().size();
  const std::vector<c10::IValue> arguments(stack->begin() + static_cast<std::ptrdiff_t>(first), stack->end());
  Places places(schema.name());
  for (size_t i = 0; i < arguments.size(); ++i) {
    c10::IValue& argument = (*stack)[first + i];
    argument = to_host(arguments[i], places);
    const c10::AliasInfo* alias = schema.arguments()[i].alias_info();
    if (alias && alias->isWrite() && arguments[i].isTensor() && is_yet_to_be(arguments[i].toTensor()))
      argument = at::empty({0}, argument.toTensor().options());
  }
  // The CPU has no softmax from two bytes to four: it is given four.
  if ((schema.name() == "aten::_softmax" || schema.name() == "aten::_log_softmax") && (*stack)[first + 2].toBool()) {
    (*stack)[first] = (*stack)[first].toTensor().to(at::kFloat);
    (*stack)[first + 2] = false;
  }
  // Operations that write several outputs return references to arguments, which LibTorch reads after it has dropped them
  // from the stack: they are kept.
  const std::vector<c10::IValue> kept(stack->begin() + static_cast<std::ptrdiff_t>(first), stack->end());
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    operation.callBoxed(stack);
  }
  const size_t count = schema.returns().size(), results = stack->size() - count;
  for (size_t i = 0; i < count; ++i)
    (*stack)[results + i] = to_device((*stack)[results + i], schema, i, arguments, places.device());
}

/// Puts a result where another one of the same operation is.
inline void replace(const c10::IValue& result, const c10::IValue& by) {
  if (result.isTensorList()) {
    const auto results = result.toTensorVector(), others = by.toTensorVector();
    for (size_t i = 0; i < results.size(); ++i) replace(results[i], others[i]);
  } else if (result.isTensor() && result.toTensor().defined() && !result.toTensor().is_same(by.toTensor())) {
    content(result.toTensor()).copy_(content(by.toTensor()));
  }
}

inline std::vector<at::Tensor> tensors_in(const c10::IValue& value) {
  if (value.isTensorList()) return value.toTensorVector();
  return value.isTensor() ? std::vector<at::Tensor>{value.toTensor()} : std::vector<at::Tensor>{};
}

/// Any operation that has no form of its own here.
inline void on_contents(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  if (!capture) return call_on_contents(operation, stack);
  const size_t inputs = operation.schema().arguments().size(), outputs = operation.schema().returns().size();
  const std::vector<c10::IValue> arguments(stack->end() - static_cast<std::ptrdiff_t>(inputs), stack->end());
  call_on_contents(operation, stack);
  const std::vector<c10::IValue> results(stack->end() - static_cast<std::ptrdiff_t>(outputs), stack->end());
  for (size_t i = 0; i < outputs; ++i)
    if (!operation.schema().returns()[i].alias_info())
      for (const at::Tensor& tensor : tensors_in(results[i])) capture->made.push_back(tensor);
  capture->steps.emplace_back([operation, arguments, results] {
    torch::jit::Stack again = arguments;
    call_on_contents(operation, &again);
    for (size_t i = 0; i < results.size(); ++i) replace(results[i], again[again.size() - results.size() + i]);
  });
}

inline DeviceIndex index_of(std::optional<at::Device> device) {
  return device && device->has_index() ? device->index() : current_device;
}

inline at::ScalarType type_of(std::optional<at::ScalarType> type) {
  return type.value_or(at::typeMetaToScalarType(at::get_default_dtype()));
}

inline at::Tensor empty(at::IntArrayRef sizes, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                        std::optional<at::Device> device, std::optional<bool>,
                        std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(c10::Device(DeviceType::CUDA, index_of(device)));
  return at::detail::empty_generic(sizes, &device_allocator, c10::DispatchKeySet(c10::DispatchKey::CUDA), type_of(type),
                                   format);
}

inline at::Tensor empty_strided(at::IntArrayRef sizes, at::IntArrayRef strides, std::optional<at::ScalarType> type,
                                std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  return empty_on(index_of(device), sizes, strides, type_of(type));
}

/// Copies to the host that nobody has waited for. The host finds 0xff in their place, which is NaN and -1.
class Unfinished {
 public:
  static Unfinished& get() {
    // As memory: it is never freed.
    static Unfinished* the = new Unfinished;
    return *the;
  }

  void add(DeviceIndex device, const at::Tensor& to, at::Tensor what) {
    std::memset(to.data_ptr(), 0xff, to.nbytes());
    std::lock_guard<std::mutex> lock(mutex_);
    copies_[device].emplace_back(to, std::move(what));
  }

  /// Those of a device, for which somebody waits.
  void finish(DeviceIndex device) {
    std::lock_guard<std::mutex> lock(mutex_);
    at::AutoDispatchBelowADInplaceOrView guard;
    for (auto& [to, what] : copies_[device]) to.copy_(what);
    copies_[device].clear();
  }

 private:
  std::mutex mutex_;
  std::map<DeviceIndex, std::vector<std::pair<at::Tensor, at::Tensor>>> copies_;
};

/// Between devices, and to and from the host.
inline at::Tensor& copy(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  at::AutoDispatchBelowADInplaceOrView guard;
  if (self.is_cpu() || source.is_cpu()) refuse_in_capture("a copy to or from the host");
  if (capture) capture->steps.emplace_back([self, source] { content(self).copy_(content(source)); });
  if (non_blocking && self.is_cpu() && source.is_cuda() && self.is_contiguous()) {
    Unfinished::get().add(source.device().index(), self, content(source).clone());
    return self;
  }
  if (self.is_cpu() && source.is_cuda()) Unfinished::get().finish(source.device().index());
  content(self).copy_(content(source));
  return self;
}

/// A product whose result is of another type than what is multiplied, which the CPU has not.
inline at::Tensor product_as(const at::Tensor& self, const at::Tensor& other, at::ScalarType type) {
  Places places("mm.dtype");
  places.look(self), places.look(other);
  TORCH_CHECK(type == at::kFloat && self.element_size() == 2 && other.scalar_type() == self.scalar_type(),
              "mm.dtype is of two bytes to four");
  at::AutoDispatchBelowADInplaceOrView guard;
  const auto product = [self, other, type] { return at::mm(content(self).to(type), content(other).to(type)); };
  return noted(on_device(product(), places.device()), [product](const at::Tensor& to) { content(to).copy_(product()); });
}

inline at::Scalar item(const at::Tensor& self) {
  refuse_in_capture("a number is read");
  Unfinished::get().finish(self.device().index());
  return content(self).item();
}

inline at::Tensor& set_storage(at::Tensor& self, at::Storage source, int64_t offset, at::IntArrayRef sizes,
                               at::IntArrayRef strides) {
  self.unsafeGetTensorImpl()->set_storage_keep_dtype(std::move(source));
  self.unsafeGetTensorImpl()->set_sizes_and_strides(sizes, strides, offset);
  return self;
}

}  // namespace sim
