// Vectors of fp32 and moves of image rows, on at::vec. Included by kernels only: everything
// here is compiled once per instruction set.
#pragma once

#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <utility>

#include "core/inline.h"
#include "core/types.h"

namespace fastvision {

using Vec = at::vec::Vectorized<float>;
using IntVec = at::vec::Vectorized<int32_t>;
constexpr int64_t kLanes = Vec::size();
static_assert(IntVec::size() == kLanes);

// f(0), f(1), ... f(Count - 1) with compile-time arguments. A loop over an array of vectors would leave
// the array in memory: GCC gives its elements registers before it unrolls.
template <int Count, class F>
inline FASTVISION_INLINE void unroll(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>)
      FASTVISION_INLINE { (f(std::integral_constant<int, I>()), ...); }(std::make_integer_sequence<int, Count>());
}

// a > b ? a : b as the processor's max does it: a NaN in `b` is kept, a NaN in `a` is lost.
inline Vec max_keeping_second(const Vec& a, const Vec& b) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_max_ps(a, b);
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_max_ps(a, b);
#else
  return Vec::blendv(b, a, a > b);
#endif
}

// a < b ? a : b, likewise.
inline Vec min_keeping_second(const Vec& a, const Vec& b) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_min_ps(a, b);
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_min_ps(a, b);
#else
  return Vec::blendv(b, a, a < b);
#endif
}

// The maximum of three; NaN if one of them is.
inline FASTVISION_INLINE Vec max_keeping_nan(const Vec& a, const Vec& b, const Vec& c) {
#if defined(CPU_CAPABILITY_AVX512)
  const __mmask16 ordered = _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(a, b, _CMP_ORD_Q), c, c, _CMP_ORD_Q);
  return _mm512_mask_max_ps(Vec(std::numeric_limits<float>::quiet_NaN()), ordered, _mm512_max_ps(a, b), c);
#elif defined(CPU_CAPABILITY_AVX2)
  // A NaN in c is kept, one in the maximum of a and b is not.
  const __m256 unordered = _mm256_cmp_ps(a, b, _CMP_UNORD_Q);
  return _mm256_or_ps(_mm256_max_ps(_mm256_max_ps(a, b), c), unordered);  // all bits set is a NaN
#else
  return at::vec::maximum(at::vec::maximum(a, b), c);
#endif
}

// The maximum of four; NaN if one of them is. at::vec's maximum asks for NaN at each of the three steps.
inline FASTVISION_INLINE Vec max_keeping_nan(const Vec& a, const Vec& b, const Vec& c, const Vec& d) {
#if defined(CPU_CAPABILITY_AVX512)
  const __mmask16 ordered = _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(a, b, _CMP_ORD_Q), c, d, _CMP_ORD_Q);
  return _mm512_mask_max_ps(Vec(std::numeric_limits<float>::quiet_NaN()), ordered, _mm512_max_ps(a, b),
                            _mm512_max_ps(c, d));
#elif defined(CPU_CAPABILITY_AVX2)
  const __m256 unordered = _mm256_or_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q), _mm256_cmp_ps(c, d, _CMP_UNORD_Q));
  const __m256 greatest = _mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, d));
  return _mm256_or_ps(greatest, unordered);  // all bits set is a NaN
#else
  return at::vec::maximum(at::vec::maximum(a, b), at::vec::maximum(c, d));
#endif
}

// The power of two whose biased exponent stands in the lowest bits of each lane.
inline FASTVISION_INLINE Vec exponent_bits(const Vec& lanes) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(lanes), 23));
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(lanes), 23));
#else
  float shifted[kLanes];
  lanes.store(shifted);
  for (float& lane : shifted) lane = std::bit_cast<float>(std::bit_cast<uint32_t>(lane) << 23);
  return Vec::loadu(shifted);
#endif
}

// The first n < kLanes elements, zeros after them. Reads nothing beyond.
inline FASTVISION_INLINE Vec load_first(const float* source, int64_t n) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), source);
#elif defined(CPU_CAPABILITY_AVX2)
  static constexpr int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_maskload_ps(source, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + 8 - n)));
#else
  float lanes[kLanes]{};
  for (int64_t i = 0; i < n; ++i) lanes[i] = source[i];
  return Vec::loadu(lanes);
#endif
}

#if defined(CPU_CAPABILITY_AVX2)
namespace detail {
// For each mask of eight lanes the numbers of those whose bit is set, one a byte.
constexpr std::array<uint64_t, 256> kSetLanes = [] {
  std::array<uint64_t, 256> lanes{};
  for (unsigned mask = 0; mask < 256; ++mask) {
    for (uint64_t lane = 0, place = 0; lane < 8; ++lane) {
      if (mask >> lane & 1) lanes[mask] |= lane << 8 * place++;
    }
  }
  return lanes;
}();
}  // namespace detail
#endif

