// What a step does to one hidden unit of one sequence, forward and backward, and the kernels that do it to all of them
// when the matrix products have been computed. All arithmetic is fp32; tensors are of type Element.
#pragma once

#include <cstdint>

#include "core/gpu.h"
#include "rnn/rnn.h"

namespace fastvision::rnn_cuda {

constexpr int kThreads = 256;
constexpr int kLanes = 32;  // of a warp
constexpr int kWarps = kThreads / kLanes;

template <RnnMode mode>
constexpr int kGates = mode == RnnMode::lstm ? 4 : 3;
template <RnnMode mode>
constexpr int kBlocks = static_cast<int>(reserve_blocks(mode));  // of the reserve

// Threads that share `count` elements between them take i = first_element(), i += element_step().
__device__ inline int64_t first_element() {
  return static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
}
__device__ inline int64_t element_step() {
  return static_cast<int64_t>(gridDim.x) * kThreads;
}

template <class Element>
__device__ __forceinline__ float load(const void* array, int64_t i) {
  return gpu::to_float(static_cast<const Element*>(array)[i]);
}
template <class Element>
__device__ __forceinline__ float load_or_zero(const void* array, int64_t i) {
  return array ? load<Element>(array, i) : 0.0f;
}
template <class Element>
__device__ __forceinline__ void store(void* array, int64_t i, float value) {
  static_cast<Element*>(array)[i] = gpu::from_float<Element>(value);
}

// The member of an array of kernel arguments; indexing would copy them to a stack.
template <class T>
__device__ __forceinline__ T of_direction(T const (&array)[2], int direction) {
  return direction == 0 ? array[0] : array[1];
}

__device__ inline float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

// The reserve's blocks (rnn/rnn.h), and the next hidden state.
template <RnnMode mode>
struct Unit {
  float block[kBlocks<mode>];
  float hidden;

  __device__ float cell() const { return mode == RnnMode::lstm ? block[kBlocks<mode> - 1] : 0.0f; }

