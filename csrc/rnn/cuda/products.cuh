// Products of one row of weights per gate with several rows of inputs, by one warp: each lane multiplies four adjacent
// elements in 128, and the warp adds up.
#pragma once

#include "rnn/cuda/gates.cuh"

namespace fastvision::rnn_cuda {

constexpr int kQuad = 4;   // adjacent elements that a lane takes
constexpr int kSlots = 4;  // sums per row of inputs: one per gate; the fourth of GRU is U h of its n gate, or unused
constexpr unsigned kAllLanes = 0xffffffffu;

template <class Element>
struct alignas(kQuad * sizeof(Element)) Quad {
  Element lane[kQuad];
};

// Elements k to k + 3 of a row of `size`, zero beyond its end. `whole`: rows begin at multiples of a quad.
template <class Element>
__device__ __forceinline__ Quad<Element> load_quad(const Element* row, int k, int size, bool whole) {
  if (whole) return *reinterpret_cast<const Quad<Element>*>(row + k);
  Quad<Element> quad;
#pragma unroll
  for (int j = 0; j < kQuad; ++j) quad.lane[j] = k + j < size ? row[k + j] : gpu::from_float<Element>(0.0f);
  return quad;
}

// Adds up each of kCount sums over the lanes of the warp. A lane gets the sum number lane * kCount / 32: lanes trade
// half of their sums for the other's other half until each has one, so that 32 sums take 31 shuffles, not 160.
template <int kCount>
__device__ __forceinline__ float sum_over_lanes(float (&sums)[kCount]) {
  static_assert(kCount >= 1 && kCount <= kLanes && (kCount & (kCount - 1)) == 0);
  const int lane = static_cast<int>(threadIdx.x) % kLanes;
#pragma unroll
  for (int distance = kLanes / 2, half = kCount / 2; distance > 0; distance /= 2, half /= 2) {
    if (half == 0) {
      sums[0] += __shfl_xor_sync(kAllLanes, sums[0], distance);
      continue;
    }
    const bool upper = (lane & distance) != 0;
#pragma unroll
    for (int j = 0; j < kCount / 2; ++j) {
      if (j >= half) continue;
      const float given = upper ? sums[j] : sums[j + half], kept = upper ? sums[j + half] : sums[j];
      sums[j] = kept + __shfl_xor_sync(kAllLanes, given, distance);
    }
  }
  return sums[0];
}

// Which of kRows rows and which slot the sum belongs to that this lane got, and the lane that got another slot of the
// same row.
template <int kRows>
struct SumPlace {
  static constexpr int kLanesPerSum = kLanes / (kRows * kSlots);
  int row, slot;

  __device__ SumPlace() {
    const int number = static_cast<int>(threadIdx.x) % kLanes / kLanesPerSum;
    row = number / kSlots;
    slot = number % kSlots;
  }
  __device__ int lane_of(int other) const { return (row * kSlots + other) * kLanesPerSum; }
};

}  // namespace fastvision::rnn_cuda
