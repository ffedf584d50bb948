#include <ATen/cuda/CUDAGraph.h>

static_assert(sizeof(at::cuda::CUDAGraph) <= LTD_CUDA_GRAPH_BYTES && alignof(at::cuda::CUDAGraph) <= 16,
              "the engine keeps less for a graph than LibTorch's takes");
