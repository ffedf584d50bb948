// Attention as the real kernels do it: which of them is taken, and how its result lies in memory. The numbers come from
// LibTorch's plain formula.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>

#include "operations.hpp"

namespace sim {

using Mask = std::optional<at::Tensor>;
using Scale = std::optional<double>;

/// The kernel for these inputs: flash without a mask in two bytes, else the memory-efficient one, else plain formulas.
/// (Bounds of `sdp_utils.cpp` of LibTorch 2.11, as far as sizes of models come near them.)
inline int64_t choose_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Mask& mask, double,
                                bool causal, Scale, bool grouped) {
  TORCH_CHECK(!at::globalContext().userEnabledCuDNNSDP(), "cuDNN's attention is on: it would plan each length anew");
  const bool half = q.scalar_type() == at::kHalf || q.scalar_type() == at::kBFloat16;
  const bool dense = q.stride(-1) == 1 && k.stride(-1) == 1 && v.stride(-1) == 1;
  const bool heads = grouped || (q.size(1) == k.size(1) && k.size(1) == v.size(1));
  if (q.dim() == 4 && dense && heads && q.size(-2) > 0 && k.size(-2) > 0) {
    const int64_t width = q.size(-1);
    if (half && !mask && width <= 256 && !(causal && q.size(-2) != k.size(-2)))
      return static_cast<int64_t>(sdp::SDPBackend::flash_attention);
    if (!grouped && width % (half ? 8 : 4) == 0) return static_cast<int64_t>(sdp::SDPBackend::efficient_attention);
  }
  return static_cast<int64_t>(sdp::SDPBackend::math);
}

/// Writes the plain formula's result into `out`, on the device.
inline void attend(const at::Tensor& out, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                   const Mask& mask, bool causal, Scale scale) {
  at::AutoDispatchBelowADInplaceOrView guard;
  Mask bias;
  if (mask && mask->defined()) bias = content(*mask);
  const auto result = at::_scaled_dot_product_attention_math(content(q), content(k), content(v), bias, 0.0, causal,
                                                             std::nullopt, scale, k.size(1) != q.size(1));
  content(out).copy_(std::get<0>(result));
}

inline at::Tensor number(const at::Tensor& like) { return at::empty({}, like.options().dtype(at::kLong)); }

using Flash = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt, at::Tensor,
                         at::Tensor, at::Tensor>;

/// The result lies as the queries do.
inline Flash flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double, bool causal, bool,
                             Scale scale) {
  at::Tensor out = at::empty_like(q);
  attend(out, q, k, v, std::nullopt, causal, scale);
  at::Tensor log_sums = at::empty({q.size(0), q.size(1), q.size(2)}, q.options().dtype(at::kFloat));
  return {out, log_sums, {}, {}, q.size(2), k.size(2), number(q), number(q), {}};
}

/// The result lies as `[batch, rows, heads, width]`, whatever the queries do; a mask's rows must be aligned.
inline std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> efficient_attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Mask& mask, bool, double, bool causal,
    Scale scale) {
  if (mask && mask->defined()) {
    const int64_t aligned = q.element_size() == 4 ? 4 : 8;
    for (int64_t dimension = 0; dimension + 1 < mask->dim(); ++dimension)
      TORCH_CHECK(mask->stride(dimension) % aligned == 0, "attn_bias is not correctly aligned (strides)");
  }
  at::Tensor out = at::empty({q.size(0), q.size(2), q.size(1), v.size(3)}, q.options()).transpose(1, 2);
  attend(out, q, k, v, mask, causal, scale);
  at::Tensor log_sums = at::empty({q.size(0), q.size(1), 0}, q.options().dtype(at::kFloat));
  return {out, log_sums, number(q), number(q)};
}

}  // namespace sim
