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

/// Notes that attention writes its result once more.
template <class Attend>
void note_attention(const at::Tensor& out, Attend attend) {
  attend(out);
  noted(out, attend);
}

inline at::Tensor number(const at::Tensor& like) { return at::empty({}, like.options().dtype(at::kLong)); }

using Flash = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt, at::Tensor,
                         at::Tensor, at::Tensor>;

/// The result lies as the queries do.
inline Flash flash_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double, bool causal, bool,
                             Scale scale) {
  at::Tensor out = at::empty_like(q);
  note_attention(out, [=](const at::Tensor& to) { attend(to, q, k, v, std::nullopt, causal, scale); });
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
  note_attention(out, [=](const at::Tensor& to) { attend(to, q, k, v, mask, causal, scale); });
  at::Tensor log_sums = at::empty({q.size(0), q.size(1), 0}, q.options().dtype(at::kFloat));
  return {out, log_sums, number(q), number(q)};
}

using Varlen = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using MaybeTensor = std::optional<at::Tensor>;

/// One row over the first keys and values, as many as the device is told: `[rows, heads, width]` of each.
inline Varlen flash_of_lengths(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const MaybeTensor& ends_q,
                               const MaybeTensor& ends_k, c10::SymInt most_q, c10::SymInt most_k, double, bool causal,
                               bool, Scale scale, std::optional<c10::SymInt>, std::optional<c10::SymInt>,
                               const MaybeTensor& used, const MaybeTensor&) {
  TORCH_CHECK(q.element_size() == 2 && q.size(0) == 1 && most_q == 1 && most_k == k.size(0) && !causal && ends_q &&
                  ends_k && used,
              "only one row of queries over the first keys is simulated");
  for (const at::Tensor& ends : {*ends_q, *ends_k, *used})
    TORCH_CHECK(ends.is_cuda() && ends.scalar_type() == at::kInt, "lengths are i32 on the device");
  at::Tensor out = at::empty_like(q);
  const auto run = [=](const at::Tensor& to) {
    at::AutoDispatchBelowADInplaceOrView guard;
    TORCH_CHECK(content(*ends_q)[1].item<int>() == 1 && content(*ends_k)[1].item<int>() == k.size(0), "ends");
    const auto heads_first = [](const at::Tensor& x) { return content(x).transpose(0, 1).unsqueeze(0); };
    const int64_t count = content(*used).item<int>();
    const auto keys = heads_first(k.narrow(0, 0, count)), values = heads_first(v.narrow(0, 0, count));
    const auto result = at::_scaled_dot_product_attention_math(heads_first(q), keys, values, std::nullopt, 0.0, false,
                                                               std::nullopt, scale, k.size(1) != q.size(1));
    content(to).copy_(std::get<0>(result).squeeze(0).transpose(0, 1));
  };
  note_attention(out, run);
  return {out, number(q), number(q), number(q), number(q)};
}

}  // namespace sim
