#include "core/cpu/matmul.h"

#include "core/cpu/panels.h"
#include "core/scratch.h"

namespace fastvision {
namespace {

// Threads share the result in pieces of kUnitRows x kColumns. Each takes its pieces together, to pack as little as it
// can: kPassRows for each packing of the right side, kTileRows of the left side at once, which the L2 cache holds.
// All are multiples of every kMaxGemmRows.
constexpr int64_t kUnitRows = 24;
constexpr int64_t kTileRows = 192;
constexpr int64_t kPassRows = 1536;
constexpr int64_t kColumns = 512;

// [0, n) in parts of equal size, a multiple of `unit`, the last one perhaps smaller.
struct Parts {
  int64_t n, size, count;

  Parts(int64_t n, int64_t most, int64_t unit) : n(n) {
    size = round_up(ceil_div(n, ceil_div(n, most)), unit);
    count = ceil_div(n, size);
  }
  int64_t begin(int64_t i) const { return i * size; }
  int64_t length(int64_t i) const { return std::min(size, n - i * size); }
};

template <class T>
class Worker {
 public:
  Worker(const Matmul& p, int64_t rows, int64_t columns)
      : p_(p),
        width_(round_up(columns, kPanel)),
        left_(std::min(rows, kTileRows) * kMaxChain),
        panels_(width_ * kMaxChain),
        sums_(std::min(rows, kPassRows) * width_) {}

  void run(int64_t row, int64_t rows, int64_t column, int64_t columns) {
    for (int64_t i = 0; i < rows; i += kPassRows) run_pass(row + i, std::min(kPassRows, rows - i), column, columns);
  }

 private:
  void run_pass(int64_t row, int64_t rows, int64_t column, int64_t columns) {
    row_ = row;
    column_ = column;
    column_count_ = columns;
    bool first = true;
    for (int t = 0; t < p_.term_count; ++t) {
      const MatmulTerm& term = p_.terms[t];
      const Parts blocks(term.depth, kMaxChain, 1);
      for (int64_t i = 0; i < blocks.count; ++i, first = false) {
        const int64_t begin = blocks.begin(i), depth = blocks.length(i);
        const bool last = t == p_.term_count - 1 && i == blocks.count - 1;
        pack_panels<T>(term.right + begin, depth, column, columns, panels_.data());
        for (int64_t r = 0; r < rows; r += kTileRows) {
          const int64_t count = std::min(kTileRows, rows - r);
          pack_left(term, row + r, count, begin, depth);
          add_block(r, count, depth, first, last);
        }
      }
    }
    if constexpr (!std::is_same_v<T, float>) {
      for (int64_t i = 0; i < rows; ++i) convert_row(sums_.data() + i * width_, result(i), columns);
    }
  }

  T* result(int64_t row) const { return static_cast<T*>(p_.result[row_ + row]) + column_; }

  // Rows count from the pass's first.
  void add_block(int64_t row, int64_t count, int64_t depth, bool first, bool last) {
    for (int64_t c = 0; c < column_count_; c += kPanel) {
      float* sums = sums_.data() + row * width_ + c;
      const auto finish = [=, this](int64_t i, int64_t vector, const Vec& sum) FASTVISION_INLINE {
        float* earlier = sums + i * width_ + vector * kLanes;
        const Vec total = first ? sum : Vec::loadu(earlier) + sum;
        if (std::is_same_v<T, float> && last) {
          store_result(row + i, c + vector * kLanes, total);
        } else {
          total.store(earlier);
        }
      };
      multiply_panel(left_.data(), depth, count, panels_.data() + c * depth, depth, finish);
    }
  }

  void pack_left(const MatmulTerm& term, int64_t row, int64_t count, int64_t begin, int64_t depth) {
    const float* source = term.left + row * term.row_stride + begin * term.depth_stride;
    if (term.depth_stride == 1) {
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(left_.data() + i * depth, source + i * term.row_stride, sizeof(float) * depth);
      }
    } else {
      transpose(source, term.depth_stride, depth, count, left_.data(), depth);
    }
  }

  FASTVISION_INLINE void store_result(int64_t row, int64_t column, const Vec& sum) const {
    float* target = reinterpret_cast<float*>(result(row)) + column;
    if (column + kLanes <= column_count_) {
      sum.store(target);
    } else if (column < column_count_) {
      sum.store(target, column_count_ - column);
    }
  }

  const Matmul& p_;
  const int64_t width_;
  FloatScratch left_, panels_, sums_;
  int64_t row_ = 0, column_ = 0, column_count_ = 0;
};

}  // namespace

void matmul(const Matmul& problem, Context& context) {
  const Parts columns(problem.columns, kColumns, kPanel);
  const int64_t units = ceil_div(problem.rows, kUnitRows);
  visit_dtype(problem.dtype, [&]<class T>() {
    context.parallel_for(columns.count * units, [&](int64_t begin, int64_t end) {
      if (begin >= end) return;
      Worker<T> worker(problem, std::min(problem.rows, (end - begin) * kUnitRows), columns.size);
      for (int64_t i = begin / units; i * units < end; ++i) {
        const int64_t first = std::max(begin - i * units, int64_t{0}) * kUnitRows;
        const int64_t last = std::min(problem.rows, std::min(end - i * units, units) * kUnitRows);
        worker.run(first, last - first, columns.begin(i), columns.length(i));
      }
    });
  });
}

}  // namespace fastvision
