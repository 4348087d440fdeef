// The reference of layers with noise: what stock's calls can't do, step by step in calls that can.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>
#include <c10/util/irange.h>

#include "rnn/reference.h"

namespace fastvision {
namespace {

using at::Tensor;

struct State {
  Tensor h, c;  // c is undefined in a GRU
};

class Direction {
 public:
  // `batch_sizes` is null where all sequences reach all steps.
  Direction(const LayerTensors& layer, int64_t d, const int64_t* batch_sizes, int64_t steps)
      : layer_(layer),
        params_(layer.params.slice(d * layer.params_per_direction(), layer.params_per_direction())),
        batch_sizes_(batch_sizes),
        steps_(steps),
        is_reverse_(d == 1),
        initial_{layer.hx.select(0, d), layer.is_lstm() ? layer.cx.select(0, d) : Tensor()},
        projected_(at::linear(layer.input, params_[0], bias(2))) {
    const Tensor masks = layer.masks.select(0, d).to(layer.input.scalar_type());
    masks_ = batch_sizes ? masks : masks.unflatten_symint(0, {steps, layer.input.sym_size(1)});
  }

  // Output and last state.
  std::pair<Tensor, State> run() const {
    std::vector<Tensor> outputs(steps_);
    State state = initial_;
    std::vector<State> finished;  // of sequences that end before others, the shortest first
    int64_t row = 0;
    if (batch_sizes_) {
      for (const auto t : c10::irange(steps_)) row += is_reverse_ ? batch_sizes_[t] : 0;
      state = slice(initial_, 0, batch_sizes_[is_reverse_ ? steps_ - 1 : 0]);
    }
    for (const auto i : c10::irange(steps_)) {
      const int64_t t = is_reverse_ ? steps_ - 1 - i : i, count = batch_sizes_ ? batch_sizes_[t] : 0;
      if (batch_sizes_) {
        if (is_reverse_) row -= count;
        resize(state, count, finished);
      }
      state = step(rows(projected_, t, row, count), state, rows(masks_, t, row, count));
      outputs[t] = state.h;
      if (batch_sizes_ && !is_reverse_) row += count;
    }
    for (; !finished.empty(); finished.pop_back()) state = joined(state, finished.back());
    return {batch_sizes_ ? at::cat(outputs, 0) : at::stack(outputs, 0), state};
  }

 private:
  Tensor bias(size_t i) const { return layer_.has_biases() ? params_[i] : Tensor(); }

  Tensor rows(const Tensor& all, int64_t t, int64_t first, int64_t count) const {
    return batch_sizes_ ? all.narrow(0, first, count) : all.select(0, t);
  }

  static State slice(const State& state, int64_t begin, int64_t end) {
    const auto part = [&](const Tensor& all) { return all.defined() ? all.slice(0, begin, end) : all; };
    return {part(state.h), part(state.c)};
  }
  static State joined(const State& a, const State& b) {
    return {at::cat({a.h, b.h}, 0), a.c.defined() ? at::cat({a.c, b.c}, 0) : Tensor()};
  }

  // Sequences that begin here enter, those that have ended leave.
  void resize(State& state, int64_t count, std::vector<State>& finished) const {
    const int64_t before = state.h.size(0);
    if (count > before) state = joined(state, slice(initial_, before, count));
    if (count < before) {
      finished.push_back(slice(state, count, before));
      state = slice(state, 0, count);
    }
  }

  State step(const Tensor& input_sums, const State& state, const Tensor& masks) const {
    const Tensor sums = at::linear(state.h, params_[1], bias(3));
    const auto keep = [&](int64_t block, const Tensor& old, const Tensor& fresh) {
      const Tensor k = masks.select(1, block).narrow_symint(1, 0, old.sym_size(1));
      return k * old + (1 - k) * fresh;
    };
    if (!layer_.is_lstm()) {
      const auto x = input_sums.chunk(3, 1), u = sums.chunk(3, 1);
      const Tensor r = at::sigmoid(x[0] + u[0]), z = at::sigmoid(x[1] + u[1]);
      const Tensor n = masks.select(1, 1) * at::tanh(x[2] + r * u[2]);
      return {keep(0, state.h, (1 - z) * n + z * state.h), Tensor()};
    }
    const auto gates = (input_sums + sums).chunk(4, 1);
    const Tensor g = masks.select(1, 2) * at::tanh(gates[2]);
    const Tensor c = at::sigmoid(gates[1]) * state.c + at::sigmoid(gates[0]) * g;
    Tensor h = at::sigmoid(gates[3]) * at::tanh(c);
    if (layer_.is_projected()) h = at::linear(h, params_.back());
    return {keep(0, state.h, h), keep(1, state.c, c)};
  }

  const LayerTensors& layer_;
  const at::TensorList params_;
  const int64_t* batch_sizes_;
  const int64_t steps_;
  const bool is_reverse_;
  const State initial_;
  const Tensor projected_;  // the input's share of the gates' sums
  Tensor masks_;            // of each step, or of each row of packed sequences
};

}  // namespace

LayerResult masked_layer_reference(const LayerTensors& layer) {
  const Tensor batch_sizes = layer.is_packed() ? layer.batch_sizes.contiguous() : Tensor();
  const int64_t steps = (layer.is_packed() ? batch_sizes : layer.input).sym_size(0).guard_int(__FILE__, __LINE__);
  TORCH_CHECK(steps > 0, "Expected sequence length to be larger than 0 in RNN");
  const int64_t* sizes = layer.is_packed() ? batch_sizes.const_data_ptr<int64_t>() : nullptr;
  TORCH_CHECK(sizes || !layer.is_packed(),
              "fastvision::rnn_layer: batch_sizes: expected values, which the steps of the reference depend on, got a "
              "tensor without any (of a graph that is compiled)");
  std::vector<Tensor> outputs, hidden, cell;
  for (const auto d : c10::irange(layer.directions())) {
    const auto [output, state] = Direction(layer, d, sizes, steps).run();
    outputs.push_back(output);
    hidden.push_back(state.h);
    if (layer.is_lstm()) cell.push_back(state.c);
  }
  return {at::cat(outputs, -1), at::stack(hidden, 0),
          layer.is_lstm() ? at::stack(cell, 0) : at::empty({0}, layer.hx.options())};
}

}  // namespace fastvision
