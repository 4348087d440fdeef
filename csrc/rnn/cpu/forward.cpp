#include "rnn/cpu/forward.h"

#include "core/scratch.h"
#include "rnn/cpu/direction.h"
#include "rnn/cpu/rows.h"

namespace fastvision {
namespace {

// Up to so many rows of a cell, and one row of a sequence, read the weights as they are: packing would cost more than
// it gains.
constexpr int64_t kMaxRowsInPlace = 6;
// Fewer rows in a layer's whole input are not worth packing its weights.
constexpr int64_t kMinRowsToPack = 16;
// Sums of the inputs' products that wait for their step: they stay in the cache.
constexpr int64_t kWaitingFloats = 64 * 1024;
// Multiply-adds of a step that pay for waking threads.
constexpr int64_t kMinParallelProducts = 1 << 19;

template <RnnMode Mode, class T>
class Forward {
 public:
  using Dir = Direction<Mode, T>;

  Forward(const RnnLayer& p, const RnnForward& arrays, Context& context) : p_(p), a_(arrays), context_(context) {}

  void run() {
    for (int64_t d = 0; d < p_.directions; ++d) {
      Dir direction(p_, a_.weights[d], context_);
      if (p_.steps == 1 && p_.batch > kMaxRowsInPlace) {
        run_step(direction, d);
      } else {
        run_sequence(direction, d);
      }
    }
  }

 private:
  // One step: each block of weights is packed where it is used, and used at once.
  void run_step(const Dir& direction, int64_t d) {
    const int64_t width = direction.padded_size(), n = p_.batch;
    float* states = allocate(3 * n * width);
    float *hidden = states, *next = states + n * width, *cell = states + 2 * n * width;
    load_states(d, 0, n, width, hidden, cell);
    const Rows input = input_rows(0, 1, 0, n, allocate(std::is_same_v<T, float> ? 0 : n * p_.input_size));
    float* sums = allocate(n * direction.blocks() * Dir::kBlock);
    const typename Dir::Step step{sums, hidden, next, cell, reserve(d, 0), reserve_stride()};
    context_.parallel_for(direction.blocks(), [&](int64_t begin, int64_t end) {
      FloatScratch packed(std::max(p_.input_size, p_.hidden_size) * Dir::kBlock);
      for (int64_t block = begin; block < end; ++block) {
        direction.pack_input(block, packed.data());
        direction.project(block, packed.data(), input.data, input.stride, n, sums);
        direction.pack_hidden(block, packed.data());
        direction.step(block, packed.data(), step, n);
      }
    });
    store_output(d, 0, 0, n, width, next);
    store_states(d, 0, n, width, next, cell);
  }

  void run_sequence(Dir& direction, int64_t d) {
    const bool in_place = p_.batch == 1 || p_.steps == 1;
    const bool is_packed = !in_place || p_.rows >= kMinRowsToPack;
    if (is_packed) direction.pack(allocate(direction.packed_floats(!in_place)), !in_place, context_);
    if (in_place) {
      run_rows(direction, d, 0, p_.batch, true, is_packed);
      return;
    }
    // Sequences are strangers to each other: every thread runs its own from end to end.
    constexpr int64_t kTile = max_tile_rows<Dir::kGates>();
    context_.parallel_for(ceil_div(p_.batch, kTile), [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kTile, last = std::min(p_.batch, end * kTile);
      if (first < last) run_rows(direction, d, first, last, false, true);
    });
  }

  // Sequences [first, last).
  void run_rows(const Dir& direction, int64_t d, int64_t first, int64_t last, bool in_place, bool packed_input) {
    const int64_t width = direction.padded_size(), n = last - first;
    const int64_t sums_per_row = direction.blocks() * Dir::kBlock;
    const int64_t chunk = std::clamp<int64_t>(kWaitingFloats / (sums_per_row * n), 1, p_.steps);
    FloatScratch states(3 * n * width), sums(chunk * n * sums_per_row);
    FloatScratch converted(std::is_same_v<T, float> ? 0 : chunk * n * p_.input_size);
    float *hidden = states.data(), *next = hidden + n * width, *cell = next + n * width;
    int64_t entered = 0;
    for (int64_t begin = 0; begin < p_.steps; begin += chunk) {
      const int64_t end = std::min(p_.steps, begin + chunk);
      project(direction, d, begin, end, first, last, packed_input, converted.data(), sums.data());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t t = step_at(d, i), count = living(t, first, last);
        if (count > entered) {
          load_states(d, first + entered, first + count, width, hidden + entered * width, cell + entered * width);
          entered = count;
        }
        const int64_t row = offsets_[t] + first;
        const typename Dir::Step step{
            sums.data() + (i - begin) * n * sums_per_row, hidden, next, cell, reserve(d, row), reserve_stride()};
        run_blocks(in_place, direction, [&](int64_t block) FASTVISION_INLINE {
          if (!in_place) return direction.step(block, direction.packed_hidden(block), step, count);
          for (int64_t b = 0; b < count; ++b) direction.step_in_place(block, step, b);
        });
        store_output(d, t, first, count, width, next);
        const int64_t staying = i + 1 == p_.steps ? 0 : std::min(count, living(step_at(d, i + 1), first, last));
        store_states(d, first + staying, first + count, width, next + staying * width, cell + staying * width);
        std::swap(hidden, next);
      }
    }
  }

