#include "rnn/cpu/backward_steps.h"

#include "core/cpu/panels.h"
#include "core/scratch.h"
#include "core/sigmoid.h"

namespace fastvision {
namespace {

// Sequences that go through the steps together: the gates of one chain stay in the L2 cache.
constexpr int64_t kMaxSequences = 96;

// Columns whose weights are packed together where they are used once.
constexpr int64_t kColumns = 256;

// With this many sequences to share out each thread takes its own through all steps. Otherwise threads share the
// columns of each step if that takes some 20 us.
constexpr int64_t kManySequences = 64;
constexpr int64_t kStepProducts = 1 << 20;

struct Range {
  int64_t begin, end;
};

template <class T>
class Steps {
 public:
  Steps(const RnnLayer& p, const RnnBackward& arrays, const BackwardRows& rows, Context& context)
      : p_(p), a_(arrays), rows_(rows), h_(p.hidden_size), depth_(p.gates() * p.hidden_size), context_(context) {
    const int64_t floats = p.directions * p.batch * width();
    hidden_ = static_cast<float*>(context.allocate(sizeof(float) * floats));
    if (p.mode == RnnMode::lstm) cell_ = static_cast<float*>(context.allocate(sizeof(float) * floats));
    if (p.steps > 1) pack_weights();
  }

  void run() {
    const int64_t products = p_.batch * depth_ * h_;
    if (p_.steps == 1 || (p_.directions * p_.batch < kManySequences && products >= kStepProducts)) {
      run_by_columns();
    } else {
      run_by_sequences();
    }
  }

 private:
  // A thread's working memory: two rows, and weights where they aren't packed beforehand.
  struct Memory {
    FloatScratch rows, panels;
    explicit Memory(const Steps& s) : rows(2 * s.h_), panels(s.panels_[0] ? 0 : kColumns * kMaxChain) {}
  };

  int64_t panels() const { return ceil_div(h_, kPanel); }
  int64_t width() const { return panels() * kPanel; }

  void pack_weights() {
    float* packed = static_cast<float*>(context_.allocate(sizeof(float) * p_.directions * depth_ * width()));
    for (int64_t d = 0; d < p_.directions; ++d) panels_[d] = packed + d * depth_ * width();
    context_.parallel_for(p_.directions * panels(), [&](int64_t begin, int64_t end) {
      for_directions(begin, end, panels(), [&](int64_t d, const Range& part) {
        const int64_t column = part.begin * kPanel;
        pack_panels<T>(rows_.weights[d], depth_, column, std::min(h_, part.end * kPanel) - column,
                       panels_[d] + column * depth_);
      });
    });
  }

  // Cuts [begin, end) of directions * n into a part of each direction.
  template <class F>
  static void for_directions(int64_t begin, int64_t end, int64_t n, const F& f) {
    for (int64_t d = begin / n; begin < end && d * n < end; ++d) {
      f(d, Range{std::max(begin, d * n) - d * n, std::min(end, (d + 1) * n) - d * n});
    }
  }

  void run_by_sequences() {
    const int64_t units = ceil_div(p_.batch, kMaxGemmRows);
    context_.parallel_for(p_.directions * units, [&](int64_t begin, int64_t end) {
      Memory memory(*this);
      for_directions(begin, end, units, [&](int64_t d, const Range& part) {
        const int64_t last = std::min(p_.batch, part.end * kMaxGemmRows);
        for (int64_t first = part.begin * kMaxGemmRows; first < last; first += kMaxSequences) {
          const Range sequences{first, std::min(last, first + kMaxSequences)};
          for (int64_t i = 0; i <= p_.steps; ++i) step(d, i, sequences, {0, panels()}, memory);
        }
      });
    });
  }

  void run_by_columns() {
    for (int64_t i = 0; i <= p_.steps; ++i) {
      context_.parallel_for(p_.directions * panels(), [&](int64_t begin, int64_t end) {
        Memory memory(*this);
        for_directions(begin, end, panels(),
                       [&](int64_t d, const Range& part) { step(d, i, {0, p_.batch}, part, memory); });
      });
    }
  }

  // The i-th step from the sequences' ends, of some sequences and panels of columns. It needs all columns of the
  // step before.
  void step(int64_t d, int64_t i, const Range& sequences, const Range& panels, Memory& memory) {
    const Range columns{panels.begin * kPanel, std::min(h_, panels.end * kPanel)};
    if (i == 0) start(d, sequences, columns);
    const bool is_needed = i < p_.steps || (a_.grad_hidden && !multiplies_by_stock(p_));
    if (i > 0 && is_needed) multiply(d, step_at(d, i - 1), sequences, columns, memory);
    if (i == p_.steps) {
      finish(d, sequences, columns);
      return;
    }
    const int64_t t = step_at(d, i), last = std::min(sequences.end, p_.batch_at(t));
    for (int64_t b = sequences.begin; b < last; ++b) {
      a_.masks.data ? gate_gradients<true>(d, t, b, columns, memory) : gate_gradients<false>(d, t, b, columns, memory);
    }
  }

