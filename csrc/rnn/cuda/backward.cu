// The gradients: the steps in reverse, in one kernel or each by a kernel for the gates and a product, then those of
// weights and input as products over all rows at once.
#include "rnn/cuda/backward.h"

#include "rnn/cuda/launch.h"
#include "rnn/cuda/layer.h"
#include "rnn/cuda/rows.cuh"
#include "rnn/cuda/sequence.h"

namespace fastvision::rnn_cuda {
namespace {

// Of the gates before their activations: (rows, gates, hidden_size) for each direction.
template <class Element>
struct GateGradients {
  Element *from_input[2], *from_hidden[2];  // of LSTM the same
};

// One direction of a layer.
template <class Element>
class Direction {
 public:
  Direction(const RnnLayer& p, const RnnBackward& a, int64_t d, Context& context)
      : p_(p), a_(a), d_(d), context_(context), rows_(p) {}

  // Calls visit(t) in the order of the forward pass.
  template <class Visit>
  const char* for_each_step(bool reversed, const Visit& visit) const {
    for (int64_t i = 0; i < p_.steps; ++i) {
      if (const char* error = visit((d_ == 1) != reversed ? p_.steps - 1 - i : i)) return error;
    }
    return nullptr;
  }

  // The steps in reverse, with a product for each. grad_hidden and grad_cell: of the final states, then of the initial.
  const char* run_steps(float* grad_hidden, float* grad_cell, const GateGradients<Element>& gates) const {
    const int64_t size = p_.hidden_size, width = p_.gates() * size, state = d_ * p_.batch * size;
    float* product = allocate<float>(context_, p_.batch * size);
    int64_t product_rows = 0;
    // To the gradients of sequences first to product_rows, which no other step will reach.
    const auto add_product = [&](int64_t first) {
      float* to = grad_hidden + state + first * size;
      const int64_t count = (product_rows - first) * size;
      return launch_elements<states_from_float<float>>(count, context_,
                                                       StatesFromFloat{to, product + first * size, count, to, count});
    };
    const char* error = for_each_step(/*reversed=*/true, [&](int64_t t) {
      const int64_t row = rows_.offset(t), before = d_ ? t + 1 : t - 1;
      const bool is_first = before < 0 || before >= p_.steps;
      GateBackward g{};
      g.rows = p_.batch_at(t);
      g.grad_output = output_row(a_.grad_output, row);
      g.grad_output_stride = g.output_stride = p_.directions * size;
      g.grad_hidden = grad_hidden + state;
      g.grad_cell = grad_cell ? grad_cell + state : nullptr;
      g.product = product;
      g.product_rows = product_rows;
      g.reserve = reserve_row(row);
      if (!is_first) {
        g.previous_rows = p_.batch_at(before);
        g.previous_reserve = reserve_row(rows_.offset(before));
        g.previous_output = output_row(a_.output, rows_.offset(before));
      }
      g.initial_cell = advanced<Element>(a_.cell, state);
      g.initial_hidden = advanced<Element>(a_.hidden, state);
      g.grad_from_input = gates.from_input[d_] + row * width;
      g.grad_from_hidden = gates.from_hidden[d_] + row * width;
      g.hidden_size = static_cast<int>(size);
      if (g.rows < product_rows) {
        if (const char* failed = add_product(g.rows)) return failed;
      }
      const char* failed = p_.mode == RnnMode::lstm
                               ? launch_elements<gates_backward<RnnMode::lstm, Element>>(g.rows * size, context_, g)
                               : launch_elements<gates_backward<RnnMode::gru, Element>>(g.rows * size, context_, g);
      if (failed) return failed;
      product_rows = g.rows;
      return context_.multiply(matrix(g.grad_from_hidden, p_.dtype, g.rows, width),
                               matrix(a_.weights[d_].hidden, p_.dtype, width, size), product, DType::f32,
                               /*add=*/false);
    });
    return error ? error : add_product(0);
  }

