// Device memory: addresses that nobody may follow. What they stand for lies at a fixed distance, where only the simulated
// kernels look. A host that follows a device pointer ends with a segmentation fault, as with CUDA.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/Exception.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sim {

using c10::DeviceIndex;

inline size_t number_of(const char* variable, size_t otherwise) {
  const char* value = std::getenv(variable);
  return value && *value ? std::strtoull(value, nullptr, 10) : otherwise;
}

/// Devices of the machine (`LTD_SIM_DEVICES`).
inline DeviceIndex device_count() {
  static const auto count = static_cast<DeviceIndex>(number_of("LTD_SIM_DEVICES", 1));
  return count;
}

/// Bytes of each device (`LTD_SIM_MEMORY`).
inline size_t device_bytes() {
  static const size_t bytes = number_of("LTD_SIM_MEMORY", size_t(8) << 30);
  return bytes;
}

/// Bytes of each device that another program holds (`LTD_SIM_HELD`).
inline size_t held_bytes() {
  static const size_t bytes = std::min(device_bytes(), number_of("LTD_SIM_HELD", 0));
  return bytes;
}

inline thread_local DeviceIndex current_device = 0;

class Memory {
 public:
  static Memory& get() {
    // Tensors may outlive statics: it is never freed.
    static Memory* the = new Memory;
    return *the;
  }

  /// A block on a device, full of NaN: memory that was not written must not be read.
  void* take(DeviceIndex device, size_t bytes) {
    const size_t size = rounded(bytes);
    std::lock_guard<std::mutex> lock(mutex_);
    size_t& used = used_on(device);
    // In LibTorch's words, which programs read.
    TORCH_CHECK_WITH(OutOfMemoryError, used + size <= device_bytes(), "CUDA out of memory. Tried to allocate ",
                     mebibytes(bytes), " MiB. GPU ", static_cast<int>(device), " has a total capacity of ",
                     mebibytes(device_bytes()), " MiB of which ", mebibytes(device_bytes() - used), " MiB is free.");
    std::vector<char*>& blocks = free_[size];
    char* block;
    if (blocks.empty()) {
      TORCH_CHECK(end_ + size <= kSpan, "the simulated devices have no addresses left");
      block = addresses_ + end_;
      end_ += size;
    } else {
      block = blocks.back();
      blocks.pop_back();
    }
    blocks_[block] = {size, device};
    used += size;
    std::memset(content(block), 0xff, bytes);
    return block;
  }

  void give(void* pointer) {
    std::lock_guard<std::mutex> lock(mutex_);
    auto* block = static_cast<char*>(pointer);
    const auto [size, device] = blocks_.at(block);
    blocks_.erase(block);
    used_on(device) -= size;
    // What was freed must not be read either, and large blocks give their pages back.
    if (size < kLarge) {
      std::memset(content(block), 0xff, size);
    } else {
      madvise(content(block), size, MADV_DONTNEED);
    }
    free_[size].push_back(block);
  }

  /// Where the content of a device pointer is.
  void* content(const void* pointer) const {
    if (!pointer) return nullptr;
    const auto* at = static_cast<const char*>(pointer);
    TORCH_CHECK(at >= addresses_ && at < addresses_ + kSpan, "a CUDA tensor whose pointer is of the host");
    return contents_ + (at - addresses_);
  }

  size_t free_bytes(DeviceIndex device) {
    std::lock_guard<std::mutex> lock(mutex_);
    return device_bytes() - used_on(device);
  }

 private:
  // Addresses of all devices together.
  static constexpr size_t kSpan = size_t(1) << 38;
  static constexpr size_t kSmallest = 512;
  static constexpr size_t kLarge = size_t(1) << 26;

  struct Block {
    size_t size;
    DeviceIndex device;
  };

  Memory() : addresses_(reserve(PROT_NONE)), contents_(reserve(PROT_READ | PROT_WRITE)) {}

  size_t& used_on(DeviceIndex device) { return used_.try_emplace(device, held_bytes()).first->second; }

  static double mebibytes(size_t bytes) { return std::round(static_cast<double>(bytes) / 10485.76) / 100; }

  static char* reserve(int protection) {
    void* at = mmap(nullptr, kSpan, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TORCH_CHECK(at != MAP_FAILED, "no address space for the simulated devices");
    return static_cast<char*>(at);
  }

  /// Powers of two up to a mebibyte, whole mebibytes from there on: blocks are used again.
  static size_t rounded(size_t bytes) {
    constexpr size_t kMebibyte = size_t(1) << 20;
    if (bytes > kMebibyte) return (bytes + kMebibyte - 1) / kMebibyte * kMebibyte;
    size_t size = kSmallest;
    while (size < bytes) size *= 2;
    return size;
  }

  std::mutex mutex_;
  char* addresses_;
  char* contents_;
  size_t end_ = 0;
  std::map<DeviceIndex, size_t> used_;
  std::unordered_map<char*, Block> blocks_;
  std::map<size_t, std::vector<char*>> free_;
};

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* block = bytes ? Memory::get().take(current_device, bytes) : nullptr;
    return {block, block, &free_block, c10::Device(c10::DeviceType::CUDA, current_device)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_block; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    std::memcpy(Memory::get().content(to), Memory::get().content(from), bytes);
  }
  static void free_block(void* block) {
    if (block) Memory::get().give(block);
  }
};

inline DeviceAllocator device_allocator;

}  // namespace sim