  __device__ void store_reserve(float* row, int unit, int hidden_size) const {
#pragma unroll
    for (int i = 0; i < kBlocks<mode>; ++i) row[static_cast<int64_t>(i) * hidden_size + unit] = block[i];
  }
};

// From W x + b and U h + d of each gate and the states before.
__device__ inline Unit<RnnMode::lstm> next_state(const float (&x)[4], const float (&u)[4], float, float cell) {
  const float i = sigmoid(x[0] + u[0]), f = sigmoid(x[1] + u[1]), g = tanhf(x[2] + u[2]), o = sigmoid(x[3] + u[3]);
  const float next = f * cell + i * g;
  return {{i, f, g, o, next}, o * tanhf(next)};
}
__device__ inline Unit<RnnMode::gru> next_state(const float (&x)[3], const float (&u)[3], float hidden, float) {
  const float r = sigmoid(x[0] + u[0]), z = sigmoid(x[1] + u[1]), n = tanhf(x[2] + r * u[2]);
  return {{r, z, n, u[2]}, (1.0f - z) * n + z * hidden};
}

// One step of `rows` sequences. Pointers are to the first of them.
struct GateForward {
  const float* from_input;   // W x: (rows, gates, hidden_size)
  const float* from_hidden;  // U h: the same
  const void *input_bias, *hidden_bias;
  void* hidden;  // the states, which the step replaces
  float* cell;
  void* output;
  int64_t output_stride;
  float* reserve;  // null in inference
  int64_t rows;
  int hidden_size;
};

template <RnnMode mode, class Element>
__global__ void __launch_bounds__(kThreads) gates_forward(const GateForward p) {
  constexpr int kCount = kGates<mode>;
  const int size = p.hidden_size;
  for (int64_t i = first_element(); i < p.rows * size; i += element_step()) {
    const int64_t row = i / size;
    const int unit = static_cast<int>(i % size);
    float x[kCount], u[kCount];
#pragma unroll
    for (int gate = 0; gate < kCount; ++gate) {
      const int64_t place = static_cast<int64_t>(gate) * size + unit, at = row * kCount * size + place;
      x[gate] = p.from_input[at] + load_or_zero<Element>(p.input_bias, place);
      u[gate] = p.from_hidden[at] + load_or_zero<Element>(p.hidden_bias, place);
    }
    const auto next = next_state(x, u, load<Element>(p.hidden, i), p.cell ? p.cell[i] : 0.0f);
    if (p.cell) p.cell[i] = next.cell();
    if (p.reserve) next.store_reserve(p.reserve + row * kBlocks<mode> * size, unit, size);
    store<Element>(p.hidden, i, next.hidden);
    store<Element>(p.output, row * p.output_stride + unit, next.hidden);
  }
}

// The gradients of one step of `rows` sequences. Pointers are to the first of them; null is zero or not wanted.
struct GateBackward {
  const void* grad_output;
  int64_t grad_output_stride;
  // What comes back from the step after: elementwise, and through U for the first product_rows.
  float* grad_hidden;  // replaced
  const float* product;
  int64_t product_rows;
  float* grad_cell;  // replaced
  const float* reserve;
  // The states before this step: of the first previous_rows sequences those of another step, of the others the
  // initial ones.
  int64_t previous_rows;
  const float* previous_reserve;
  const void* initial_cell;
  const void* previous_output;
  int64_t output_stride;
  const void* initial_hidden;
  void* grad_from_input;   // of W x + b: (rows, gates, hidden_size)
  void* grad_from_hidden;  // of U h + d: the same; for LSTM they are equal and this is not written
  int64_t rows;
  int hidden_size;
};

// From the gradient of h' to those of the gates before their activations.
template <class Element>
__device__ inline void unit_gradients(const GateBackward& p, int64_t row, int unit, float grad, const float (&saved)[5],
                                      float (&grad_gates)[4]) {
  const int64_t size = p.hidden_size, i = row * size + unit;
  const float before =
      row < p.previous_rows ? p.previous_reserve[(row * 5 + 4) * size + unit] : load<Element>(p.initial_cell, i);
  const float in = saved[0], forget = saved[1], candidate = saved[2], out = saved[3], tanh_cell = tanhf(saved[4]);
  const float grad_cell = p.grad_cell[i] + grad * out * (1.0f - tanh_cell * tanh_cell);
  grad_gates[0] = grad_cell * candidate * in * (1.0f - in);
  grad_gates[1] = grad_cell * before * forget * (1.0f - forget);
  grad_gates[2] = grad_cell * in * (1.0f - candidate * candidate);
  grad_gates[3] = grad * tanh_cell * out * (1.0f - out);
  p.grad_cell[i] = grad_cell * forget;
  p.grad_hidden[i] = 0.0f;
}
template <class Element>
__device__ inline void unit_gradients(const GateBackward& p, int64_t row, int unit, float grad, const float (&saved)[4],
                                      float (&grad_gates)[3]) {
  const int64_t size = p.hidden_size, i = row * size + unit;
  const float before = row < p.previous_rows ? load<Element>(p.previous_output, row * p.output_stride + unit)
                                             : load<Element>(p.initial_hidden, i);
  const float reset = saved[0], update = saved[1], candidate = saved[2];
  grad_gates[2] = grad * (1.0f - update) * (1.0f - candidate * candidate);
  grad_gates[0] = grad_gates[2] * saved[3] * reset * (1.0f - reset);
  grad_gates[1] = grad * (before - candidate) * update * (1.0f - update);
  p.grad_hidden[i] = grad * update;
}

// `product` is what comes back through U.
template <RnnMode mode, class Element>
__device__ inline void step_backward(const GateBackward& p, int64_t row, int unit, float product) {
  constexpr int kCount = kGates<mode>;
  const int64_t size = p.hidden_size;
  float grad = p.grad_hidden[row * size + unit] + product;
  if (p.grad_output) grad += load<Element>(p.grad_output, row * p.grad_output_stride + unit);
  float saved[kBlocks<mode>], grad_gates[kCount];
#pragma unroll
  for (int block = 0; block < kBlocks<mode>; ++block)
    saved[block] = p.reserve[(row * kBlocks<mode> + block) * size + unit];
  unit_gradients<Element>(p, row, unit, grad, saved, grad_gates);
#pragma unroll
  for (int gate = 0; gate < kCount; ++gate) {
    const int64_t at = (row * kCount + gate) * size + unit;
    store<Element>(p.grad_from_input, at, grad_gates[gate]);
    if (mode == RnnMode::gru) {  // whose reset gate stands between the two
      store<Element>(p.grad_from_hidden, at, gate == 2 ? grad_gates[2] * saved[0] : grad_gates[gate]);
    }
  }
}

template <RnnMode mode, class Element>
__global__ void __launch_bounds__(kThreads) gates_backward(const GateBackward p) {
  for (int64_t i = first_element(); i < p.rows * p.hidden_size; i += element_step()) {
    const int64_t row = i / p.hidden_size;
    step_backward<mode, Element>(p, row, static_cast<int>(i % p.hidden_size),
                                 row < p.product_rows ? p.product[i] : 0.0f);
  }
}

}  // namespace fastvision::rnn_cuda
