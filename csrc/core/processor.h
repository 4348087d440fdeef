// What this processor is, where that decides which code is faster.
#pragma once

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdint>

namespace fastvision {

#if defined(__x86_64__)
// Stock's fp32 products are MKL's, which do without AVX-512 on AMD's processors.
inline bool stock_multiplies_by_avx512() {
  static const bool does = __builtin_cpu_supports("avx512f") && !__builtin_cpu_is("amd");
  return does;
}

// Zen 4, whose AVX-512 multiplies as much in a cycle as AVX2 does.
inline bool processor_halves_avx512() {
  static const bool does = [] {
    unsigned eax, ebx, ecx, edx;
    constexpr unsigned kFamily = 0x19;
    if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return false;
    return (eax >> 8 & 0xf) + (eax >> 20 & 0xff) == kFamily;
  }();
  return does;
}

// Whether stock multiplies bfloat16 by AMX tiles: eight times as many products a cycle as in fp32.
inline bool processor_has_bf16_tiles() {
  static const bool has = [] {
    unsigned eax, ebx, ecx, edx;
    constexpr unsigned kXsaveEnabled = 1u << 27, kTilesBf16 = 1u << 22, kTileState = 3u << 17;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & kXsaveEnabled)) return false;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(edx & kTilesBf16)) return false;
    uint32_t low, high;
    asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));  // the state that the operating system saves
    return (low & kTileState) == kTileState;
  }();
  return has;
}
#else
inline bool stock_multiplies_by_avx512() {
  return false;
}

inline bool processor_halves_avx512() {
  return false;
}

inline bool processor_has_bf16_tiles() {
  return false;
}
#endif

// Whether products of this library are by AVX-512 and stock's fp32 products are not.
inline bool multiplies_wider_than_stock() {
#if defined(CPU_CAPABILITY_AVX512)
  return !stock_multiplies_by_avx512();
#else
  return false;
#endif
}

}  // namespace fastvision
