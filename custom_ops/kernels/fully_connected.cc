// The public functions: each goes to the kernel that made the layout.
#include "fully_connected.h"

#include <stdlib.h>
#include <string.h>

#include "kernel.h"

namespace keras_prune {

const FcKernel* KernelFor(Isa isa);  // dispatch.cc

// calloc, because the system hands out zeroed pages lazily; what it gave stands just before the aligned address.
void* AllocateAligned(uint64_t num_bytes) {
  if (num_bytes > PTRDIFF_MAX - 2 * kAlignment) return nullptr;
  auto* raw = static_cast<char*>(calloc(1, static_cast<size_t>(num_bytes) + 2 * kAlignment));
  if (raw == nullptr) return nullptr;
  char* aligned = raw + kAlignment - reinterpret_cast<uintptr_t>(raw) % kAlignment;
  if (aligned - raw < static_cast<ptrdiff_t>(sizeof raw)) aligned += kAlignment;
  memcpy(aligned - sizeof raw, &raw, sizeof raw);
  return aligned;
}

void FreeAligned(void* memory) {
  if (memory == nullptr) return;
  char* raw;
  memcpy(&raw, static_cast<char*>(memory) - sizeof raw, sizeof raw);
  free(raw);
}

void InitLayout(const PackedView& packed, const FcKernel* kernel, uint64_t num_bytes, FcLayout* layout) {
  layout->kernel = kernel;
  layout->rows = packed.rows;
  layout->cols = packed.cols;
  layout->kept_rows = packed.rows;
  layout->codebook_size = packed.codebook_size;
  layout->num_bytes = static_cast<size_t>(num_bytes);
  for (uint32_t code = 0; code < packed.codebook_size; ++code) layout->codebook[code] = CodebookValue(packed, code);
}

Status MakeFcLayout(const PackedView& packed, Isa isa, FcLayout** out) {
  *out = nullptr;
  const FcKernel* kernel = KernelFor(isa);
  return kernel->make(packed, kernel, out);
}

void FreeFcLayout(FcLayout* layout) { FreeAligned(layout); }
uint32_t FcRows(const FcLayout* layout) { return layout->rows; }
uint32_t FcCols(const FcLayout* layout) { return layout->cols; }
size_t FcLayoutBytes(const FcLayout* layout) { return layout->num_bytes; }

// What a row without weights gives. Layouts do not list such rows, so that their size follows the packed bytes and not
// the number of rows that the header claims.
static void FillRows(uint32_t rows, size_t batch, const float* bias, float low, float high, float* y) {
  for (; batch != 0; --batch, y += rows) {
    for (uint32_t row = 0; row < rows; ++row) {
      float v = bias != nullptr ? bias[row] : 0.0f;
      v = v < low ? low : v;
      y[row] = v > high ? high : v;
    }
  }
}

void FcForward(const FcLayout* layout, const float* x, size_t batch, const float* bias, float low, float high,
               float* y) {
  if (layout->kept_rows < layout->rows) FillRows(layout->rows, batch, bias, low, high, y);
  layout->kernel->forward(layout, x, batch, bias, low, high, y);
}

void FcBackward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  layout->kernel->backward(layout, dy, batch, dx);
}

}  // namespace keras_prune
