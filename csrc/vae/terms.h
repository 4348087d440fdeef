// The formulas of one element, or of a vector of elements (core/scalar_math.h): all kernels that have a fused
// multiply-add compute the same bits.
#pragma once

#include "core/scalar_math.h"

namespace fastvision {

template <class Math>
struct Deviation {
  typename Math::Float sigma;      // exp(logvar / 2)
  typename Math::Float minus_one;  // sigma - 1, without cancellation where logvar is small
};

namespace detail {

// exp(x) = 2^n (1 + p) with |log(1 + p)| <= log(2) / 2; `biased` has n + 127 in its lowest bits.
template <class Math>
struct ExpParts {
  typename Math::Float biased, p;
};

template <class Math>
FASTVISION_HOST_DEVICE ExpParts<Math> exp_parts(typename Math::Float x) {
  using Float = typename Math::Float;
  constexpr float kRound = 12582912.f + 127.f;  // 1.5 * 2^23: the sum's lowest bit is one
  const Float biased = Math::fma(x, Float(1.44269504f), Float(kRound));
  const Float n = biased - Float(kRound);
  // log(2) in two parts; the product with the first is exact.
  const Float r = Math::fma(n, Float(2.12194440e-4f), Math::fma(n, Float(-0.693359375f), x));
  Float q(1.387028373e-03f);
  q = Math::fma(q, r, Float(8.366254158e-03f));
  q = Math::fma(q, r, Float(4.166743904e-02f));
  q = Math::fma(q, r, Float(1.666654646e-01f));
  q = Math::fma(q, r, Float(4.999999702e-01f));
  return {biased, Math::fma(r * r, q, r)};
}

// Where sigma is not a normal number: 2^n in two factors.
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float exp_anywhere(typename Math::Float x) {
  using Float = typename Math::Float;
  using Int = typename Math::Int;
  constexpr float kLowest = -104.f, kHighest = 89.f;  // 0 and infinity
  const Float low = Math::select(Math::greater(Float(kLowest), x), Float(kLowest), x);
  const ExpParts<Math> e = exp_parts<Math>(Math::select(Math::greater(low, Float(kHighest)), Float(kHighest), low));
  const Int n = Math::bits(e.biased) - Int(0x4b400000 + 127);
  const Int half = Math::template shift_right_signed<1>(n);
  const Float first = Math::from_bits(Math::template shift_left<23>(half + Int(127)));
  const Float second = Math::from_bits(Math::template shift_left<23>(n - half + Int(127)));
  return Math::fma(e.p, first, first) * second;
}

}  // namespace detail

template <class Math>
FASTVISION_HOST_DEVICE Deviation<Math> deviation(typename Math::Float logvar) {
  using Float = typename Math::Float;
  const Float x = logvar * Float(0.5f);
  const detail::ExpParts<Math> e = detail::exp_parts<Math>(x);
  const Float scale = Math::from_bits(Math::template shift_left<23>(Math::bits(e.biased)));
  Deviation<Math> result{Math::fma(e.p, scale, scale), Math::fma(e.p, scale, scale - Float(1.f))};
  const auto beyond = Math::greater(x * x, Float(87.f * 87.f));
  if (Math::any(beyond)) {
    const Float sigma = detail::exp_anywhere<Math>(x);
    result.sigma = Math::select(beyond, sigma, result.sigma);
    result.minus_one = Math::select(beyond, sigma - Float(1.f), result.minus_one);
  }
  return result;
}

template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float sample(typename Math::Float mu, typename Math::Float eps,
                                                   const Deviation<Math>& d) {
  return Math::fma(eps, d.sigma, mu);
}

// 2 KL = mu^2 + (sigma - 1)(sigma + 1) - logvar.
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float twice_kl(typename Math::Float mu, typename Math::Float logvar,
                                                     const Deviation<Math>& d) {
  using Float = typename Math::Float;
  return Math::fma(mu, mu, Math::fma(d.minus_one, d.minus_one + Float(2.f), Float(0.f) - logvar));
}

// exp(logvar) - 1.
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float variance_minus_one(const Deviation<Math>& d) {
  return d.minus_one * (d.minus_one + typename Math::Float(2.f));
}

}  // namespace fastvision
