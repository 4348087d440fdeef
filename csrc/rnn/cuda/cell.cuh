// One step of a few sequences in one kernel, both products included: a warp owns a hidden unit, reads its rows of the
// weights once for eight sequences, and computes its gates.
#pragma once

#include "rnn/cuda/products.cuh"

namespace fastvision::rnn_cuda {

struct CellForward {
  const void* input;
  int64_t input_stride;
  const void *hidden, *cell;  // (directions, batch, hidden_size)
  const void *input_weight[2], *hidden_weight[2], *input_bias[2], *hidden_bias[2];
  void* output;  // (batch, directions, hidden_size)
  void *final_hidden, *final_cell;
  float* reserve;
  int batch, directions, input_size, hidden_size;
  bool whole_input_quads, whole_hidden_quads;  // load_quad
};

// Adds the products of `count` rows of weights, `weight_step` elements apart, and up to kRows rows of inputs to the
// sums in slots 0, 1, ... and, of the last one, kLastSlot.
template <int kRows, int kCount, int kLastSlot, class Element>
__device__ __forceinline__ void add_products(float (&sums)[kRows * kSlots], const Element* weight, int64_t weight_step,
                                             const Element* input, int64_t input_step, int rows, int size, bool whole) {
  for (int k = static_cast<int>(threadIdx.x) % kLanes * kQuad; k < size; k += kLanes * kQuad) {
    Quad<Element> factor[kCount];
#pragma unroll
    for (int gate = 0; gate < kCount; ++gate) factor[gate] = load_quad(weight + gate * weight_step, k, size, whole);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      if (row >= rows) continue;
      const Quad<Element> x = load_quad(input + row * input_step, k, size, whole);
#pragma unroll
      for (int gate = 0; gate < kCount; ++gate) {
        const int slot = row * kSlots + (gate == kCount - 1 ? kLastSlot : gate);
#pragma unroll
        for (int j = 0; j < kQuad; ++j) {
          sums[slot] = fmaf(gpu::to_float(factor[gate].lane[j]), gpu::to_float(x.lane[j]), sums[slot]);
        }
      }
    }
  }
}

// Grid: (hidden units / kWarps, directions, batch / kRows).
template <RnnMode mode, class Element, int kRows>
__global__ void __launch_bounds__(kThreads) cell_forward(const CellForward p) {
  constexpr int kCount = kGates<mode>;
  const int size = p.hidden_size, direction = static_cast<int>(blockIdx.y);
  const int unit = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / kLanes);
  const int first = static_cast<int>(blockIdx.z) * kRows, rows = min(kRows, p.batch - first);
  if (unit >= size) return;
  const int64_t state = (static_cast<int64_t>(direction) * p.batch + first) * size;
  float sums[kRows * kSlots] = {};
  add_products<kRows, kCount, kCount - 1>(
      sums,
      static_cast<const Element*>(of_direction(p.input_weight, direction)) + static_cast<int64_t>(unit) * p.input_size,
      static_cast<int64_t>(size) * p.input_size, static_cast<const Element*>(p.input) + first * p.input_stride,
      p.input_stride, rows, p.input_size, p.whole_input_quads);
  add_products<kRows, kCount, kSlots - 1>(
      sums, static_cast<const Element*>(of_direction(p.hidden_weight, direction)) + static_cast<int64_t>(unit) * size,
      static_cast<int64_t>(size) * size, static_cast<const Element*>(p.hidden) + state, size, rows, size,
      p.whole_hidden_quads);
  const float sum = sum_over_lanes(sums);
  const SumPlace<kRows> place;
  float x[kCount], u[kCount];
#pragma unroll
  for (int gate = 0; gate < kCount; ++gate) {
    x[gate] = __shfl_sync(kAllLanes, sum, place.lane_of(gate));
    u[gate] = load_or_zero<Element>(of_direction(p.hidden_bias, direction), static_cast<int64_t>(gate) * size + unit);
    x[gate] += load_or_zero<Element>(of_direction(p.input_bias, direction), static_cast<int64_t>(gate) * size + unit);
  }
  if (mode == RnnMode::gru) u[kCount - 1] += __shfl_sync(kAllLanes, sum, place.lane_of(kSlots - 1));
  if (place.row >= rows || static_cast<int>(threadIdx.x) % kLanes != place.lane_of(0)) return;

  const int64_t at = state + static_cast<int64_t>(place.row) * size + unit;
  const auto next = next_state(x, u, load<Element>(p.hidden, at), load_or_zero<Element>(p.cell, at));
  const int64_t row = first + place.row;
  store<Element>(p.output, (row * p.directions + direction) * size + unit, next.hidden);
  if (p.final_hidden) store<Element>(p.final_hidden, at, next.hidden);
  if (p.final_cell) store<Element>(p.final_cell, at, next.cell());
  if (p.reserve) {
    next.store_reserve(p.reserve + (static_cast<int64_t>(direction) * p.batch + row) * kBlocks<mode> * size, unit,
                       size);
  }
}

}  // namespace fastvision::rnn_cuda
