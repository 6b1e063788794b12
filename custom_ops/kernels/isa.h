// Instruction sets that this build may have kernels for.
#ifndef KERAS_PRUNE_KERNELS_ISA_H_
#define KERAS_PRUNE_KERNELS_ISA_H_

namespace keras_prune {

// kAvx512: F, BW, DQ and VL; kAvx512Vbmi: these with VBMI and VNNI; kNeonDot: NEON with the dot-product extension.
enum class Isa { kReference, kScalar, kAvx2, kAvx512, kAvx512Vbmi, kNeon, kNeonDot };

// The best instruction set of this CPU that this build has kernels for; KERAS_PRUNE_ISA (its name in lower case:
// reference, scalar, avx2, avx512, avx512vbmi, neon, neondot) in the environment forces one, for tests. *ok is false when
// the forced one is unknown or this CPU lacks it.
Isa SelectIsa(bool* ok);
bool IsaSupported(Isa isa);
const char* IsaName(Isa isa);
bool IsaFromName(const char* name, Isa* isa);  // false when this build knows no such name

}  // namespace keras_prune

#endif  // KERAS_PRUNE_KERNELS_ISA_H_