  const char* run_weights(const MatrixView& input, const GateGradients<Element>& gates) const {
    const RnnWeightGradients& wanted = a_.grad_weights[d_];
    const int64_t size = p_.hidden_size, width = p_.gates() * size;
    const MatrixView from_input = matrix(gates.from_input[d_], p_.dtype, p_.rows, width);
    const MatrixView from_hidden = matrix(gates.from_hidden[d_], p_.dtype, p_.rows, width);
    if (wanted.input) {
      if (const char* error = context_.multiply(from_input.transposed(), input, wanted.input, p_.dtype, false)) {
        return error;
      }
    }
    if (wanted.hidden) {
      Element* before = allocate<Element>(context_, p_.rows * size);
      if (const char* error = states_before(before)) return error;
      if (const char* error = context_.multiply(from_hidden.transposed(), matrix(before, p_.dtype, p_.rows, size),
                                                wanted.hidden, p_.dtype, false)) {
        return error;
      }
    }
    // Of LSTM both biases have the same gradient.
    const bool is_lstm = p_.mode == RnnMode::lstm;
    if (wanted.input_bias) {
      void* same = is_lstm ? wanted.hidden_bias : nullptr;
      if (const char* error = sum(from_input, wanted.input_bias, same)) return error;
    }
    const bool is_done = is_lstm && wanted.input_bias;
    return wanted.hidden_bias && !is_done ? sum(from_hidden, wanted.hidden_bias, nullptr) : nullptr;
  }

 private:
  const Element* output_row(const void* array, int64_t row) const {
    return array ? static_cast<const Element*>(array) + (row * p_.directions + d_) * p_.hidden_size : nullptr;
  }
  const float* reserve_row(int64_t row) const {
    return a_.reserve + (d_ * p_.rows + row) * reserve_blocks(p_.mode) * p_.hidden_size;
  }

  // The hidden state that each row's step began with.
  const char* states_before(Element* to) const {
    const int64_t size = p_.hidden_size, stride = p_.directions * size;
    const auto copy = [&](const void* from, int64_t from_stride, int64_t row, int64_t count) {
      const RowCopy rows{from, to + row * size, 0, from_stride, 1, count, size};
      return launch_elements<copy_rows<Element>>(count * size, context_, rows);
    };
    const auto* initial = static_cast<const Element*>(a_.hidden) + d_ * p_.batch * size;
    if (!p_.batch_sizes) {  // one copy for all steps but the first
      const int64_t others = p_.rows - p_.batch;
      const char* error = copy(output_row(a_.output, d_ ? p_.batch : 0), stride, d_ ? 0 : p_.batch, others);
      return error ? error : copy(initial, size, d_ ? others : 0, p_.batch);
    }
    return for_each_step(/*reversed=*/false, [&](int64_t t) {
      const int64_t row = rows_.offset(t), before = d_ ? t + 1 : t - 1, count = p_.batch_at(t);
      const bool is_first = before < 0 || before >= p_.steps;
      const int64_t known = is_first ? 0 : std::min(count, p_.batch_at(before));
      if (known > 0) {
        if (const char* error = copy(output_row(a_.output, rows_.offset(before)), stride, row, known)) return error;
      }
      return copy(initial + known * size, size, row + known, count - known);
    });
  }

  const char* sum(const MatrixView& matrix, void* sum, void* same_sum) const {
    const RowSum rows{matrix.data, sum, same_sum, matrix.rows, matrix.columns};
    return gpu::launch<sum_rows<Element>>(dim3(static_cast<unsigned>(ceil_div(matrix.columns, kLanes))), dim3(kThreads),
                                          context_.stream(), rows);
  }

