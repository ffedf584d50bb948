// Of CUDA's own headers; nothing in it matters here.
