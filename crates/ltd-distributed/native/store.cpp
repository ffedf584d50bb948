// LibTorch's key-value store over TCP (c10d::TCPStore), which tch does not wrap. Each function returns nothing, or what
// went wrong as a text that the caller frees.
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <torch/csrc/distributed/c10d/exception.h>

#include "guarded.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <vector>

namespace {

/// As `TORCH_CPP_LOG_LEVEL=FATAL` has it: what goes wrong is told by whoever called.
constexpr int kFatal = 3;

using Store = c10::intrusive_ptr<c10d::TCPStore>;

c10d::TCPStore& in(void* store) {
  return **static_cast<Store*>(store);
}

}  // namespace

extern "C" {

/// Connects to the store at `host` and `port` within `timeout_ms`, or with a `listener` (a socket that listens there, of
/// which this takes ownership; -1 for none) serves it too. `*store` is freed with `ltd_store_free`.
char* ltd_store_open(const char* host, uint16_t port, int listener, int64_t timeout_ms, void** store) {
  return guarded([&] {
    // That a key is not there in time is no warning: ranks look in between for who has failed. A level that the user asked
    // for stays.
    if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = kFatal;
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = listener >= 0;
    if (listener >= 0) options.masterListenFd = listener;
    options.waitWorkers = false;
    options.timeout = std::chrono::milliseconds(timeout_ms);
    *store = new Store(c10::make_intrusive<c10d::TCPStore>(host, options));
  });
}

void ltd_store_free(void* store) {
  delete static_cast<Store*>(store);
}

char* ltd_store_set(void* store, const char* key, const uint8_t* bytes, size_t length) {
  return guarded([&] { in(store).set(key, std::vector<uint8_t>(bytes, bytes + length)); });
}

/// Waits until `key` is there; `*present` says whether it came within `timeout_ms`.
char* ltd_store_wait(void* store, const char* key, int64_t timeout_ms, bool* present) {
  return guarded([&] {
    try {
      in(store).wait({key}, std::chrono::milliseconds(timeout_ms));
      *present = true;
    } catch (const c10d::DistNetworkError&) {
      throw;
    } catch (const c10::DistStoreError&) {
      // Late, or the store does not answer: the next question tells.
      *present = in(store).check({key});
    }
  });
}

char* ltd_store_check(void* store, const char* key, bool* present) {
  return guarded([&] { *present = in(store).check({key}); });
}

/// The value of a key that is there. `*bytes` is freed with `free`.
char* ltd_store_get(void* store, const char* key, uint8_t** bytes, size_t* length) {
  return guarded([&] {
    const std::vector<uint8_t> value = in(store).get(key);
    *length = value.size();
    *bytes = static_cast<uint8_t*>(std::malloc(value.size() + 1));
    if (*bytes == nullptr) throw std::bad_alloc();
    std::memcpy(*bytes, value.data(), value.size());
  });
}

char* ltd_store_delete(void* store, const char* key) {
  return guarded([&] { in(store).deleteKey(key); });
}

/// Sets `key` unless it is there already.
char* ltd_store_set_once(void* store, const char* key, const uint8_t* bytes, size_t length) {
  return guarded([&] { in(store).compareSet(key, {}, std::vector<uint8_t>(bytes, bytes + length)); });
}

}  // extern "C"
