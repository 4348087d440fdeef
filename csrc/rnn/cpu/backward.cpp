#include "rnn/cpu/backward.h"

#include "core/cpu/matmul.h"
#include "core/cpu/panels.h"
#include "rnn/cpu/backward_steps.h"
#include "rnn/cpu/rows.h"

namespace fastvision {
namespace {

class Backward {
 public:
  Backward(const RnnLayer& p, const RnnBackward& arrays, Context& context)
      : p_(p), a_(arrays), context_(context), h_(p.hidden_size), gate_rows_(p.gates() * p.hidden_size) {}

  const char* run() {
    offsets_ = row_offsets(p_, context_);
    previous_hidden_ = previous_hidden();
    // The odd size keeps rows from meeting in the same cache sets.
    rows_.stride = 4 * h_ + 16;
    rows_.offsets = offsets_;
    rows_.previous_hidden = previous_hidden_;
    rows_.gates = allocate<float>(p_.directions * p_.rows * rows_.stride);
    for (int64_t d = 0; d < p_.directions; ++d) {
      rows_.weights[d] = rows_of(a_.weights[d].hidden, gate_rows_, h_, 0);
    }
    backward_steps(p_, a_, rows_, context_);
    if (multiplies_by_stock(p_)) {
      products_of_stock();
      return error_;
    }
    if (a_.grad_input) input_gradient();
    for (int64_t d = 0; d < p_.directions; ++d) {
      weight_gradients(d);
      bias_gradients(d);
    }
    return nullptr;
  }

 private:
  template <class E>
  E* allocate(int64_t n) {
    return static_cast<E*>(context_.allocate(sizeof(E) * n));
  }

  void* element(const void* array, int64_t i) const {
    return static_cast<char*>(const_cast<void*>(array)) + i * size_of(p_.dtype);
  }

  void** rows_of(const void* matrix, int64_t rows, int64_t columns, int64_t first) {
    return matrix_rows(matrix, p_.dtype, rows, columns, first, context_);
  }

  // The gates toward the input begin with a GRU's last one.
  int64_t first_input_gate() const { return p_.mode == RnnMode::gru ? 2 * h_ : 0; }

  // f(step, sequence, row) for every row.
  template <class F>
  void for_rows(const F& f) const {
    for (int64_t t = 0, row = 0; t < p_.steps; ++t) {
      for (int64_t b = 0; b < p_.batch_at(t); ++b, ++row) f(t, b, row);
    }
  }

  const void** previous_hidden() {
    const void** pointers = allocate<const void*>(p_.directions * p_.rows);
    for (int64_t d = 0; d < p_.directions; ++d) {
      for_rows([&](int64_t t, int64_t b, int64_t row) {
        const int64_t previous = previous_row(p_, offsets_, d, t, b);
        pointers[d * p_.rows + row] = previous < 0 ? element(a_.hidden, (d * p_.batch + b) * h_)
                                                   : element(a_.output, (previous * p_.directions + d) * h_);
      });
    }
    return pointers;
  }

  const void* const* input_rows() {
    if (!input_rows_) {
      input_rows_ = allocate<const void*>(p_.rows);
      for_rows(
          [&](int64_t t, int64_t b, int64_t row) { input_rows_[row] = element(a_.input, p_.input_offset(t, b, row)); });
    }
    return input_rows_;
  }

  void input_gradient() {
    Matmul product{p_.dtype,
                   p_.rows,
                   p_.input_size,
                   {},
                   static_cast<int>(p_.directions),
                   rows_of(a_.grad_input, p_.rows, p_.input_size, 0)};
    for (int64_t d = 0; d < p_.directions; ++d) {
      void** weights = rows_of(a_.weights[d].input, gate_rows_, p_.input_size, first_input_gate());
      product.terms[d] = {rows_.of_direction(p_, d), rows_.stride, 1, weights, gate_rows_};
    }
    matmul(product, context_);
  }

  void weight_gradients(int64_t d) {
    const RnnWeightGradients& grad = a_.grad_weights[d];
    const float* gates = rows_.of_direction(p_, d);
    if (grad.input) {
      void** result = rows_of(grad.input, gate_rows_, p_.input_size, first_input_gate());
      matmul({p_.dtype, gate_rows_, p_.input_size, {{gates, 1, rows_.stride, input_rows(), p_.rows}}, 1, result},
             context_);
    }
    if (grad.hidden) {
      const MatmulTerm term{gates + hidden_gates_offset(p_), 1, rows_.stride, previous_hidden_ + d * p_.rows, p_.rows};
      matmul({p_.dtype, gate_rows_, h_, {term}, 1, rows_of(grad.hidden, gate_rows_, h_, 0)}, context_);
    }
  }

