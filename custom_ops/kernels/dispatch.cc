// Which kernels this CPU and this build can run.
#include <stdlib.h>
#include <string.h>

#include "kernel.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace keras_prune {
namespace {

// What an instruction set computes with; null: as the choice before it.
struct Choice {
  Isa isa;
  const char* name;
  const FcKernel* f32_rows;  // a few batch rows
  const FcKernel* f32_tile;  // from kFewestOfTile batch rows on
  const FcKernel* int8_rows;
  const FcKernel* int8_thin_tile;  // from kFewestOfThinTile batch rows on: tiles of layers that keep few weights
  const FcKernel* int8_tile;  // from kFewestOfInt8Tile batch rows on
};

// On a Zen 4 a tile of 8 takes as long as 2 rows one by one (scalar and AVX2), .65 of 3, half of 4. AVX-512's kernel for
// rows is up to four times as fast as AVX2's, its tiles can be twice.
constexpr size_t kFewestOfTile = 4;
constexpr size_t kFewestOfInt8Tile = 16;  // of fewer, many layers are faster row by row (s8_fc_tile__avx2.cc)
constexpr size_t kFewestOfThinTile = 8;

// Best last.
constexpr Choice kChoices[] = {
    {Isa::kReference, "reference", &kFcReference, nullptr, &kFcS8Reference, nullptr, nullptr},
    {Isa::kScalar, "scalar", &kFcScalar, &kFcTileScalar, &kFcS8Scalar, nullptr, &kFcS8TileScalar},
#if defined(__x86_64__)
    {Isa::kAvx2, "avx2", &kFcAvx2, &kFcTileAvx2, &kFcS8Avx2, &kFcS8ThinTileAvx2, &kFcS8TileAvx2},
    {Isa::kAvx512, "avx512", &kFcAvx512, &kFcTileAvx512, nullptr, nullptr, &kFcS8TileAvx512},
    {Isa::kAvx512Vbmi, "avx512vbmi", nullptr, nullptr, &kFcS8Avx512Vbmi, &kFcS8Avx512Vbmi, &kFcS8Avx512Vbmi},
#elif defined(__aarch64__)
    {Isa::kNeon, "neon", &kFcNeon, &kFcTileNeon, &kFcS8Neon, nullptr, &kFcS8TileNeon},
    {Isa::kNeonDot, "neondot", nullptr, nullptr, &kFcS8NeonDot, nullptr, &kFcS8TileNeonDot},
#endif
};
constexpr int kNumChoices = sizeof kChoices / sizeof kChoices[0];

#if defined(__x86_64__)
// Own code, because the compiler's __builtin_cpu_supports needs a data object of libgcc.
struct X86Features {
  bool avx2 = false, avx512 = false, avx512vbmi = false;
};

// The register state that the operating system saves: bits 1-2 SSE and AVX, 5-7 AVX-512.
uint64_t OsState() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

X86Features DetectX86() {
  X86Features found;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return found;
  const unsigned needed = bit_OSXSAVE | bit_AVX | bit_FMA;
  if ((c & needed) != needed || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return found;
  const uint64_t state = OsState();
  const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  found.avx2 = (state & 0x6) == 0x6 && (b & bit_AVX2) != 0;
  found.avx512 = found.avx2 && (state & 0xE6) == 0xE6 && (b & avx512) == avx512;
  const unsigned vbmi = bit_AVX512VBMI | bit_AVX512VNNI;
  found.avx512vbmi = found.avx512 && (c & vbmi) == vbmi;
#if defined(KERAS_PRUNE_SIMDE)
  found.avx512 = found.avx512vbmi = found.avx2;  // emulated (x86_intrinsics.h)
#endif
  return found;
}
#elif defined(__aarch64__)
bool HasDotProduct() {
#if defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kDotProduct) != 0;
#else
  return false;
#endif
}
#endif

}  // namespace

const FcKernel* KernelFor(const FcOptions& options) {
  const FcKernel *rows = &kFcScalar, *tile = nullptr, *int8 = nullptr, *thin = nullptr, *int8_tile = nullptr;
  for (const Choice& choice : kChoices) {
    if (choice.f32_rows != nullptr) rows = choice.f32_rows;
    if (choice.f32_tile != nullptr) tile = choice.f32_tile;
    if (choice.int8_rows != nullptr) int8 = choice.int8_rows;
    if (choice.int8_thin_tile != nullptr) thin = choice.int8_thin_tile;
    if (choice.int8_tile != nullptr) int8_tile = choice.int8_tile;
    if (choice.isa == options.isa) break;
  }
  if (options.activations == Activations::kInt8 && int8 != nullptr) {
    if (int8_tile != nullptr && options.batch >= kFewestOfInt8Tile) return int8_tile;
    return thin != nullptr && options.batch >= kFewestOfThinTile ? thin : int8;
  }
  return tile != nullptr && options.batch >= kFewestOfTile ? tile : rows;
}

bool IsaSupported(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::kAvx2) return DetectX86().avx2;
  if (isa == Isa::kAvx512) return DetectX86().avx512;
  if (isa == Isa::kAvx512Vbmi) return DetectX86().avx512vbmi;
#elif defined(__aarch64__)
  if (isa == Isa::kNeon) return true;
  if (isa == Isa::kNeonDot) return HasDotProduct();
#endif
  return isa == Isa::kReference || isa == Isa::kScalar;
}

const char* IsaName(Isa isa) {
  for (const Choice& choice : kChoices) {
    if (choice.isa == isa) return choice.name;
  }
  return "not built";
}

bool IsaFromName(const char* name, Isa* isa) {
  for (const Choice& choice : kChoices) {
    if (strcmp(name, choice.name) != 0) continue;
    *isa = choice.isa;
    return true;
  }
  return false;
}

Isa SelectIsa(bool* ok) {
  *ok = true;
  const char* forced = getenv("KERAS_PRUNE_ISA");
  for (int i = kNumChoices - 1; i >= 0; --i) {
    const Choice& choice = kChoices[i];
    const bool wanted = forced == nullptr || forced[0] == '\0' || strcmp(forced, choice.name) == 0;
    if (wanted && IsaSupported(choice.isa)) return choice.isa;
  }
  *ok = false;
  return Isa::kScalar;
}

}  // namespace keras_prune
