// All steps of a layer in one kernel. A warp owns a hidden unit and keeps its rows of the hidden weights in registers
// from the first step to the last; at each step the blocks wait for each other and read the states the others wrote
// (persistent kernels: Diamos et al., "Persistent RNNs: Stashing Recurrent Weights On-Chip", 2016).
#pragma once

#include "rnn/cuda/products.cuh"

namespace fastvision::rnn_cuda {

// Of a row of weights in a lane, four rows of them (LSTM): with more, sequence_backward spills registers.
template <class Element>
constexpr int kMostQuads = sizeof(Element) == 4 ? 6 : 8;

struct SequenceForward {
  const float* from_input[2];  // W x: (steps, batch, gates, hidden_size)
  const void *hidden_weight[2], *input_bias[2], *hidden_bias[2];
  const void* initial_hidden;  // (directions, batch, hidden_size)
  float* cell;                 // the same: initial on entry, final on return
  void* output;                // (steps, batch, directions, hidden_size)
  void* final_hidden;
  float* reserve;
  unsigned* arrivals;  // zero
  int steps, batch, directions, hidden_size;
};

// Where the states of all sequences after some step are.
template <class Element>
struct States {
  const Element* data;
  int64_t stride;
};

// Rows first to first + rows of the states to fp32 in shared memory, zero to the end of each row and beyond the last.
template <class Element, int kRows, int kColumns>
__device__ __forceinline__ void stage_states(const States<Element>& states, int first, int rows, int size,
                                             float (&to)[kRows][kColumns]) {
  for (int i = static_cast<int>(threadIdx.x); i < kRows * kColumns; i += kThreads) {
    const int row = i / kColumns, column = i % kColumns;
    float value = 0.0f;
    if (row < rows && column < size) {
      value = gpu::to_float(gpu::load_shared_by_grid(states.data + (first + row) * states.stride + column));
    }
    to[row][column] = value;
  }
}

// Grid: (hidden units / kWarps, directions). kQuads: of a row of weights in a lane, so hidden_size <= 128 kQuads.
template <RnnMode mode, class Element, int kQuads, int kRows>
__global__ void __launch_bounds__(kThreads, 1) sequence_forward(const SequenceForward p) {
  constexpr int kCount = kGates<mode>, kColumns = kQuads * kLanes * kQuad;
  using Hidden = float[kRows][kColumns];
  GPU_SHARED(Hidden, hidden);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, size = p.hidden_size;
  const int unit = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / kLanes), d = static_cast<int>(blockIdx.y);
  const bool exists = unit < size;
  const SumPlace<kRows> place;
  const bool has_gate = exists && place.slot < kCount;
  const int64_t bias_at = static_cast<int64_t>(place.slot) * size + unit;
  const float input_bias = has_gate ? load_or_zero<Element>(of_direction(p.input_bias, d), bias_at) : 0.0f;
  const float hidden_bias = has_gate ? load_or_zero<Element>(of_direction(p.hidden_bias, d), bias_at) : 0.0f;

