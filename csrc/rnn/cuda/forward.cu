// The forward pass: a few rows of one step in one kernel; else W x for all steps by one product, and then the steps in
// one kernel (sequence.cuh) or, where that does not fit, each by a product and a kernel for the gates.
#include "rnn/cuda/forward.h"

#include <cstdint>

#include "rnn/cuda/cell.cuh"
#include "rnn/cuda/launch.h"
#include "rnn/cuda/layer.h"
#include "rnn/cuda/rows.cuh"
#include "rnn/cuda/sequence.h"

namespace fastvision::rnn_cuda {
namespace {

// Reading the weights again for every eight rows costs less than three launches up to here. Not measured.
constexpr int64_t kMostRowsOfCell = 16;

template <class Element>
bool has_whole_quads(const void* data, int64_t stride) {
  return stride % kQuad == 0 && reinterpret_cast<uintptr_t>(data) % (kQuad * sizeof(Element)) == 0;
}

template <class Element>
const char* run_cell(const RnnLayer& p, const RnnForward& a, Context& context) {
  CellForward c{};
  c.input = a.input;
  c.input_stride = p.input_row_stride;
  c.hidden = a.hidden;
  c.cell = a.cell;
  c.whole_input_quads = has_whole_quads<Element>(a.input, p.input_row_stride) && p.input_size % kQuad == 0;
  c.whole_hidden_quads = has_whole_quads<Element>(a.hidden, p.hidden_size);
  for (int64_t d = 0; d < p.directions; ++d) {
    const RnnWeights& w = a.weights[d];
    c.input_weight[d] = w.input;
    c.hidden_weight[d] = w.hidden;
    c.input_bias[d] = w.input_bias;
    c.hidden_bias[d] = w.hidden_bias;
    c.whole_input_quads &= has_whole_quads<Element>(w.input, p.input_size);
    c.whole_hidden_quads &= has_whole_quads<Element>(w.hidden, p.hidden_size);
  }
  c.output = a.output;
  c.final_hidden = a.final_hidden;
  c.final_cell = a.final_cell;
  c.reserve = a.reserve;
  c.batch = static_cast<int>(p.batch);
  c.directions = static_cast<int>(p.directions);
  c.input_size = static_cast<int>(p.input_size);
  c.hidden_size = static_cast<int>(p.hidden_size);
  const auto run = [&]<RnnMode mode, int kRows>() {
    const dim3 grid(static_cast<unsigned>(ceil_div(p.hidden_size, kWarps)), static_cast<unsigned>(p.directions),
                    static_cast<unsigned>(ceil_div(p.batch, kRows)));
    return gpu::launch<cell_forward<mode, Element, kRows>>(grid, dim3(kThreads), context.stream(), c);
  };
  if (p.mode == RnnMode::lstm) {
    return p.batch == 1 ? run.template operator()<RnnMode::lstm, 1>() : run.template operator()<RnnMode::lstm, 8>();
  }
  return p.batch == 1 ? run.template operator()<RnnMode::gru, 1>() : run.template operator()<RnnMode::gru, 8>();
}

template <class Element>
const char* run_sequence(const RnnLayer& p, const RnnForward& a, const LayerStates& states,
                         const float* const (&from_input)[2], Context& context) {
  SequenceForward s{};
  for (int64_t d = 0; d < p.directions; ++d) {
    s.from_input[d] = from_input[d];
    s.hidden_weight[d] = a.weights[d].hidden;
    s.input_bias[d] = a.weights[d].input_bias;
    s.hidden_bias[d] = a.weights[d].hidden_bias;
  }
  s.initial_hidden = a.hidden;
  s.cell = states.cell;
  s.output = a.output;
  s.final_hidden = a.final_hidden;
  s.reserve = a.reserve;
  s.arrivals = states.arrivals;
  s.steps = static_cast<int>(p.steps);
  s.batch = static_cast<int>(p.batch);
  s.directions = static_cast<int>(p.directions);
  s.hidden_size = static_cast<int>(p.hidden_size);
  return SequenceKernels<Element>::run(p, s, context);
}

template <class Element>
const char* run_steps(const RnnLayer& p, const RnnForward& a, const LayerStates& states,
                      const float* const (&from_input)[2], Context& context) {
  const int64_t size = p.hidden_size, width = p.gates() * size, blocks = reserve_blocks(p.mode);
  float* from_hidden = allocate<float>(context, p.batch * width);
  Element* hidden = static_cast<Element*>(a.final_hidden);
  if (!hidden) hidden = allocate<Element>(context, p.directions * p.batch * size);
  const RowCopy begin{a.hidden, hidden, 0, size, 1, p.directions * p.batch, size};
  if (const char* error = launch_elements<copy_rows<Element>>(begin.inner * size, context, begin)) return error;
  const RowNumbers rows(p);
  for (int64_t d = 0; d < p.directions; ++d) {
    const int64_t state = d * p.batch * size;
    for (int64_t i = 0; i < p.steps; ++i) {
      const int64_t t = d ? p.steps - 1 - i : i, row = rows.offset(t);
      GateForward g{};
      g.rows = p.batch_at(t);
      g.from_input = from_input[d] + row * width;
      g.from_hidden = from_hidden;
      g.input_bias = a.weights[d].input_bias;
      g.hidden_bias = a.weights[d].hidden_bias;
      g.hidden = hidden + state;
      g.cell = states.cell ? states.cell + state : nullptr;
      g.output = static_cast<Element*>(a.output) + (row * p.directions + d) * size;
      g.output_stride = p.directions * size;
      g.reserve = a.reserve ? a.reserve + (d * p.rows + row) * blocks * size : nullptr;
      g.hidden_size = static_cast<int>(size);
      const MatrixView weight = matrix(a.weights[d].hidden, p.dtype, width, size);
      if (const char* error = context.multiply(matrix(g.hidden, p.dtype, g.rows, size), weight.transposed(),
                                               from_hidden, DType::f32, /*add=*/false)) {
        return error;
      }
      const char* error = p.mode == RnnMode::lstm
                              ? launch_elements<gates_forward<RnnMode::lstm, Element>>(g.rows * size, context, g)
                              : launch_elements<gates_forward<RnnMode::gru, Element>>(g.rows * size, context, g);
      if (error) return error;
    }
  }
  return nullptr;
}

}  // namespace

template <class Element>
const char* forward(const RnnLayer& p, const RnnForward& a, Context& context) {
  if (p.steps == 1 && p.batch <= kMostRowsOfCell) return run_cell<Element>(p, a, context);

  const int64_t width = p.gates() * p.hidden_size, state_count = p.directions * p.batch * p.hidden_size;
  MatrixView input;
  if (const char* error = dense_input<Element>(p, a.input, context, input)) return error;
  const float* from_input[2] = {};
  for (int64_t d = 0; d < p.directions; ++d) {
    float* product = allocate<float>(context, p.rows * width);
    const MatrixView weight = matrix(a.weights[d].input, p.dtype, width, p.input_size);
    if (const char* error = context.multiply(input, weight.transposed(), product, DType::f32, /*add=*/false)) {
      return error;
    }
    from_input[d] = product;
  }

  LayerStates states{};
  states.arrivals = allocate<unsigned>(context, 1);
  if (a.cell) states.cell = allocate<float>(context, state_count);
  const StatesToFloat begin{a.cell, states.cell, state_count, states.arrivals};
  if (const char* error = launch_elements<states_to_float<Element>>(state_count, context, begin)) return error;
  const char* error = a.final_hidden && sequence_fits(p) ? run_sequence<Element>(p, a, states, from_input, context)
                                                         : run_steps<Element>(p, a, states, from_input, context);
  if (error || !a.final_cell) return error;
  const StatesFromFloat end{states.cell, nullptr, 0, a.final_cell, state_count};
  return launch_elements<states_from_float<Element>>(state_count, context, end);
}

template const char* forward<float>(const RnnLayer&, const RnnForward&, Context&);
template const char* forward<__half>(const RnnLayer&, const RnnForward&, Context&);
template const char* forward<__nv_bfloat16>(const RnnLayer&, const RnnForward&, Context&);

}  // namespace fastvision::rnn_cuda
