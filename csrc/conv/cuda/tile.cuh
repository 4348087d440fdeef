// The matrix product that all convolution kernels are: tile sizes, number formats, and how a
// row and a column of the product find their element in an image.
//
// A block of 128 threads computes a tile of 128 rows by 32 or 64 columns. It goes through the depth
// of the product in steps of 64 bytes: A and B of one step are in shared memory while those of the
// next are on their way from global memory into registers.
//
//              rows (A)                  columns (B)      depth
//   forward    pixels of the output      out channels     (kernel row, kernel column, in channel)
//   grad_input pixels of the input       in channels      (kernel row, kernel column, out channel)
//   grad_weight (kernel row, column,     out channels     pixels of the convolution's output
//               in channel)
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/gpu.h"
#include "core/integers.h"

namespace fastvision::conv_cuda {

constexpr int kThreads = 128;
constexpr int kLanes = 32;  // of a warp
constexpr int kWarps = kThreads / kLanes;
constexpr int kTileRows = 128;
constexpr int kSliceColumns = 32;  // the epilogue takes a tile in slices of so many columns
constexpr int kDepthBytes = 64;
constexpr int kVectorBytes = 16;
constexpr int kPaddingBytes = 16;  // at the end of each row of a shared tile, against bank conflicts
static_assert(kThreads == kTileRows, "one thread gathers one row");

// How a product is computed: the type in memory, and the unit that multiplies.
struct F32 {  // fused multiply-add
  using Element = float;
  static constexpr bool kTensorCores = false;
  static constexpr bool kCompiled = true;
};
struct F16 {
  using Element = __half;
  using Factor = __half;
  static constexpr bool kTensorCores = true;
  static constexpr bool kCompiled = true;
  static constexpr int kFragmentDepth = 16;
};
// These two need compute capability 8.0; for older GPUs their kernels are compiled empty.
struct BF16 {
  using Element = __nv_bfloat16;
  using Factor = __nv_bfloat16;
  static constexpr bool kTensorCores = true;
  static constexpr bool kCompiled = GPU_HAS_BF16_AND_TF32;
  static constexpr int kFragmentDepth = 16;
};
struct TF32 {
  using Element = float;
  static constexpr bool kTensorCores = true;
  static constexpr bool kCompiled = GPU_HAS_BF16_AND_TF32;
#if GPU_HAS_BF16_AND_TF32
  using Factor = nvcuda::wmma::precision::tf32;
#endif
  static constexpr int kFragmentDepth = 8;
};

// 16 bytes that travel as one.
template <class Element>
struct alignas(kVectorBytes) Vector {
  static constexpr int kSize = kVectorBytes / sizeof(Element);
  Element lane[kSize];
};

template <class Math>
constexpr int kTileDepth = kDepthBytes / sizeof(typename Math::Element);
template <class Element>
constexpr int kPadding = kPaddingBytes / sizeof(Element);

// A factor as it is kept in shared memory.
template <class Math>
__device__ __forceinline__ typename Math::Element prepare(typename Math::Element value) {
#if GPU_HAS_BF16_AND_TF32
  if constexpr (std::is_same_v<Math, TF32>) return gpu::round_to_tf32(value);
#endif
  return value;
}

// A place in an image, or a step from one place to another: row, column, offset in elements. The
// element that row m and column k of a matrix stand for is at anchor(m) + anchor(k).
struct alignas(16) Anchor {
  int64_t offset;
  int h, w;
};

// Outside of every image, whatever is added: such elements are zero, as in the padding.
constexpr int kOutside = -(1 << 29);
constexpr int kMaxImageSize = 1 << 28;

struct Image {
  const void* data;
  int height, width;

  __device__ bool contains(const Anchor& a, const Anchor& b) const {
    return static_cast<unsigned>(a.h + b.h) < static_cast<unsigned>(height) &&
           static_cast<unsigned>(a.w + b.w) < static_cast<unsigned>(width);
  }
};

// A count through three nested loops, each of whose steps is a step in an image.
struct Axis {
  int size;
  int h, w;
  int64_t offset;
};
struct Walk {
  Axis outer, middle, inner;
};

class Walker {
 public:
  // Starts at `position` of the count and is outside from `end` on.
  __device__ Walker(const Walk& walk, int64_t position, int64_t end)
      : walk_(walk), remaining_(static_cast<int>(end - position)) {
    inner_ = static_cast<int>(position % walk.inner.size);
    const int64_t rest = position / walk.inner.size;
    middle_ = static_cast<int>(rest % walk.middle.size);
    outer_ = static_cast<int>(rest / walk.middle.size);
  }

  __device__ void advance(int count) {
    remaining_ -= count;
    inner_ += count;
    while (inner_ >= walk_.inner.size) {
      inner_ -= walk_.inner.size;
      if (++middle_ == walk_.middle.size) {
        middle_ = 0;
        ++outer_;
      }
    }
  }

  __device__ Anchor anchor() const {
    if (remaining_ <= 0) return {0, kOutside, kOutside};
    return {outer_ * walk_.outer.offset + middle_ * walk_.middle.offset + inner_ * walk_.inner.offset,
            outer_ * walk_.outer.h + middle_ * walk_.middle.h + inner_ * walk_.inner.h,
            outer_ * walk_.outer.w + middle_ * walk_.middle.w + inner_ * walk_.inner.w};
  }

 private:
  const Walk& walk_;
  int remaining_;
  int outer_, middle_, inner_;
};

}  // namespace fastvision::conv_cuda