// The lanes whose bit in `mask` is set, moved to the front; what follows them is arbitrary.
inline FASTVISION_INLINE Vec compress(const Vec& values, uint32_t mask) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), values);
#elif defined(CPU_CAPABILITY_AVX2)
  const __m128i lanes = _mm_cvtsi64_si128(static_cast<long long>(detail::kSetLanes[mask]));
  return _mm256_permutevar8x32_ps(values, _mm256_cvtepu8_epi32(lanes));
#else
  float lanes[kLanes], compressed[kLanes]{};
  values.store(lanes);
  for (int64_t lane = 0, place = 0; lane < kLanes; ++lane) {
    if (mask >> lane & 1) compressed[place++] = lanes[lane];
  }
  return Vec::loadu(compressed);
#endif
}

// One bit for each of kLanes bytes: is it `value`?
inline FASTVISION_INLINE uint32_t bytes_equal(const uint8_t* bytes, uint8_t value) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm_cmpeq_epi8_mask(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)),
                             _mm_set1_epi8(static_cast<char>(value)));
#elif defined(CPU_CAPABILITY_AVX2)
  const __m128i equal =
      _mm_cmpeq_epi8(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)), _mm_set1_epi8(static_cast<char>(value)));
  return static_cast<uint32_t>(_mm_movemask_epi8(equal)) & 0xff;
#else
  uint32_t mask = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) mask |= static_cast<uint32_t>(bytes[lane] == value) << lane;
  return mask;
#endif
}

// table[byte] for each of kLanes bytes. The table has kTableSize entries; a byte beyond finds any of them.
constexpr int64_t kTableSize = 16;
inline FASTVISION_INLINE IntVec lookup(const int32_t* table, const uint8_t* bytes) {
#if defined(CPU_CAPABILITY_AVX512)
  const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  return _mm512_permutexvar_epi32(index, IntVec::loadu(table));
#elif defined(CPU_CAPABILITY_AVX2)
  const __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
  const __m256 low = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(IntVec::loadu(table), index));
  const __m256 high = _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(IntVec::loadu(table + kLanes), index));
  const __m256 is_high = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));  // bit 3 to where the blend looks
  return _mm256_castps_si256(_mm256_blendv_ps(low, high, is_high));
#else
  int32_t found[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) found[lane] = table[bytes[lane] % kTableSize];
  return IntVec::loadu(found);
#endif
}

// Of 2 * kLanes numbers those at even and those at odd places.
inline FASTVISION_INLINE std::pair<Vec, Vec> load_even_and_odd(const float* source) {
#if defined(CPU_CAPABILITY_AVX2)
  // Loads join halves, which leaves one shuffle within halves for each result; at::vec takes two across them.
  const auto halves = [=](int64_t i) FASTVISION_INLINE {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(source + i)), _mm_loadu_ps(source + i + 8), 1);
  };
  const __m256 first = halves(0), second = halves(4);
  return {_mm256_shuffle_ps(first, second, 0x88), _mm256_shuffle_ps(first, second, 0xdd)};
#else
  return at::vec::deinterleave2(Vec::loadu(source), Vec::loadu(source + kLanes));
#endif
}

// Of 2 * kLanes bf16 numbers those at even and those at odd places, as fp32: less work than one half after the other.
inline FASTVISION_INLINE std::pair<Vec, Vec> load_even_and_odd(const c10::BFloat16* source) {
#if defined(CPU_CAPABILITY_AVX2)
  const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
  const __m256i odd = _mm256_and_si256(both, _mm256_set1_epi32(static_cast<int32_t>(0xffff0000)));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)), _mm256_castsi256_ps(odd)};
#else
  float even[kLanes], odd[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) {
    even[i] = source[2 * i];
    odd[i] = source[2 * i + 1];
  }
  return {Vec::loadu(even), Vec::loadu(odd)};
#endif
}

// kLanes integers as fp32.
inline FASTVISION_INLINE Vec load_int8_as_float(const int8_t* source) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source))));
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(source))));
#else
  float lanes[kLanes];
  for (int64_t i = 0; i < kLanes; ++i) lanes[i] = source[i];
  return Vec::loadu(lanes);
#endif
}

// Calls f.template operator()<T>() with the element type T behind `dtype`.
template <class F>
decltype(auto) visit_dtype(DType dtype, F&& f) {
  switch (dtype) {
    case DType::bf16:
      return f.template operator()<c10::BFloat16>();
    case DType::f16:
      return f.template operator()<c10::Half>();
    default:
      return f.template operator()<float>();
  }
}

template <class From, class To>
void convert_row(const From* source, To* target, int64_t n) {
  at::vec::convert(source, target, n);
}

#if defined(CPU_CAPABILITY_AVX512)
using Square = Vec[kLanes];

