// Normally distributed numbers from random words, by Box and Muller: of two uniform numbers the radius and the angle.
// The same bits on every processor (core/scalar_math.h).
#pragma once

#include "core/philox.h"

namespace fastvision {

// -2 log(u) for 0 < u <= 1, to 4e-8 of it.
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float minus_two_log(typename Math::Float u) {
  using Float = typename Math::Float;
  using Int = typename Math::Int;
  // u = 2^e (1 + f) with 2/3 <= 1 + f < 4/3.
  const Int bits = Math::bits(u);
  const Int e = Math::template shift_right_signed<23>(bits - Int(0x3f2aaaab));
  const Float f = Math::from_bits(bits - Math::template shift_left<23>(e)) - Float(1.f);
  Float p(-2.804116607e-01f);
  p = Math::fma(p, f, Float(3.076719642e-01f));
  p = Math::fma(p, f, Float(-2.799426913e-01f));
  p = Math::fma(p, f, Float(3.283405900e-01f));
  p = Math::fma(p, f, Float(-4.002214670e-01f));
  p = Math::fma(p, f, Float(5.001549721e-01f));
  p = Math::fma(p, f, Float(-6.666640043e-01f));
  p = Math::fma(p, f, Float(9.999987483e-01f));
  p = Math::fma(p, f, Float(-2.f));
  constexpr float kMinusTwoLog2 = -1.38629436f;
  return Math::fma(Math::to_float(e), Float(kMinusTwoLog2), p * f);
}

// Two independent numbers from two words. The radius is that of 31 bits, which reach 6.66; the angle has 32.
template <class Math>
FASTVISION_HOST_DEVICE void normal_pair(typename Math::Int radius_word, typename Math::Int angle_word,
                                        typename Math::Float& first, typename Math::Float& second) {
  using Float = typename Math::Float;
  using Int = typename Math::Int;
  const Float m = Math::to_float(Math::template shift_right<1>(radius_word));
  const Float u = Math::fma(m, Float(0x1p-31f), Float(0x1p-32f));
  const Float radius = Math::sqrt(minus_two_log<Math>(u));

  // The lower 31 bits are an angle of x right angles, -1 <= x < 1; the highest turns it by two.
  const Float x = Math::to_float(Math::template shift_left<1>(angle_word)) * Float(0x1p-31f);
  const Float s = x * x;
  Float sine(1.569602609e-04f);
  sine = Math::fma(sine, s, Float(-4.684941377e-03f));
  sine = Math::fma(sine, s, Float(7.969687134e-02f));
  sine = Math::fma(sine, s, Float(-6.459652185e-01f));
  sine = Math::fma(sine, s, Float(1.570796371e+00f));
  Float cosine(-2.340200626e-05f);
  cosine = Math::fma(cosine, s, Float(9.167332901e-04f));
  cosine = Math::fma(cosine, s, Float(-2.086189948e-02f));
  cosine = Math::fma(cosine, s, Float(2.536690831e-01f));
  cosine = Math::fma(cosine, s, Float(-1.233700514e+00f));
  cosine = Math::fma(cosine, s, Float(1.f));

  const Int sign = angle_word & Int(static_cast<int32_t>(0x80000000));
  const Float turned = Math::from_bits(Math::bits(radius) ^ sign);
  first = turned * cosine;
  second = turned * (sine * x);
}

// Elements 4 quad to 4 quad + 3 of the stream.
FASTVISION_HOST_DEVICE void normal_quad(uint64_t seed, uint64_t offset, uint64_t quad, float (&values)[4]) {
  const PhiloxWords words = philox(seed, offset, quad);
  for (int i = 0; i < 4; i += 2) {
    normal_pair<ScalarMath>(static_cast<int32_t>(words.word[i]), static_cast<int32_t>(words.word[i + 1]), values[i],
                            values[i + 1]);
  }
}

}  // namespace fastvision
