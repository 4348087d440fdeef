// sigmoid and tanh in vectors, to 2.5 units in the last place. A NaN stays one.
#pragma once

#include "core/simd.h"

namespace fastvision {

// exp(x) - 1 = scale * (1 + p) - 1 with scale a power of two and p = exp(r) - 1, |r| <= ln(2) / 2.
// |x| may not exceed 88: the scale is made of exponent bits.
struct ExpParts {
  Vec scale, p;
};

inline FASTVISION_INLINE ExpParts exp_parts(const Vec& x) {
  // x + kRound rounds x to an integer in its lowest bits, which then hold n + 127.
  constexpr float kRound = 12582912.f + 127.f;  // 1.5 * 2^23 + the exponent of one
  const Vec biased = at::vec::fmadd(x, Vec(1.44269504f), Vec(kRound));
  const Vec n = biased - Vec(kRound);
  const Vec r = at::vec::fmadd(n, Vec(1.90465421e-9f), at::vec::fmadd(n, Vec(-0.693147182f), x));
  Vec q(1.9875691500e-4f);
  q = at::vec::fmadd(q, r, Vec(1.3981999507e-3f));
  q = at::vec::fmadd(q, r, Vec(8.3334519073e-3f));
  q = at::vec::fmadd(q, r, Vec(4.1665795894e-2f));
  q = at::vec::fmadd(q, r, Vec(1.6666665459e-1f));
  q = at::vec::fmadd(q, r, Vec(5.0000001201e-1f));
  return {exponent_bits(biased), at::vec::fmadd(r * r, q, r)};
}

inline FASTVISION_INLINE Vec sigmoid(const Vec& x) {
  const Vec clamped = max_keeping_second(Vec(-88.f), min_keeping_second(Vec(87.f), x));
  const ExpParts e = exp_parts(Vec(0.f) - clamped);
  return Vec(1.f) / (Vec(1.f) + at::vec::fmadd(e.scale, e.p, e.scale));
}

inline FASTVISION_INLINE Vec tanh(const Vec& x) {
  const Vec clamped = max_keeping_second(Vec(-20.f), min_keeping_second(Vec(20.f), x + x));
  const ExpParts e = exp_parts(clamped);
  const Vec expm1 = at::vec::fmadd(e.p, e.scale, e.scale - Vec(1.f));
  return expm1 / (expm1 + Vec(2.f));
}

}  // namespace fastvision
