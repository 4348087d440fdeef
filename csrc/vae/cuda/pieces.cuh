// How threads share the elements of tensors: a block takes a tile, a thread pieces of it, 16 bytes of each tensor.
#pragma once

#include "core/gpu.h"
#include "core/integers.h"

namespace fastvision::vae_cuda {

constexpr int kThreads = 256;
constexpr int64_t kTile = 2048;  // elements per block, whatever the device: sums depend on it
constexpr int kVectorBytes = 16;

template <class Element>
constexpr int kWidth = kVectorBytes / static_cast<int>(sizeof(Element));

inline int64_t tiles_of(int64_t elements) {
  return ceil_div(elements, kTile);
}

// Can they be read and written 16 bytes at a time? A tensor that is not there can.
template <class... Pointers>
bool are_aligned(Pointers... arrays) {
  return ((reinterpret_cast<uintptr_t>(arrays) % kVectorBytes == 0) && ...);
}

template <class Element>
struct alignas(kVectorBytes) Vector {
  Element lane[kWidth<Element>];
};

struct Piece {
  int64_t first;
  int count;   // of elements: kWidth, at the end of a tensor fewer
  bool whole;  // kWidth elements, whose addresses are multiples of 16
};

template <class Element, class Body>
__device__ __forceinline__ void for_each_piece(int64_t tile, int64_t elements, bool aligned, const Body& body) {
  constexpr int kPieces = static_cast<int>(kTile) / (kWidth<Element> * kThreads);
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int64_t first = tile * kTile + (i * kThreads + static_cast<int>(threadIdx.x)) * kWidth<Element>;
    if (first >= elements) return;
    const bool full = elements - first >= kWidth<Element>;
    const int count = full ? kWidth<Element> : static_cast<int>(elements - first);
    body(Piece{first, count, full && aligned});
  }
}

// Zeros beyond the end.
template <class Element>
__device__ __forceinline__ void load(const void* array, const Piece& piece, float (&values)[kWidth<Element>]) {
  const Element* from = static_cast<const Element*>(array) + piece.first;
  Vector<Element> vector;
  if (piece.whole) {
    vector = *reinterpret_cast<const Vector<Element>*>(from);
  } else {
#pragma unroll
    for (int j = 0; j < kWidth<Element>; ++j) {
      vector.lane[j] = j < piece.count ? from[j] : gpu::from_float<Element>(0.0f);
    }
  }
#pragma unroll
  for (int j = 0; j < kWidth<Element>; ++j) values[j] = gpu::to_float(vector.lane[j]);
}

template <class Element>
__device__ __forceinline__ void store(void* array, const Piece& piece, const float (&values)[kWidth<Element>]) {
  Element* to = static_cast<Element*>(array) + piece.first;
  Vector<Element> vector;
#pragma unroll
  for (int j = 0; j < kWidth<Element>; ++j) vector.lane[j] = gpu::from_float<Element>(values[j]);
  if (piece.whole) {
    *reinterpret_cast<Vector<Element>*>(to) = vector;
    return;
  }
#pragma unroll
  for (int j = 0; j < kWidth<Element>; ++j) {
    if (j < piece.count) to[j] = vector.lane[j];
  }
}

// An incoming gradient of one element times a number, as one fp32 number.
template <class Element>
__device__ __forceinline__ float load_scaled(const void* gradient, double scale) {
  return static_cast<float>(gpu::to_float(*static_cast<const Element*>(gradient)) * scale);
}

}  // namespace fastvision::vae_cuda
