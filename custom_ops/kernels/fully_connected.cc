// The public functions: each goes to the kernel that made the layout.
#include "fully_connected.h"

#include <stdlib.h>
#include <string.h>

#include "inputs.h"
#include "kernel.h"

namespace keras_prune {

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

Status MakeFcLayout(const PackedView& packed, const FcOptions& options, FcLayout** out) {
  *out = nullptr;
  const FcKernel* kernel = KernelFor(options);
  return kernel->make(packed, kernel, out);
}

void FreeFcLayout(FcLayout* layout) { FreeAligned(layout); }
uint32_t FcRows(const FcLayout* layout) { return layout->rows; }
uint32_t FcCols(const FcLayout* layout) { return layout->cols; }
size_t FcLayoutBytes(const FcLayout* layout) { return layout->num_bytes; }
const char* FcKernelName(const FcLayout* layout) { return layout->kernel->name; }

void FillRows(uint32_t rows, const FcCall& call) {
  if (call.batch == 0) return;
  for (uint32_t row = 0; row < rows; ++row) {
    float v = call.bias != nullptr ? call.bias[row] : 0.0f;
    v = v < call.low ? call.low : v;
    call.y[row] = v > call.high ? call.high : v;
  }
  for (size_t b = 1; b < call.batch; ++b) memcpy(call.y + b * rows, call.y, rows * sizeof(float));
}

void FcForward(const FcLayout* layout, const FcCall& call) {
  // Tiles are filled one by one: all of y may be more than the caches hold.
  const bool is_tiled = IsTile(layout->kernel->input) && layout->num_parts != 0;
  if (layout->kept_rows < layout->rows && !is_tiled) FillRows(layout->rows, call);
  if (call.batch == 0) return;
  // Int8 tells a row of x that is not finite also where no weight is kept.
  if (layout->num_parts == 0 && !IsInt8(layout->kernel->input)) return;
  switch (layout->kernel->input) {
    case Input::kRows: return ForwardRows(layout, call);
    case Input::kInt8Rows: return ForwardInt8Rows(layout, call);
    case Input::kTile:
    case Input::kInt8Tile: return ForwardTiles(layout, call);
  }
}

uint64_t FcWorkspaceBytes(const FcLayout* layout, size_t batch, int num_threads) {
  switch (layout->kernel->input) {
    case Input::kRows: return 0;
    case Input::kInt8Rows: return Int8RowsBytes(layout, batch);
    case Input::kTile:
    case Input::kInt8Tile: return TilesBytes(layout, batch, num_threads);
  }
  return 0;
}

bool FcSameLayout(const FcOptions& a, const FcOptions& b) { return KernelFor(a) == KernelFor(b); }

// A layout's bytes are read once for each batch row: this many take about 50 us, and it takes 15 to 20 to wake a thread.
int FcThreads(const FcLayout* layout, size_t batch, int num_threads) {
  constexpr double kFewestBytes = 512 << 10;
  return static_cast<double>(layout->num_bytes) * static_cast<double>(batch) < kFewestBytes ? 1 : num_threads;
}

void FcBackward(const FcLayout* layout, const float* dy, size_t batch, float* dx) {
  layout->kernel->backward(layout, dy, batch, dx);
}

}  // namespace keras_prune
