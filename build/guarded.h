// An exception of C++ must not reach Rust.
#pragma once

#include <cstring>
#include <exception>

/// Does some work, and returns nothing, or what went wrong as a text that the caller frees.
template <class Work>
char* guarded(Work work) {
  try {
    work();
    return nullptr;
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception that is no std::exception");
  }
}
