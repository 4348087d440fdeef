// Where a pixel of the result comes from, as templates like vae/terms.h: every kernel with a fused multiply-add finds
// the same bits.
#pragma once

#include <cmath>

#include "augment/augment.h"
#include "core/scalar_math.h"

namespace fastvision {

// A row of the result is cut into tiles of so many pixels. Coordinates of a tile's first pixel are computed in double
// precision and rounded, those of its others in fp32 from there.
constexpr int64_t kTileWidth = 64;

// One coordinate along a tile: start + i step.
struct Ramp {
  float start, step;
};

// `row` is the matrix' row of the coordinate.
FASTVISION_HOST_DEVICE Ramp ramp(const double* row, int64_t y, int64_t x) {
  const double start = std::fma(row[1], static_cast<double>(x), std::fma(row[0], static_cast<double>(y), row[2]));
  return {static_cast<float>(start), static_cast<float>(row[1])};
}

// A coordinate that is no number is outside.
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Mask is_inside(typename Math::Float c, float last) {
  using Float = typename Math::Float;
  return Math::at_least(c, Float(0.f)) & Math::at_least(Float(last), c);
}

// The coordinate within [0, last] that stands for c, which is itself where it is inside:
//
//   nearest, constant   0 or last
//   reflect             d c b a | a b c d | d c b a
//   wrap                scipy's mode of that name, whose period is last: the first pixel is also the last one
template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float fold(typename Math::Float c, float last, Fill fill) {
  using Float = typename Math::Float;
  Float folded = c;
  if (fill == Fill::wrap) {
    const auto below = Math::greater(Float(0.f), c);
    const Float periods = Math::floor(Math::select(below, Float(0.f) - c, c) / Float(last));
    folded = Math::select(below, Math::fma(Float(last), periods + Float(1.f), c), Math::fma(Float(-last), periods, c));
  } else if (fill == Fill::reflect) {
    const float period = 2.f * (last + 1.f);
    const Float shifted = c + Float(0.5f);
    const Float forth = Math::fma(Float(-period), Math::floor(shifted / Float(period)), shifted);
    const Float back = Float(period) - forth;
    folded = Math::select(Math::greater(forth, back), back, forth) - Float(0.5f);
  }
  folded = Math::select(is_inside<Math>(c, last), c, folded);
  // What is no number becomes 0.
  folded = Math::select(Math::greater(folded, Float(0.f)), folded, Float(0.f));
  return Math::select(Math::greater(folded, Float(last)), Float(last), folded);
}

// The pixel at or before a coordinate within [0, last], of two neighbours the first, and the weight of the second.
template <class Math>
struct Neighbours {
  typename Math::Int first;
  typename Math::Float weight;
};

template <class Math>
FASTVISION_HOST_DEVICE Neighbours<Math> neighbours(typename Math::Float c, float last) {
  using Float = typename Math::Float;
  const Float highest(last > 1.f ? last - 1.f : 0.f);
  const auto first = Math::to_int(Math::select(Math::greater(c, highest), highest, c));
  return {first, c - Math::to_float(first)};
}

template <class Math>
FASTVISION_HOST_DEVICE typename Math::Int nearest_pixel(typename Math::Float c) {
  return Math::to_int(c + typename Math::Float(0.5f));
}

template <class Math>
FASTVISION_HOST_DEVICE typename Math::Float blend(typename Math::Float first, typename Math::Float second,
                                                  typename Math::Float weight) {
  return Math::fma(weight, second - first, first);
}

}  // namespace fastvision