  int64_t step_at(int64_t d, int64_t i) const { return d == 0 ? p_.steps - 1 - i : i; }
  float* hidden(int64_t d, int64_t b) const { return hidden_ + (d * p_.batch + b) * width(); }
  float* cell(int64_t d, int64_t b) const { return cell_ + (d * p_.batch + b) * width(); }
  float* gates(int64_t d, int64_t row) const { return rows_.gates + (d * p_.rows + row) * rows_.stride; }
  const float* reserve(int64_t d, int64_t row) const {
    return a_.reserve + (d * p_.rows + row) * reserve_blocks(p_.mode, a_.masks.data) * h_;
  }
  int64_t state(int64_t d, int64_t b) const { return (d * p_.batch + b) * h_; }

  void start(int64_t d, const Range& sequences, const Range& columns) {
    const int64_t n = columns.end - columns.begin;
    const auto copy = [&](const void* source, int64_t b, float* target) {
      if (source) {
        convert_row(static_cast<const T*>(source) + state(d, b) + columns.begin, target + columns.begin, n);
      } else {
        std::fill_n(target + columns.begin, n, 0.f);
      }
    };
    for (int64_t b = sequences.begin; b < sequences.end; ++b) {
      copy(a_.grad_final_hidden, b, hidden(d, b));
      if (cell_) copy(a_.grad_final_cell, b, cell(d, b));
    }
  }

  void finish(int64_t d, const Range& sequences, const Range& columns) {
    const auto copy = [&](const float* source, int64_t b, void* target) {
      convert_row(source + columns.begin, static_cast<T*>(target) + state(d, b) + columns.begin,
                  columns.end - columns.begin);
    };
    for (int64_t b = sequences.begin; b < sequences.end; ++b) {
      if (a_.grad_hidden) copy(hidden(d, b), b, a_.grad_hidden);
      if (a_.grad_cell && cell_) copy(cell(d, b), b, a_.grad_cell);
    }
  }

  // Adds the gradients that step t passes to the hidden states before it.
  void multiply(int64_t d, int64_t t, const Range& sequences, const Range& columns, Memory& memory) {
    const int64_t count = std::min(sequences.end, p_.batch_at(t)) - sequences.begin;
    if (count <= 0) return;
    const float* left = gates(d, rows_.offsets[t] + sequences.begin) + hidden_gates_offset(p_);
    for (int64_t first = columns.begin; first < columns.end; first += kColumns) {
      const int64_t end = std::min(columns.end, first + kColumns);
      for (int64_t k = 0; k < depth_; k += kMaxChain) {
        const int64_t depth = std::min(kMaxChain, depth_ - k);
        const float* panel = panels_[d] + first * depth_ + k * kPanel;
        int64_t panel_size = depth_ * kPanel;
        if (!panels_[d]) {
          pack_panels<T>(rows_.weights[d] + k, depth, first, end - first, memory.panels.data());
          panel = memory.panels.data();
          panel_size = depth * kPanel;
        }
        for (int64_t c = first; c < end; c += kPanel, panel += panel_size) {
          float* sums = hidden(d, sequences.begin) + c;
          const auto add = [=, width = width()](int64_t row, int64_t vector, const Vec& sum) FASTVISION_INLINE {
            float* target = sums + row * width + vector * kLanes;
            (Vec::loadu(target) + sum).store(target);
          };
          multiply_panel(left + k, rows_.stride, count, panel, depth, add);
        }
      }
    }
  }

  // The elements themselves where they are fp32.
  static const float* as_floats(const void* source, int64_t n, float* converted) {
    if constexpr (std::is_same_v<T, float>) {
      return static_cast<const float*>(source);
    } else {
      convert_row(static_cast<const T*>(source), converted, n);
      return converted;
    }
  }

  const float* grad_output(int64_t d, int64_t row, const Range& columns, float* converted) const {
    if (!a_.grad_output) return nullptr;
    const T* source = static_cast<const T*>(a_.grad_output) + (row * p_.directions + d) * h_ + columns.begin;
    return as_floats(source, columns.end - columns.begin, converted);
  }

  // f(load, store, column) for each vector of `columns`; columns count from the range's first.
  template <class F>
  static FASTVISION_INLINE void for_vectors(const Range& columns, const F& f) {
    const int64_t n = columns.end - columns.begin;
    int64_t c = 0;
    for (; c + kLanes <= n; c += kLanes) {
      f([=](const float* source) FASTVISION_INLINE { return Vec::loadu(source + c); },
        [=](const Vec& v, float* target) FASTVISION_INLINE { v.store(target + c); });
    }
    if (c < n) {
      f([=](const float* source) FASTVISION_INLINE { return load_first(source + c, n - c); },
        [=](const Vec& v, float* target) FASTVISION_INLINE { v.store(target + c, n - c); });
    }
  }

  template <bool Masked>
  void gate_gradients(int64_t d, int64_t t, int64_t b, const Range& columns, Memory& memory) const {
    if (p_.mode == RnnMode::lstm) {
      lstm<Masked>(d, t, b, columns, memory.rows.data());
    } else {
      gru<Masked>(d, t, b, columns, memory.rows.data());
    }
  }

