// How pixels get into vectors: kLanes of them at a time, from anywhere in an image.
#pragma once

#include <cstring>

#include "augment/augment.h"
#include "augment/coordinates.h"
#include "core/vector_math.h"

namespace fastvision {

// The four bytes at each offset.
inline FASTVISION_INLINE IntVec gather_words(const uint8_t* base, const IntVec& offsets) {
#if defined(CPU_CAPABILITY_AVX512)
  return _mm512_i32gather_epi32(offsets, base, 1);
#elif defined(CPU_CAPABILITY_AVX2)
  return _mm256_i32gather_epi32(reinterpret_cast<const int*>(base), offsets, 1);
#else
  int32_t at[kLanes], words[kLanes];
  offsets.store(at);
  for (int64_t i = 0; i < kLanes; ++i) std::memcpy(&words[i], base + at[i], sizeof(int32_t));
  return IntVec::loadu(words);
#endif
}

template <int n>
inline FASTVISION_INLINE Vec byte_of(const IntVec& words) {
  return VectorMath::to_float(VectorMath::shift_right<8 * n>(words) & IntVec(0xff));
}

// What follows fetches, for each lane and channel, a pixel (`pixel`) or the mean of four by their weights (`mean`), and
// hands them over as f(channel, vector). Rows and columns are within the image; those of `mean` are the first of two
// neighbours, unless there is only one.

// Three channels side by side, at least two columns: a word of four bytes holds a pixel, and no byte is read that is
// not of the image, since of two neighbours the second has its word end where it ends.
class PackedPixels {
 public:
  static bool suit(const AffineResampling& p) {
    return p.pixels == PixelType::u8 && p.channels == 3 && p.width > 1 && p.image_strides.c == 1 &&
           p.image_strides.w == 3;
  }

  PackedPixels(const AffineResampling& p, const void* images, int64_t n)
      : image_(static_cast<const uint8_t*>(images) + n * p.image_strides.n),
        last_pair_(static_cast<int32_t>(p.width - 2)),
        row_stride_(static_cast<int32_t>(p.height > 1 ? p.image_strides.h : 0)) {}

  template <class F>
  FASTVISION_INLINE void mean(const Neighbours<VectorMath>& y, const Neighbours<VectorMath>& x, const F& f) const {
    const IntVec upper = y.first * IntVec(row_stride_) + x.first * IntVec(3), lower = upper + IntVec(row_stride_);
    const IntVec a = gather_words(image_, upper), b = gather_words(image_, upper + IntVec(2)),
                 c = gather_words(image_, lower), d = gather_words(image_, lower + IntVec(2));
    unroll<3>([&](auto channel) FASTVISION_INLINE {
      const Vec above = blend<VectorMath>(byte_of<channel>(a), byte_of<channel + 1>(b), x.weight);
      const Vec below = blend<VectorMath>(byte_of<channel>(c), byte_of<channel + 1>(d), x.weight);
      f(channel, blend<VectorMath>(above, below, y.weight));
    });
  }

  template <class F>
  FASTVISION_INLINE void pixel(const IntVec& y, const IntVec& x, const F& f) const {
    const IntVec first = at::vec::minimum(x, IntVec(last_pair_)), second = x - first;  // 0, or 1 in the last column
    const IntVec offset = y * IntVec(row_stride_) + first * IntVec(3);
    const IntVec a = gather_words(image_, offset), b = gather_words(image_, offset + IntVec(2));
    const Vec is_second = VectorMath::greater(VectorMath::to_float(second), Vec(0.f));
    unroll<3>([&](auto channel) FASTVISION_INLINE {
      f(channel, VectorMath::select(is_second, byte_of<channel + 1>(b), byte_of<channel>(a)));
    });
  }

 private:
  const uint8_t* image_;
  int32_t last_pair_, row_stride_;
};

// Any strides and number of channels.
template <class T>
class StridedPixels {
 public:
  StridedPixels(const AffineResampling& p, const void* images, int64_t n)
      : image_(static_cast<const T*>(images) + n * p.image_strides.n),
        channels_(p.channels),
        channel_stride_(p.image_strides.c),
        row_stride_(static_cast<int32_t>(p.height > 1 ? p.image_strides.h : 0)),
        column_stride_(static_cast<int32_t>(p.width > 1 ? p.image_strides.w : 0)) {}

  template <class F>
  FASTVISION_INLINE void mean(const Neighbours<VectorMath>& y, const Neighbours<VectorMath>& x, const F& f) const {
    int32_t offsets[kLanes];
    offset_of(y.first, x.first).store(offsets);
    const T* plane = image_;
    for (int64_t channel = 0; channel < channels_; ++channel, plane += channel_stride_) {
      const T* below = plane + row_stride_;
      const Vec upper = blend<VectorMath>(lanes(plane, offsets), lanes(plane + column_stride_, offsets), x.weight);
      const Vec lower = blend<VectorMath>(lanes(below, offsets), lanes(below + column_stride_, offsets), x.weight);
      f(channel, blend<VectorMath>(upper, lower, y.weight));
    }
  }

  template <class F>
  FASTVISION_INLINE void pixel(const IntVec& y, const IntVec& x, const F& f) const {
    int32_t offsets[kLanes];
    offset_of(y, x).store(offsets);
    for (int64_t channel = 0; channel < channels_; ++channel) {
      f(channel, lanes(image_ + channel * channel_stride_, offsets));
    }
  }

 private:
  FASTVISION_INLINE IntVec offset_of(const IntVec& y, const IntVec& x) const {
    return y * IntVec(row_stride_) + x * IntVec(column_stride_);
  }
  static FASTVISION_INLINE Vec lanes(const T* plane, const int32_t (&offsets)[kLanes]) {
    float values[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) values[i] = static_cast<float>(plane[offsets[i]]);
    return Vec::loadu(values);
  }

  const T* image_;
  int64_t channels_, channel_stride_;
  int32_t row_stride_, column_stride_;
};

}  // namespace fastvision