  // A thread that runs sequences alone has no need of others.
  template <class F>
  void run_blocks(bool in_place, const Dir& direction, const F& f) {
    const int64_t blocks = direction.blocks();
    if (!in_place || p_.batch * Dir::kGates * p_.hidden_size * p_.hidden_size < kMinParallelProducts) {
      for (int64_t block = 0; block < blocks; ++block) f(block);
      return;
    }
    context_.parallel_for(blocks, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) f(block);
    });
  }

  // The sums of steps [begin, end), in the order in which they run.
  void project(const Dir& direction, int64_t d, int64_t begin, int64_t end, int64_t first, int64_t last,
               bool packed_input, float* converted, float* sums) {
    const int64_t n = last - first, sums_per_row = direction.blocks() * Dir::kBlock;
    const auto run = [&](int64_t i, int64_t steps) {
      const int64_t t = d ? p_.steps - i - steps : i;
      const int64_t count = steps > 1 ? steps : living(step_at(d, i), first, last);
      const Rows x = input_rows(t, steps, first, first + (steps > 1 ? 1 : count), converted);
      float* target = sums + (i - begin) * n * sums_per_row;
      // A single sequence read backwards is projected backwards.
      const float* data = steps > 1 && d ? x.data + (steps - 1) * x.stride : x.data;
      const int64_t stride = steps > 1 && d ? -x.stride : x.stride;
      for (int64_t block = 0; block < direction.blocks(); ++block) {
        if (packed_input) {
          direction.project(block, direction.packed_input(block), data, stride, count, target);
        } else {
          for (int64_t b = 0; b < count; ++b) {
            direction.project_in_place(block, data + b * stride, target + b * sums_per_row);
          }
        }
      }
    };
    if (n == 1 && !p_.batch_sizes) {
      run(begin, end - begin);
    } else {
      for (int64_t i = begin; i < end; ++i) run(i, 1);
    }
  }

  struct Rows {
    const float* data;
    int64_t stride;
  };

  // Sequences [first, last) of one step, or one sequence's steps from t on, as fp32.
  Rows input_rows(int64_t t, int64_t steps, int64_t first, int64_t last, float* converted) const {
    const int64_t stride = steps > 1 ? p_.input_step_stride : p_.input_row_stride;
    const T* input = static_cast<const T*>(a_.input) + p_.input_offset(t, first, offsets_[t] + first);
    if constexpr (std::is_same_v<T, float>) {
      return {input, stride};
    } else {
      for (int64_t row = 0; row < steps * (last - first); ++row) {
        convert_row(input + row * stride, converted + row * p_.input_size, p_.input_size);
      }
      return {converted, p_.input_size};
    }
  }

  int64_t step_at(int64_t d, int64_t i) const { return d ? p_.steps - 1 - i : i; }
  int64_t living(int64_t t, int64_t first, int64_t last) const {
    return std::clamp<int64_t>(p_.batch_at(t) - first, 0, last - first);
  }

  void load_states(int64_t d, int64_t first, int64_t last, int64_t width, float* hidden, float* cell) const {
    const int64_t size = p_.hidden_size;
    for (int64_t b = first; b < last; ++b, hidden += width, cell += width) {
      convert_row(static_cast<const T*>(a_.hidden) + (d * p_.batch + b) * size, hidden, size);
      std::fill(hidden + size, hidden + width, 0.f);
      if (Mode == RnnMode::gru) continue;
      convert_row(static_cast<const T*>(a_.cell) + (d * p_.batch + b) * size, cell, size);
      std::fill(cell + size, cell + width, 0.f);
    }
  }

  void store_states(int64_t d, int64_t first, int64_t last, int64_t width, const float* hidden,
                    const float* cell) const {
    for (int64_t b = first; b < last; ++b, hidden += width, cell += width) {
      const int64_t at = (d * p_.batch + b) * p_.hidden_size;
      if (a_.final_hidden) convert_row(hidden, static_cast<T*>(a_.final_hidden) + at, p_.hidden_size);
      if (Mode == RnnMode::lstm) convert_row(cell, static_cast<T*>(a_.final_cell) + at, p_.hidden_size);
    }
  }

  void store_output(int64_t d, int64_t t, int64_t first, int64_t count, int64_t width, const float* hidden) const {
    for (int64_t b = 0; b < count; ++b) {
      const int64_t row = offsets_[t] + first + b;
      T* target = static_cast<T*>(a_.output) + (row * p_.directions + d) * p_.hidden_size;
      convert_row(hidden + b * width, target, p_.hidden_size);
    }
  }

  int64_t reserve_stride() const { return reserve_blocks(Mode) * p_.hidden_size; }
  float* reserve(int64_t d, int64_t row) const {
    return a_.reserve ? a_.reserve + (d * p_.rows + row) * reserve_stride() : nullptr;
  }

  float* allocate(int64_t floats) { return static_cast<float*>(context_.allocate(sizeof(float) * floats)); }

  const RnnLayer& p_;
  const RnnForward& a_;
  Context& context_;
  const int64_t* offsets_ = row_offsets(p_, context_);
};

}  // namespace

const char* rnn_forward(const RnnLayer& problem, const RnnForward& arrays, Context& context) {
  visit_dtype(problem.dtype, [&]<class T>() {
    if (problem.mode == RnnMode::lstm) {
      Forward<RnnMode::lstm, T>(problem, arrays, context).run();
    } else {
      Forward<RnnMode::gru, T>(problem, arrays, context).run();
    }
  });
  return nullptr;
}

}  // namespace fastvision