  void bias_gradients(int64_t d) {
    const RnnWeightGradients& grad = a_.grad_weights[d];
    if (!grad.input_bias && !grad.hidden_bias) return;
    const float* gates = rows_.of_direction(p_, d);
    constexpr int64_t kUnit = 64;  // columns
    const int64_t columns = 4 * h_;
    float* sums = allocate<float>(2 * columns);
    context_.parallel_for(ceil_div(columns, kUnit), [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kUnit;
      add_rows(gates + first, std::min(columns, end * kUnit) - first, sums + first, sums + columns + first);
    });
    visit_dtype(p_.dtype, [&]<class T>() {
      if (grad.hidden_bias) convert_row(sums + hidden_gates_offset(p_), static_cast<T*>(grad.hidden_bias), gate_rows_);
      if (grad.input_bias) {
        T* bias = static_cast<T*>(grad.input_bias);
        const int64_t rest = gate_rows_ - first_input_gate();
        convert_row(sums, bias + first_input_gate(), rest);
        convert_row(sums + rest, bias, first_input_gate());
      }
    });
  }

  // All products of one step. Where gates are not in the order of the weights, in two parts.
  void products_of_stock() {
    const int64_t first = first_input_gate(), rest = gate_rows_ - first;
    const int64_t row_stride = p_.batch > 1 ? p_.input_offset(0, 1, 1) : p_.input_size;
    const MatrixView input{a_.input, p_.dtype, p_.batch, p_.input_size, row_stride, 1};
    for (int64_t d = 0; d < p_.directions; ++d) {
      const float* gates = rows_.of_direction(p_, d);
      const RnnWeightGradients& grad = a_.grad_weights[d];
      const auto columns = [&](int64_t begin, int64_t count) {
        return MatrixView{gates + begin, DType::f32, p_.batch, count, rows_.stride, 1};
      };
      const auto input_part = [&](int64_t gate, int64_t begin, int64_t count, bool add) {
        if (count == 0) return;
        const MatrixView part = columns(begin, count);
        const void* weights = element(a_.weights[d].input, gate * p_.input_size);
        if (a_.grad_input) multiply(part, matrix(weights, p_.dtype, count, p_.input_size), a_.grad_input, add || d > 0);
        if (grad.input) multiply(part.transposed(), input, element(grad.input, gate * p_.input_size), false);
      };
      input_part(first, 0, rest, false);
      input_part(0, rest, first, true);
      const MatrixView hidden_gates = columns(hidden_gates_offset(p_), gate_rows_);
      const auto state = [&](const void* states) { return element(states, d * p_.batch * h_); };
      if (a_.grad_hidden) {
        multiply(hidden_gates, matrix(a_.weights[d].hidden, p_.dtype, gate_rows_, h_), state(a_.grad_hidden), true);
      }
      if (grad.hidden) {
        multiply(hidden_gates.transposed(), matrix(state(a_.hidden), p_.dtype, p_.batch, h_), grad.hidden, false);
      }
      bias_gradients(d);
    }
  }

  void multiply(const MatrixView& a, const MatrixView& b, void* to, bool add) {
    if (const char* error = context_.multiply(a, b, to, p_.dtype, add)) error_ = error;
  }

  // Sums over all rows, of chains that are short enough.
  void add_rows(const float* rows, int64_t columns, float* sums, float* chain) const {
    if (columns <= 0) return;
    constexpr int64_t kMaxRows = 48;  // 3200 rows: 1.4 times stock's error; of 256 at once twice
    std::fill_n(sums, columns, 0.f);
    for (int64_t first = 0; first < p_.rows; first += kMaxRows) {
      std::fill_n(chain, columns, 0.f);
      const int64_t last = std::min(p_.rows, first + kMaxRows);
      for (int64_t row = first; row < last; ++row) add(rows + row * rows_.stride, columns, chain);
      add(chain, columns, sums);
    }
  }

  static void add(const float* source, int64_t n, float* target) {
    for (int64_t i = 0; i < n; ++i) target[i] += source[i];
  }

  const RnnLayer& p_;
  const RnnBackward& a_;
  Context& context_;
  const int64_t h_, gate_rows_;
  const int64_t* offsets_ = nullptr;
  const void* const* previous_hidden_ = nullptr;
  const void** input_rows_ = nullptr;
  BackwardRows rows_{};
  const char* error_ = nullptr;
};

}  // namespace

const char* rnn_backward(const RnnLayer& problem, const RnnBackward& arrays, Context& context) {
  return Backward(problem, arrays, context).run();
}

}  // namespace fastvision
