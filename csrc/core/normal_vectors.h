// The stream of core/philox.h and core/normal.h in vectors.
#pragma once

#include "core/normal.h"
#include "core/vector_math.h"

namespace fastvision {

// 2 kLanes random words of kLanes / 2 counters, for normal_pair, and what puts its results in order.
class PhiloxVectors {
 public:
  PhiloxVectors(uint64_t seed, uint64_t offset) : seed_(seed), offset_(offset) {
    uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      keys_[round][0] = low;
      keys_[round][1] = high;
      low += kPhiloxKeyStep0;
      high += kPhiloxKeyStep1;
    }
  }

#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  // `sets` times the words of kLanes / 2 counters from `quad` on: rounds of one wait for its products, the others not.
  template <int sets>
  FASTVISION_INLINE void words(uint64_t quad, IntVec (&radius)[sets], IntVec (&angle)[sets]) const {
    // Words are in the lower halves of 64-bit lanes; what is in the upper ones does not matter.
    Lanes x0[sets], x1[sets], x2[sets], x3[sets];
    unroll<sets>([&](int s) FASTVISION_INLINE {
      x0[s] = counters(quad + s * (kLanes / 2));
      x1[s] = upper(x0[s]);
      x2[s] = all(offset_);
      x3[s] = all(offset_ >> 32);
    });
    unroll<kPhiloxRounds>([&](int round) FASTVISION_INLINE {
      const Lanes low = all(keys_[round][0]), high = all(keys_[round][1]);
      unroll<sets>([&](int s) FASTVISION_INLINE {
        const Lanes first = product(x0[s], all(kPhiloxMultiplier0)), second = product(x2[s], all(kPhiloxMultiplier1));
        x0[s] = exclusive_or(upper(second), x1[s], low);
        x1[s] = second;
        x2[s] = exclusive_or(upper(first), x3[s], high);
        x3[s] = first;
      });
    });
    unroll<sets>([&](int s) FASTVISION_INLINE {
      radius[s] = both(x0[s], x2[s]);
      angle[s] = both(x1[s], x3[s]);
    });
  }
#else
  template <int sets>
  void words(uint64_t quad, IntVec (&radius)[sets], IntVec (&angle)[sets]) const {
    int32_t lanes[2][kLanes];
    for (int s = 0; s < sets; ++s) {
      for (int64_t i = 0; i < kLanes; i += 2) {
        const PhiloxWords made = philox(seed_, offset_, quad++);
        for (int j = 0; j < 4; ++j) lanes[j % 2][i + j / 2] = static_cast<int32_t>(made.word[j]);
      }
      radius[s] = IntVec::loadu(lanes[0]);
      angle[s] = IntVec::loadu(lanes[1]);
    }
  }
#endif

  // Lane by lane the first and the second number of a pair; as the elements follow each other.
  static FASTVISION_INLINE void store_in_order(const Vec& first, const Vec& second, float* target) {
#if defined(CPU_CAPABILITY_AVX512)
    Vec(_mm512_unpacklo_ps(first, second)).store(target);
    Vec(_mm512_unpackhi_ps(first, second)).store(target + kLanes);
#elif defined(CPU_CAPABILITY_AVX2)
    Vec(_mm256_unpacklo_ps(first, second)).store(target);
    Vec(_mm256_unpackhi_ps(first, second)).store(target + kLanes);
#else
    const auto [low, high] = at::vec::interleave2(first, second);
    low.store(target);
    high.store(target + kLanes);
#endif
  }

 private:
  // Unpacking exchanges neighbours within 128 bits: counters are dealt so that the elements come out in order.
#if defined(CPU_CAPABILITY_AVX512)
  using Lanes = __m512i;
  static FASTVISION_INLINE Lanes all(uint64_t x) { return _mm512_set1_epi64(static_cast<int64_t>(x)); }
  static FASTVISION_INLINE Lanes counters(uint64_t first) {
    return _mm512_add_epi64(all(first), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
  }
  static FASTVISION_INLINE Lanes upper(Lanes x) { return _mm512_srli_epi64(x, 32); }
  static FASTVISION_INLINE Lanes product(Lanes a, Lanes b) { return _mm512_mul_epu32(a, b); }
  static FASTVISION_INLINE Lanes exclusive_or(Lanes a, Lanes b, Lanes c) {
    return _mm512_ternarylogic_epi64(a, b, c, 0x96);
  }
  static FASTVISION_INLINE IntVec both(Lanes even, Lanes odd) {
    return _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
  }
#elif defined(CPU_CAPABILITY_AVX2)
  using Lanes = __m256i;
  static FASTVISION_INLINE Lanes all(uint64_t x) { return _mm256_set1_epi64x(static_cast<int64_t>(x)); }
  static FASTVISION_INLINE Lanes counters(uint64_t first) {
    return _mm256_add_epi64(all(first), _mm256_setr_epi64x(0, 2, 1, 3));
  }
  static FASTVISION_INLINE Lanes upper(Lanes x) { return _mm256_srli_epi64(x, 32); }
  static FASTVISION_INLINE Lanes product(Lanes a, Lanes b) { return _mm256_mul_epu32(a, b); }
  static FASTVISION_INLINE Lanes exclusive_or(Lanes a, Lanes b, Lanes c) {
    return _mm256_xor_si256(_mm256_xor_si256(b, c), a);
  }
  static FASTVISION_INLINE IntVec both(Lanes even, Lanes odd) {
    return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  }
#endif

  uint64_t seed_, offset_;
  uint64_t keys_[kPhiloxRounds][2];
};

// fill_normals makes numbers in steps of so many: all random words of a step first, which wait in the first cache. In
// one loop with the normal numbers, the processor sees too few rounds that do not wait for each other. (Zen 5 with
// AVX-512, time of a number by sets of words: 2 0.36 ns, 4 0.31, 8 0.29.)
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kWordSets = 8, kTurns = 2;
#else
constexpr int kWordSets = 2, kTurns = 4;
#endif
constexpr int64_t kNormalStep = kTurns * kWordSets * 2 * kLanes;

// Elements from 4 quad on; `count` is a multiple of kNormalStep.
inline void fill_normals(const PhiloxVectors& stream, uint64_t quad, float* target, int64_t count) {
  constexpr int64_t kPairs = kNormalStep / 2;
  for (int64_t i = 0; i < count; i += kNormalStep) {
    alignas(64) int32_t radii[kPairs], angles[kPairs];
    for (int64_t j = 0; j < kPairs; j += kWordSets * kLanes) {
      IntVec radius[kWordSets], angle[kWordSets];
      stream.words<kWordSets>(quad + static_cast<uint64_t>(i + 2 * j) / 4, radius, angle);
      unroll<kWordSets>([&](int s) FASTVISION_INLINE {
        radius[s].store(radii + j + s * kLanes);
        angle[s].store(angles + j + s * kLanes);
      });
    }
    for (int64_t j = 0; j < kPairs; j += kLanes) {
      Vec first, second;
      normal_pair<ExactVectorMath>(IntVec::loadu(radii + j), IntVec::loadu(angles + j), first, second);
      PhiloxVectors::store_in_order(first, second, target + i + 2 * j);
    }
  }
}

}  // namespace fastvision