  Quad<Element> weight[kCount][kQuads];
#pragma unroll
  for (int gate = 0; gate < kCount; ++gate) {
    const Element* row = static_cast<const Element*>(of_direction(p.hidden_weight, d)) +
                         (static_cast<int64_t>(gate) * size + unit) * size;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
      weight[gate][q] = load_quad(row, (q * kLanes + lane) * kQuad, exists ? size : 0, false);
    }
  }

  for (int step = 0; step < p.steps; ++step) {
    const int t = d ? p.steps - 1 - step : step, before = d ? t + 1 : t - 1;
    const int64_t output_stride = static_cast<int64_t>(p.directions) * size;
    Element* const output = static_cast<Element*>(p.output) + static_cast<int64_t>(d) * size;
    States<Element> states{output + static_cast<int64_t>(before) * p.batch * output_stride, output_stride};
    if (step == 0) {
      states = {static_cast<const Element*>(p.initial_hidden) + static_cast<int64_t>(d) * p.batch * size, size};
    }
    for (int first = 0; first < p.batch; first += kRows) {
      const int rows = min(kRows, p.batch - first);
      const int64_t row = static_cast<int64_t>(t) * p.batch + first + place.row;
      const bool computes = exists && place.row < rows;
      // On its way while the products are computed.
      const float from_input =
          computes && has_gate ? of_direction(p.from_input, d)[(row * kCount + place.slot) * size + unit] + input_bias
                               : 0.0f;
      __syncthreads();  // the rows before have been read
      stage_states(states, first, rows, size, hidden);
      __syncthreads();

      float sums[kRows * kSlots] = {};
#pragma unroll
      for (int q = 0; q < kQuads; ++q) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const Quad<float> h = *reinterpret_cast<const Quad<float>*>(&hidden[r][(q * kLanes + lane) * kQuad]);
#pragma unroll
          for (int gate = 0; gate < kCount; ++gate) {
#pragma unroll
            for (int j = 0; j < kQuad; ++j) {
              sums[r * kSlots + gate] =
                  fmaf(gpu::to_float(weight[gate][q].lane[j]), h.lane[j], sums[r * kSlots + gate]);
            }
          }
        }
      }
      const float from_hidden = sum_over_lanes(sums) + hidden_bias;
      float x[kCount], u[kCount];
#pragma unroll
      for (int gate = 0; gate < kCount; ++gate) {
        x[gate] = __shfl_sync(kAllLanes, from_input, place.lane_of(gate));
        u[gate] = __shfl_sync(kAllLanes, from_hidden, place.lane_of(gate));
      }
      if (!computes || lane != place.lane_of(0)) continue;

      const int64_t state = (static_cast<int64_t>(d) * p.batch + first + place.row) * size + unit;
      const auto next = next_state(x, u, hidden[place.row][unit], p.cell ? p.cell[state] : 0.0f);
      if (p.cell) p.cell[state] = next.cell();
      store<Element>(output, row * output_stride + unit, next.hidden);
      if (step == p.steps - 1) store<Element>(p.final_hidden, state, next.hidden);
      if (p.reserve) {
        const int64_t reserve_row = static_cast<int64_t>(d) * p.steps * p.batch + row;
        next.store_reserve(p.reserve + reserve_row * kBlocks<mode> * size, unit, size);
      }
    }
    if (step + 1 < p.steps) gpu::synchronize_grid(p.arrivals, static_cast<unsigned>(step + 1));
  }
}

struct SequenceBackward {
  const void* hidden_weight[2];
  const void *grad_output, *output, *initial_hidden, *initial_cell;
  const float* reserve;
  float *grad_hidden, *grad_cell;  // (directions, batch, hidden_size): of the final states, then of the initial ones
  void *grad_from_input[2], *grad_from_hidden[2];  // (steps, batch, gates, hidden_size); of LSTM the same
  unsigned* arrivals;                              // zero
  int steps, batch, directions, hidden_size;
};

// What gates_backward is told of step `t`.
template <RnnMode mode, class Element>
__device__ inline GateBackward backward_step(const SequenceBackward& p, int d, int t) {
  const int before = d ? t + 1 : t - 1;
  const int64_t size = p.hidden_size, state = static_cast<int64_t>(d) * p.batch * size;
  const int64_t output_stride = p.directions * size;
  const auto row = [&](int step) { return static_cast<int64_t>(step) * p.batch; };
  const auto output = [&](const void* array, int step) {
    return array ? static_cast<const Element*>(array) + row(step) * output_stride + d * size : nullptr;
  };
  const auto reserve = [&](int step) { return p.reserve + (row(d * p.steps) + row(step)) * kBlocks<mode> * size; };
  const auto gates = [&](void* array) { return static_cast<Element*>(array) + row(t) * kGates<mode> * size; };
  GateBackward g{};
  g.grad_output = output(p.grad_output, t);
  g.grad_output_stride = g.output_stride = output_stride;
  g.grad_hidden = p.grad_hidden + state;
  g.grad_cell = p.grad_cell + state;
  g.reserve = reserve(t);
  if (before >= 0 && before < p.steps) {
    g.previous_rows = p.batch;
    g.previous_reserve = reserve(before);
    g.previous_output = output(p.output, before);
  }
  g.initial_cell = static_cast<const Element*>(p.initial_cell) + state;
  g.initial_hidden = static_cast<const Element*>(p.initial_hidden) + state;
  g.grad_from_input = gates(of_direction(p.grad_from_input, d));
  g.grad_from_hidden = gates(of_direction(p.grad_from_hidden, d));
  g.rows = p.batch;
  g.hidden_size = p.hidden_size;
  return g;
}