// Within quarters of the vectors first, then quarters: shuffles of fixed pattern, in half the time of permutations by
// an index (Zen 5).
inline FASTVISION_INLINE void transpose_registers(Square& square) {
  __m512 pairs[kLanes], quarters[kLanes];
  unroll<8>([&](auto i) FASTVISION_INLINE {
    const __m512 a = square[2 * i], b = square[2 * i + 1];
    pairs[2 * i] = _mm512_unpacklo_ps(a, b);
    pairs[2 * i + 1] = _mm512_unpackhi_ps(a, b);
  });
  unroll<8>([&](auto i) FASTVISION_INLINE {
    constexpr int first = decltype(i)::value / 2 * 4 + decltype(i)::value % 2;
    const __m512d a = _mm512_castps_pd(pairs[first]), b = _mm512_castps_pd(pairs[first + 2]);
    quarters[2 * i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
    quarters[2 * i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
  });
  // quarters[4 * i + j] holds, in its quarter q, column 4 * q + j of rows 4 * i to 4 * i + 3.
  unroll<4>([&](auto j) FASTVISION_INLINE {
    const __m512 a = quarters[j], b = quarters[4 + j], c = quarters[8 + j], d = quarters[12 + j];
    const __m512 even_ab = _mm512_shuffle_f32x4(a, b, 0x88), odd_ab = _mm512_shuffle_f32x4(a, b, 0xdd);
    const __m512 even_cd = _mm512_shuffle_f32x4(c, d, 0x88), odd_cd = _mm512_shuffle_f32x4(c, d, 0xdd);
    square[j] = _mm512_shuffle_f32x4(even_ab, even_cd, 0x88);
    square[4 + j] = _mm512_shuffle_f32x4(odd_ab, odd_cd, 0x88);
    square[8 + j] = _mm512_shuffle_f32x4(even_ab, even_cd, 0xdd);
    square[12 + j] = _mm512_shuffle_f32x4(odd_ab, odd_cd, 0xdd);
  });
}
#elif defined(CPU_CAPABILITY_AVX2)
using Square = at::vec::VectorizedN<float, kLanes>;

inline FASTVISION_INLINE void transpose_registers(Square& square) {
  at::vec::transpose_block(square);
}
#else
using Square = Vec[kLanes];

// Interleaving row i with row i + kLanes / 2, log2(kLanes) times over, leaves every element in its place (the perfect
// shuffle).
inline FASTVISION_INLINE void transpose_registers(Square& square) {
  unroll<std::countr_zero(static_cast<unsigned>(kLanes))>([&](int) FASTVISION_INLINE {
    Vec shuffled[kLanes];
    unroll<kLanes / 2>([&](int i) FASTVISION_INLINE {
      const auto [even, odd] = at::vec::interleave2(square[i], square[i + kLanes / 2]);
      shuffled[2 * i] = even;
      shuffled[2 * i + 1] = odd;
    });
    unroll<kLanes>([&](int i) FASTVISION_INLINE { square[i] = shuffled[i]; });
  });
}
#endif

// A square of up to kLanes x kLanes.
template <bool Full>
inline void transpose_square(const float* source, int64_t source_stride, int64_t rows, int64_t columns, float* target,
                             int64_t target_stride) {
  Square square;
  unroll<kLanes>([&](int i) FASTVISION_INLINE {
    const float* row = source + i * source_stride;
    square[i] = Full ? Vec::loadu(row) : i < rows ? Vec::loadu(row, columns) : Vec(0.f);
  });
  transpose_registers(square);
  unroll<kLanes>([&](int i) FASTVISION_INLINE {
    if (Full) {
      square[i].store(target + i * target_stride);
    } else if (i < columns) {
      square[i].store(target + i * target_stride, rows);
    }
  });
}

inline void transpose_square(const float* source, int64_t source_stride, int64_t rows, int64_t columns, float* target,
                             int64_t target_stride) {
  if (rows == kLanes && columns == kLanes) {
    transpose_square<true>(source, source_stride, rows, columns, target, target_stride);
  } else {
    transpose_square<false>(source, source_stride, rows, columns, target, target_stride);
  }
}

// (rows, columns) with leading dimension `source_stride` into (columns, rows).
template <class From, class To>
void transpose(const From* source, int64_t source_stride, int64_t rows, int64_t columns, To* target,
               int64_t target_stride) {
  for (int64_t r = 0; r < rows; r += kLanes) {
    const int64_t m = std::min(kLanes, rows - r);
    for (int64_t c = 0; c < columns; c += kLanes) {
      const int64_t n = std::min(kLanes, columns - c);
      const From* from = source + r * source_stride + c;
      To* to = target + c * target_stride + r;
      if constexpr (std::is_same_v<From, float> && std::is_same_v<To, float>) {
        transpose_square(from, source_stride, m, n, to, target_stride);
      } else if constexpr (std::is_same_v<To, float>) {
        float square[kLanes * kLanes];
        for (int64_t i = 0; i < m; ++i) convert_row(from + i * source_stride, square + i * kLanes, n);
        transpose_square(square, kLanes, m, n, to, target_stride);
      } else {
        float square[kLanes * kLanes];
        transpose_square(from, source_stride, m, n, square, kLanes);
        for (int64_t i = 0; i < n; ++i) convert_row(square + i * kLanes, to + i * target_stride, m);
      }
    }
  }
}

}  // namespace fastvision
