// The oracle: plain loops straight from the packed bytes. Every other kernel is compared with it.
// It accumulates in double, so that a comparison measures the other kernel's rounding alone.
#ifndef KERAS_PRUNE_KERNELS_REFERENCE_H_
#define KERAS_PRUNE_KERNELS_REFERENCE_H_

#include <cstddef>
#include <cstdint>

#include "../sparse_format.h"

namespace keras_prune {
namespace {  // NOLINT(google-build-namespaces): a copy for each translation unit, see sparse_format.h

// y = clamp(x * W^T + bias, low, high); NaN stays NaN. Pruned positions never touch x.
inline void ReferenceForward(const PackedView& w, const float* x, size_t batch, const float* bias, float low,
                             float high, float* y) {
  for (size_t b = 0; b < batch; ++b, x += w.cols, y += w.rows) {
    uint32_t row = 0;
    double sum = 0.0;
    const auto finish_row = [&] {
      float v = static_cast<float>(sum + (bias != nullptr ? bias[row] : 0.0f));
      v = v < low ? low : v;
      y[row++] = v > high ? high : v;
      sum = 0.0;
    };
    VisitKept(w, [&](uint32_t r, uint32_t c, uint32_t code, uint32_t) {
      while (row < r) finish_row();
      sum += static_cast<double>(CodebookValue(w, code)) * x[c];
    });
    while (row < w.rows) finish_row();
  }
}

// dx = dy * W.
inline void ReferenceBackward(const PackedView& w, const float* dy, size_t batch, float* dx) {
  for (size_t b = 0; b < batch; ++b, dy += w.rows, dx += w.cols) {
    for (uint32_t c = 0; c < w.cols; ++c) dx[c] = 0.0f;
    VisitKept(w, [&](uint32_t r, uint32_t c, uint32_t code, uint32_t) { dx[c] += CodebookValue(w, code) * dy[r]; });
  }
}

}  // namespace
}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_REFERENCE_H_
