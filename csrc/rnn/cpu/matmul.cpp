#include "rnn/cpu/matmul.h"

#include "core/scratch.h"
#include "rnn/cpu/panels.h"

namespace fastvision {
namespace {

// A tile of the result: its left side and its sums stay in the L2 cache. A multiple of every kMaxGemmRows.
constexpr int64_t kTileRows = 192;
constexpr int64_t kTileColumns = 256;

// [0, n) in parts of equal size, a multiple of `unit`, the last one perhaps smaller.
struct Parts {
  int64_t n, size, count;

  Parts(int64_t n, int64_t most, int64_t unit) : n(n) {
    size = round_up((n + (n + most - 1) / most - 1) / ((n + most - 1) / most), unit);
    count = (n + size - 1) / size;
  }
  int64_t begin(int64_t i) const { return i * size; }
  int64_t length(int64_t i) const { return std::min(size, n - i * size); }
};

template <class T>
class TileWorker {
 public:
  TileWorker(const Matmul& p, const Parts& rows, const Parts& columns)
      : p_(p),
        rows_(rows),
        columns_(columns),
        width_(round_up(columns.size, kPanel)),
        left_(rows.size * kMaxChain),
        panels_(width_ * kMaxChain),
        sums_(rows.size * width_) {}

  void run(int64_t tile) {
    row_ = rows_.begin(tile % rows_.count);
    row_count_ = rows_.length(tile % rows_.count);
    column_ = columns_.begin(tile / rows_.count);
    column_count_ = columns_.length(tile / rows_.count);
    bool first = true;
    for (int t = 0; t < p_.term_count; ++t) {
      const MatmulTerm& term = p_.terms[t];
      const Parts blocks(term.depth, kMaxChain, 1);
      for (int64_t i = 0; i < blocks.count; ++i, first = false) {
        const bool last = t == p_.term_count - 1 && i == blocks.count - 1;
        add_block(term, blocks.begin(i), blocks.length(i), first, last);
      }
    }
    if constexpr (!std::is_same_v<T, float>) {
      for (int64_t i = 0; i < row_count_; ++i) convert_row(sums_.data() + i * width_, result(i), column_count_);
    }
  }

 private:
  T* result(int64_t row) const { return static_cast<T*>(p_.result[row_ + row]) + column_; }

  void add_block(const MatmulTerm& term, int64_t begin, int64_t depth, bool first, bool last) {
    pack_left(term, begin, depth);
    pack_panels<T>(term.right + begin, depth, column_, column_count_, panels_.data());
    for (int64_t c = 0; c < column_count_; c += kPanel) {
      float* sums = sums_.data() + c;
      const auto finish = [=, this](int64_t row, int64_t vector, const Vec& sum) FASTVISION_INLINE {
        float* earlier = sums + row * width_ + vector * kLanes;
        const Vec total = first ? sum : Vec::loadu(earlier) + sum;
        if (std::is_same_v<T, float> && last) {
          store_result(row, c + vector * kLanes, total);
        } else {
          total.store(earlier);
        }
      };
      multiply_panel(left_.data(), depth, row_count_, panels_.data() + c * depth, depth, finish);
    }
  }

  void pack_left(const MatmulTerm& term, int64_t begin, int64_t depth) {
    const float* source = term.left + row_ * term.row_stride + begin * term.depth_stride;
    if (term.depth_stride == 1) {
      for (int64_t i = 0; i < row_count_; ++i) {
        std::memcpy(left_.data() + i * depth, source + i * term.row_stride, sizeof(float) * depth);
      }
    } else {
      transpose(source, term.depth_stride, depth, row_count_, left_.data(), depth);
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
  const Parts rows_, columns_;
  const int64_t width_;
  FloatScratch left_, panels_, sums_;
  int64_t row_ = 0, row_count_ = 0, column_ = 0, column_count_ = 0;
};

}  // namespace

void matmul(const Matmul& problem, Context& context) {
  const Parts rows(problem.rows, kTileRows, kMaxGemmRows), columns(problem.columns, kTileColumns, kPanel);
  visit_dtype(problem.dtype, [&]<class T>() {
    context.parallel_for(rows.count * columns.count, [&](int64_t begin, int64_t end) {
      if (begin == end) return;
      TileWorker<T> worker(problem, rows, columns);
      for (int64_t tile = begin; tile < end; ++tile) worker.run(tile);
    });
  });
}

}  // namespace fastvision