// The recurrent part of the gradients, from the last step to the first; a warp keeps the column of U that carries
// gradients back to its unit. Grid and kQuads as of sequence_forward.
template <RnnMode mode, class Element, int kQuads, int kRows>
__global__ void __launch_bounds__(kThreads, 1) sequence_backward(const SequenceBackward p) {
  constexpr int kCount = kGates<mode>, kColumns = kQuads * kLanes * kQuad;
  using Gradients = float[kRows][kColumns];
  GPU_SHARED(Gradients, gradients);
  const int lane = static_cast<int>(threadIdx.x) % kLanes, size = p.hidden_size;
  const int unit = static_cast<int>(blockIdx.x * kWarps + threadIdx.x / kLanes), d = static_cast<int>(blockIdx.y);
  const bool exists = unit < size;
  constexpr int kLanesPerRow = kLanes / kRows;
  const int own_row = lane / kLanesPerRow;

  Quad<Element> weight[kCount][kQuads];
#pragma unroll
  for (int gate = 0; gate < kCount; ++gate) {
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
#pragma unroll
      for (int j = 0; j < kQuad; ++j) {
        const int k = (q * kLanes + lane) * kQuad + j;
        const int64_t at = (static_cast<int64_t>(gate) * size + k) * size + unit;
        weight[gate][q].lane[j] = exists && k < size ? static_cast<const Element*>(of_direction(p.hidden_weight, d))[at]
                                                     : gpu::from_float<Element>(0.0f);
      }
    }
  }

#pragma unroll 1
  for (int step = 0; step <= p.steps; ++step) {
    const int t = d ? step : p.steps - 1 - step, after = d ? t - 1 : t + 1;
    const int64_t gate_stride = static_cast<int64_t>(kCount) * size;
    const Element* from_hidden = static_cast<const Element*>(of_direction(p.grad_from_hidden, d)) +
                                 static_cast<int64_t>(after) * p.batch * gate_stride;
#pragma unroll 1
    for (int first = 0; first < p.batch; first += kRows) {
      const int rows = min(kRows, p.batch - first);
      float sums[kRows] = {};
      if (step > 0) {
#pragma unroll
        for (int gate = 0; gate < kCount; ++gate) {
          __syncthreads();  // what was staged before has been read
          stage_states(States<Element>{from_hidden + gate * size, gate_stride}, first, rows, size, gradients);
          __syncthreads();
#pragma unroll
          for (int q = 0; q < kQuads; ++q) {
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              const Quad<float> g = *reinterpret_cast<const Quad<float>*>(&gradients[r][(q * kLanes + lane) * kQuad]);
#pragma unroll
              for (int j = 0; j < kQuad; ++j) {
                sums[r] = fmaf(gpu::to_float(weight[gate][q].lane[j]), g.lane[j], sums[r]);
              }
            }
          }
        }
      }
      const float product = sum_over_lanes(sums);
      if (!exists || own_row >= rows || lane != own_row * kLanesPerRow) continue;
      const int row = first + own_row;
      if (step == p.steps) {
        p.grad_hidden[(static_cast<int64_t>(d) * p.batch + row) * size + unit] += product;
      } else {
        step_backward<mode, Element>(backward_step<mode, Element>(p, d, t), row, unit, product);
      }
    }
    if (step < p.steps) gpu::synchronize_grid(p.arrivals, static_cast<unsigned>(step + 1));
  }
}

}  // namespace fastvision::rnn_cuda