  const RnnLayer& p_;
  const RnnBackward& a_;
  int64_t d_;
  Context& context_;
  RowNumbers rows_;
};

template <class Element>
const char* run_sequence(const RnnLayer& p, const RnnBackward& a, float* grad_hidden, const LayerStates& states,
                         const GateGradients<Element>& gates, Context& context) {
  SequenceBackward s{};
  for (int64_t d = 0; d < p.directions; ++d) {
    s.hidden_weight[d] = a.weights[d].hidden;
    s.grad_from_input[d] = gates.from_input[d];
    s.grad_from_hidden[d] = gates.from_hidden[d];
  }
  s.grad_output = a.grad_output;
  s.output = a.output;
  s.initial_hidden = a.hidden;
  s.initial_cell = a.cell;
  s.reserve = a.reserve;
  s.grad_hidden = grad_hidden;
  s.grad_cell = states.cell;
  s.arrivals = states.arrivals;
  s.steps = static_cast<int>(p.steps);
  s.batch = static_cast<int>(p.batch);
  s.directions = static_cast<int>(p.directions);
  s.hidden_size = static_cast<int>(p.hidden_size);
  return SequenceKernels<Element>::run(p, s, context);
}

}  // namespace

template <class Element>
const char* backward(const RnnLayer& p, const RnnBackward& a, Context& context) {
  const int64_t width = p.gates() * p.hidden_size, state_count = p.directions * p.batch * p.hidden_size;
  GateGradients<Element> gates{};
  for (int64_t d = 0; d < p.directions; ++d) {
    gates.from_input[d] = gates.from_hidden[d] = allocate<Element>(context, p.rows * width);
    if (p.mode == RnnMode::gru) gates.from_hidden[d] = allocate<Element>(context, p.rows * width);
  }
  float* grad_hidden = allocate<float>(context, state_count);
  LayerStates states{};
  states.arrivals = allocate<unsigned>(context, 1);
  const StatesToFloat hidden{a.grad_final_hidden, grad_hidden, state_count, states.arrivals};
  if (const char* error = launch_elements<states_to_float<Element>>(state_count, context, hidden)) return error;
  if (p.mode == RnnMode::lstm) {
    states.cell = allocate<float>(context, state_count);
    const StatesToFloat cell{a.grad_final_cell, states.cell, state_count, nullptr};
    if (const char* error = launch_elements<states_to_float<Element>>(state_count, context, cell)) return error;
  }

  MatrixView input{};
  if (const char* error = dense_input<Element>(p, a.input, context, input)) return error;
  const bool in_one_kernel = sequence_fits(p);
  if (in_one_kernel) {
    if (const char* error = run_sequence(p, a, grad_hidden, states, gates, context)) return error;
  }
  for (int64_t d = 0; d < p.directions; ++d) {
    const Direction<Element> direction(p, a, d, context);
    if (!in_one_kernel) {
      if (const char* error = direction.run_steps(grad_hidden, states.cell, gates)) return error;
    }
    if (const char* error = direction.run_weights(input, gates)) return error;
    if (!a.grad_input) continue;
    if (const char* error = context.multiply(matrix(gates.from_input[d], p.dtype, p.rows, width),
                                             matrix(a.weights[d].input, p.dtype, width, p.input_size), a.grad_input,
                                             p.dtype, /*add=*/d > 0)) {
      return error;
    }
  }
  const auto finish = [&](const float* from, void* to) -> const char* {
    if (!to) return nullptr;
    return launch_elements<states_from_float<Element>>(state_count, context,
                                                       StatesFromFloat{from, nullptr, 0, to, state_count});
  };
  if (const char* error = finish(grad_hidden, a.grad_hidden)) return error;
  return finish(states.cell, a.grad_cell);
}

template const char* backward<float>(const RnnLayer&, const RnnBackward&, Context&);
template const char* backward<__half>(const RnnLayer&, const RnnBackward&, Context&);
template const char* backward<__nv_bfloat16>(const RnnLayer&, const RnnBackward&, Context&);

}  // namespace fastvision::rnn_cuda
