// What an element of the reconstruction adds to the loss, and its derivative (vae/vae.h), as templates like
// vae/terms.h. (The square of mse is to be added by fma.)
#pragma once

#include "core/normal.h"
#include "vae/terms.h"
#include "vae/vae.h"

namespace fastvision {
namespace detail {

template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float larger(typename Math::Float a, typename Math::Float keeps_nan) {
  return Math::select(Math::greater(a, keeps_nan), a, keeps_nan);
}

// log(x) for x >= 0, but at least -100: stock's limit.
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float log_above_100(typename Math::Float x) {
  using Float = typename Math::Float;
  // Numbers too small to be normal are made larger by 2^24.
  const auto small = Math::greater(Float(0x1p-126f), x);
  const Float scaled = Math::select(small, x * Float(0x1p24f), x);
  const Float log = minus_two_log<Math>(scaled) * Float(-0.5f);
  const Float shifted = Math::select(small, log - Float(16.6355324f), log);
  return larger<Math>(Float(-100.f), Math::select(Math::greater(x, Float(0.f)), shifted, x - Float(200.f)));
}

// log(1 - x) for 0 <= x <= 1, likewise: precise where x is small, too.
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float log_of_rest(typename Math::Float x) {
  using Float = typename Math::Float;
  const Float rest = Float(1.f) - x;
  const Float lost = (Float(1.f) - rest) - x;  // exactly 1 - x - rest
  return Math::fma(lost, x, lost) + log_above_100<Math>(rest);
}

// exp(-|x|).
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float exp_of_minus_magnitude(typename Math::Float x) {
  using Float = typename Math::Float;
  using Int = typename Math::Int;
  const Float minus = Math::from_bits(Math::bits(x) | Int(static_cast<int32_t>(0x80000000)));
  const ExpParts<Math> e = exp_parts<Math>(larger<Math>(Float(-87.f), minus));
  const Float scale = Math::from_bits(Math::template shift_left<23>(Math::bits(e.biased)));
  return Math::fma(e.p, scale, scale);
}

// log(1 + e) for 0 <= e <= 1.
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float log_of_one_plus(typename Math::Float e) {
  using Float = typename Math::Float;
  const Float sum = Float(1.f) + e;
  const Float lost = e - (sum - Float(1.f));
  const Float log = minus_two_log<Math>(sum);
  return Math::fma(log, Float(-0.5f), lost * Math::fma(e, Float(-0.5f), Float(1.f)));
}

}  // namespace detail

template <class Math, Reconstruction reconstruction>
FASTVISION_HOST_DEVICE typename Math::Float reconstruction_term(typename Math::Float recon,
                                                                typename Math::Float target) {
  using Float = typename Math::Float;
  static_assert(reconstruction != Reconstruction::mse);
  if constexpr (reconstruction == Reconstruction::bce) {
    const Float against = (target - Float(1.f)) * detail::log_of_rest<Math>(recon);
    return Math::fma(Float(0.f) - target, detail::log_above_100<Math>(recon), against);
  } else {
    const Float negative = Math::select(Math::greater(recon, Float(0.f)), Float(0.f), recon);
    const Float log = detail::log_of_one_plus<Math>(detail::exp_of_minus_magnitude<Math>(recon));
    return Math::fma(Float(1.f) - target, recon, log - negative);
  }
}

// The derivative by recon.
template <class Math, Reconstruction reconstruction>
FASTVISION_HOST_DEVICE typename Math::Float reconstruction_gradient(typename Math::Float recon,
                                                                    typename Math::Float target) {
  using Float = typename Math::Float;
  const Float difference = recon - target;
  if constexpr (reconstruction == Reconstruction::mse) {
    return difference + difference;
  } else if constexpr (reconstruction == Reconstruction::bce) {
    return difference / detail::larger<Math>(Float(1e-12f), (Float(1.f) - recon) * recon);
  } else {
    const Float e = detail::exp_of_minus_magnitude<Math>(recon);
    const Float numerator = Math::select(Math::greater(recon, Float(0.f)), Float(1.f), e);
    return numerator / (Float(1.f) + e) - target;
  }
}

}  // namespace fastvision
