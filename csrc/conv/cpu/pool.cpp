#include "conv/cpu/pool.h"

#include <limits>

namespace fastvision {
namespace {

Vec relu(const Vec& x) {
  return max_keeping_second(Vec(0.f), x);
}

// ReLU stops what is not above zero; a NaN passes, as in threshold_backward.
Vec is_dead(const Vec& x) {
  return x <= Vec(0.f);
}

struct Window {
  PoolSpan rows, columns;
};

// The maximum of a window without NaN or infinity; false if it may have one.
bool finite_max_window(const ConvPool2d& p, const PoolInput& in, const Window& w, int64_t channel, float* output) {
  Vec best(-std::numeric_limits<float>::infinity());
  Vec suspect(0.f);
  for (int64_t r = 0; r < w.rows.end - w.rows.begin; ++r) {
    const float* row = in.rows[r] + w.columns.begin * in.pixel + channel;
    for (int64_t c = 0; c < w.columns.end - w.columns.begin; ++c) {
      const Vec value = Vec::loadu(row + c * in.pixel);
      best = max_keeping_second(best, value);
      suspect = suspect + value;
    }
  }
  (p.activation == Activation::relu ? relu(best) : best).store(output);
  return !suspect.has_inf_nan();
}

template <bool Select>
void max_window(const ConvPool2d& p, const PoolInput& in, const Window& w, int64_t channel, float* output,
                float* code) {
  Vec best(-std::numeric_limits<float>::infinity());
  Vec winner(static_cast<float>(w.rows.first_tap * p.pool_kernel_w + w.columns.first_tap));
  for (int64_t r = 0; r < w.rows.end - w.rows.begin; ++r) {
    const float* row = in.rows[r] + w.columns.begin * in.pixel + channel;
    for (int64_t c = 0; c < w.columns.end - w.columns.begin; ++c) {
      const Vec value = Vec::loadu(row + c * in.pixel);
      const Vec wins = (value > best) | (value != value);
      best = Vec::blendv(best, value, wins);
      if constexpr (Select) {
        const int64_t tap = (w.rows.first_tap + r) * p.pool_kernel_w + w.columns.first_tap + c;
        winner = Vec::blendv(winner, Vec(static_cast<float>(tap)), wins);
      }
    }
  }
  const bool has_relu = p.activation == Activation::relu;
  (has_relu ? relu(best) : best).store(output);
  if constexpr (Select) {
    (has_relu ? Vec::blendv(winner, Vec(static_cast<float>(kDead)), is_dead(best)) : winner).store(code);
  }
}

template <bool Select>
void avg_window(const ConvPool2d& p, const PoolInput& in, const Window& w, int64_t channel, float* output,
                float* code) {
  const bool has_relu = p.activation == Activation::relu;
  Vec sum(0.f);
  Vec alive(0.f);
  for (int64_t r = 0; r < w.rows.end - w.rows.begin; ++r) {
    const float* row = in.rows[r] + w.columns.begin * in.pixel + channel;
    for (int64_t c = 0; c < w.columns.end - w.columns.begin; ++c) {
      const Vec value = Vec::loadu(row + c * in.pixel);
      sum = sum + (has_relu ? relu(value) : value);
      if constexpr (Select) {
        const int64_t tap = (w.rows.first_tap + r) * p.pool_kernel_w + w.columns.first_tap + c;
        alive = alive + Vec::blendv(Vec(static_cast<float>(1 << tap)), Vec(0.f), is_dead(value));
      }
    }
  }
  (sum / Vec(static_cast<float>(w.rows.divisor * w.columns.divisor))).store(output);
  if constexpr (Select) alive.store(code);
}

template <bool Select>
void pool_row_of(const ConvPool2d& p, const PoolInput& in, int64_t vectors, const PooledRow& out) {
  for (int64_t x = 0; x < p.out_w; ++x) {
    const Window window{in.row_span,
                        pool_span(x, p.pool_kernel_w, p.pool_stride_w, p.pool_pad_w, p.conv_w, p.count_include_pad)};
    for (int64_t channel = 0; channel < vectors * kLanes; channel += kLanes) {
      float* value = out.values + x * out.value_pixel + channel;
      float* code = Select ? out.codes + x * out.code_pixel + channel : nullptr;
      if (p.pool == Pool::avg) {
        avg_window<Select>(p, in, window, channel, value, code);
      } else if (Select || !finite_max_window(p, in, window, channel, value)) {
        max_window<Select>(p, in, window, channel, value, code);  // no pool is the maximum over a window of one
      }
    }
  }
}

}  // namespace

void pool_row(const ConvPool2d& p, const PoolInput& input, int64_t vectors, const PooledRow& output) {
  if (output.codes) {
    pool_row_of<true>(p, input, vectors, output);
  } else {
    pool_row_of<false>(p, input, vectors, output);
  }
}

}  // namespace fastvision