  template <bool Masked>
  void lstm(int64_t d, int64_t t, int64_t b, const Range& columns, float* converted) const {
    const int64_t row = rows_.offsets[t] + b, h = h_, n = columns.end - columns.begin;
    const int64_t previous = previous_row(p_, rows_.offsets, d, t, b);
    const float* dh_out = grad_output(d, row, columns, converted);
    const float* c_previous =
        previous < 0 ? as_floats(static_cast<const T*>(a_.cell) + state(d, b) + columns.begin, n, converted + n)
                     : reserve(d, previous) + (Masked ? 5 : 4) * h + columns.begin;
    const float* kept = reserve(d, row) + columns.begin;
    float* gate = gates(d, row) + columns.begin;
    float* dh_carried = hidden(d, b) + columns.begin;
    float* dc_carried = cell(d, b) + columns.begin;
    const float* mask = Masked ? a_.masks.row(d, row) + columns.begin : nullptr;
    const int64_t mask_stride = a_.masks.block_stride;
    for_vectors(columns, [=](const auto& load, const auto& store) FASTVISION_INLINE {
      const Vec one(1.f);
      const Vec i = load(kept), f = load(kept + h), g = load(kept + 2 * h), o = load(kept + 3 * h);
      const Vec tanh_c = tanh(load(kept + 4 * h));
      Vec dh = load(dh_carried);
      if (dh_out) dh = dh + load(dh_out);
      Vec dc = load(dc_carried), dh_kept(0.f), dc_kept(0.f), scale = one;
      if constexpr (Masked) {
        const Vec keep_h = load(mask), keep_c = load(mask + mask_stride);
        scale = load(mask + 2 * mask_stride);
        dh_kept = dh * keep_h;
        dc_kept = dc * keep_c;
        dh = dh * (one - keep_h);
        dc = dc * (one - keep_c);
      }
      dc = at::vec::fmadd(dh * o, one - tanh_c * tanh_c, dc);
      const Vec dg = Masked ? dc * scale : dc;
      store(dg * g * i * (one - i), gate);
      store(dc * load(c_previous) * f * (one - f), gate + h);
      store(dg * i * (one - g * g), gate + 2 * h);
      store(dh * tanh_c * o * (one - o), gate + 3 * h);
      store(Masked ? at::vec::fmadd(dc, f, dc_kept) : dc * f, dc_carried);
      store(dh_kept, dh_carried);
    });
  }

  template <bool Masked>
  void gru(int64_t d, int64_t t, int64_t b, const Range& columns, float* converted) const {
    const int64_t row = rows_.offsets[t] + b, h = h_, n = columns.end - columns.begin;
    const float* dh_out = grad_output(d, row, columns, converted);
    const float* h_previous =
        as_floats(static_cast<const T*>(rows_.previous_hidden[d * p_.rows + row]) + columns.begin, n, converted + n);
    const float* kept = reserve(d, row) + columns.begin;
    float* gate = gates(d, row) + columns.begin;
    float* dh_carried = hidden(d, b) + columns.begin;
    const float* mask = Masked ? a_.masks.row(d, row) + columns.begin : nullptr;
    const int64_t mask_stride = a_.masks.block_stride;
    for_vectors(columns, [=](const auto& load, const auto& store) FASTVISION_INLINE {
      const Vec one(1.f);
      const Vec r = load(kept), z = load(kept + h), n = load(kept + 2 * h);
      Vec dh = load(dh_carried);
      if (dh_out) dh = dh + load(dh_out);
      Vec dh_kept(0.f), candidate = n, scale = one;
      if constexpr (Masked) {
        const Vec keep = load(mask);
        scale = load(mask + mask_stride);
        candidate = n * scale;
        dh_kept = dh * keep;
        dh = dh * (one - keep);
      }
      const Vec dh_new = dh * (one - z);
      const Vec dn = (Masked ? dh_new * scale : dh_new) * (one - n * n);
      store(dn, gate);
      store(dn * load(kept + 3 * h) * r * (one - r), gate + h);
      store(dh * (load(h_previous) - candidate) * z * (one - z), gate + 2 * h);
      store(dn * r, gate + 3 * h);
      store(Masked ? at::vec::fmadd(dh, z, dh_kept) : dh * z, dh_carried);
    });
  }

  const RnnLayer& p_;
  const RnnBackward& a_;
  const BackwardRows& rows_;
  const int64_t h_, depth_;
  Context& context_;
  float* hidden_;          // (directions, batch, width()): gradients carried from step to step
  float* cell_ = nullptr;  // the same
  float* panels_[2] = {};  // hidden weights
};

}  // namespace

void backward_steps(const RnnLayer& problem, const RnnBackward& arrays, const BackwardRows& rows, Context& context) {
  visit_dtype(problem.dtype, [&]<class T>() { Steps<T>(problem, arrays, rows, context).run(); });
}

}  // namespace fastvision
