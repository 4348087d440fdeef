#include "conv/cpu/unpool.h"

#include <cmath>

#include "core/scratch.h"
#include "core/simd.h"

namespace fastvision {
namespace {

int64_t floor_div(int64_t a, int64_t b) {
  return a / b - (a % b < 0);
}

// Indices of the pooling windows that touch convolution outputs [first, first + count).
struct WindowRange {
  int64_t begin, end;
};

WindowRange windows_over(int64_t first, int64_t count, int64_t kernel, int64_t stride, int64_t pad, int64_t size) {
  // Window i covers [i * stride - pad, i * stride - pad + kernel).
  const int64_t begin = floor_div(first + pad - kernel, stride) + 1;
  const int64_t end = floor_div(first + count - 1 + pad, stride) + 1;
  return {std::max<int64_t>(begin, 0), std::min(end, size)};
}

// One row of pooled gradients and their selection as fp32, [column][channel of the window].
struct GradientRow {
  float* gradients;
  float* codes;
  int64_t pixel;
};

void load_row(const ConvPool2d& p, const PooledGradient& from, int64_t image, int64_t y, const WindowRange& columns,
              const ConvWindow& window, const GradientRow& row) {
  const int64_t count = columns.end - columns.begin;
  load_gradients(p, from, {image, y, columns.begin, count, window.first_channel, window.channels}, row.gradients);
  if (!from.selection) return;
  const uint8_t* codes = selection_at(p, from, image, y, columns.begin) + window.first_channel;
  for (int64_t x = 0; x < count; ++x) {
    for (int64_t c = 0; c < window.channels; ++c) row.codes[x * row.pixel + c] = codes[x * p.out_channels + c];
  }
}

// Which part of a pooled gradient the element `tap` of its window gets.
Vec share(const ConvPool2d& p, const Vec& gradient, const Vec& code, int64_t tap, const Vec& divisor) {
  if (!needs_selection(p)) return gradient / divisor;
  if (p.pool != Pool::avg) return Vec::blendv(Vec(0.f), gradient, code == Vec(static_cast<float>(tap)));
  // Bit `tap` of the code: the quotient is odd where it is set.
  const Vec half = (code * Vec(std::ldexp(1.f, -static_cast<int>(tap)))).floor() * Vec(0.5f);
  return Vec::blendv(Vec(0.f), gradient / divisor, half != half.floor());
}

void add_share(const ConvPool2d& p, const float* gradient, const float* code, int64_t tap, int64_t divisor,
               int64_t channels, float* target) {
  const Vec by(static_cast<float>(divisor));
  int64_t c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    const Vec part = share(p, Vec::loadu(gradient + c), Vec::loadu(code + c), tap, by);
    (Vec::loadu(target + c) + part).store(target + c);
  }
  if (const int64_t rest = channels - c) {
    const Vec part = share(p, Vec::loadu(gradient + c, rest), Vec::loadu(code + c, rest), tap, by);
    (Vec::loadu(target + c, rest) + part).store(target + c, rest);
  }
}

// Spreads one pooled row over the window's rows.
void spread_row(const ConvPool2d& p, const GradientRow& row, int64_t y, const WindowRange& columns,
                const ConvWindow& window) {
  const bool has_codes = needs_selection(p);
  const PoolSpan rows = pool_span(y, p.pool_kernel_h, p.pool_stride_h, p.pool_pad_h, p.conv_h, p.count_include_pad);
  const int64_t first_row = std::max(rows.begin, window.first_row);
  const int64_t last_row = std::min(rows.end, window.first_row + window.rows);
  for (int64_t x = columns.begin; x < columns.end; ++x) {
    const PoolSpan span = pool_span(x, p.pool_kernel_w, p.pool_stride_w, p.pool_pad_w, p.conv_w, p.count_include_pad);
    const int64_t first_column = std::max(span.begin, window.first_column);
    const int64_t last_column = std::min(span.end, window.first_column + window.columns);
    const float* gradient = row.gradients + (x - columns.begin) * row.pixel;
    const float* code = has_codes ? row.codes + (x - columns.begin) * row.pixel : gradient;
    for (int64_t r = first_row; r < last_row; ++r) {
      const int64_t tap_row = rows.first_tap + r - rows.begin;
      for (int64_t c = first_column; c < last_column; ++c) {
        const int64_t tap = tap_row * p.pool_kernel_w + span.first_tap + c - span.begin;
        add_share(p, gradient, code, tap, rows.divisor * span.divisor, window.channels,
                  window.data + (r - window.first_row) * window.row_stride + (c - window.first_column) * window.pixel);
      }
    }
  }
}

template <class T>
const T* first_gradient(const ConvPool2d& p, const PooledGradient& from, const PooledPixels& at) {
  const ImageStrides& s = p.output_strides;
  return static_cast<const T*>(from.grad_output) + at.image * s.n + at.first_channel * s.c + at.row * s.h +
         at.first_column * s.w;
}

}  // namespace

void load_gradients(const ConvPool2d& p, const PooledGradient& from, const PooledPixels& at, float* target) {
  const ImageStrides& s = p.output_strides;
  visit_dtype(p.dtype, [&]<class T>() {
    const T* source = first_gradient<T>(p, from, at);
    if (s.c == 1) {
      for (int64_t x = 0; x < at.columns; ++x) convert_row(source + x * s.w, target + x * at.channels, at.channels);
    } else {
      transpose(source, s.c, at.channels, at.columns, target, at.channels);
    }
  });
}

void load_gradient_rows(const ConvPool2d& p, const PooledGradient& from, const PooledPixels& at, float* target,
                        int64_t stride) {
  const ImageStrides& s = p.output_strides;
  visit_dtype(p.dtype, [&]<class T>() {
    const T* source = first_gradient<T>(p, from, at);
    if (s.w == 1) {
      for (int64_t c = 0; c < at.channels; ++c) convert_row(source + c * s.c, target + c * stride, at.columns);
    } else {
      transpose(source, s.w, at.columns, at.channels, target, stride);
    }
  });
}

void unpool(const ConvPool2d& p, const PooledGradient& gradient, int64_t image, const ConvWindow& window) {
  const WindowRange rows =
      windows_over(window.first_row, window.rows, p.pool_kernel_h, p.pool_stride_h, p.pool_pad_h, p.out_h);
  const WindowRange columns =
      windows_over(window.first_column, window.columns, p.pool_kernel_w, p.pool_stride_w, p.pool_pad_w, p.out_w);
  if (columns.begin >= columns.end) return;
  const int64_t size = (columns.end - columns.begin) * window.channels;
  FloatScratch scratch(2 * size);
  const GradientRow row{scratch.data(), scratch.data() + size, window.channels};
  for (int64_t y = rows.begin; y < rows.end; ++y) {
    load_row(p, gradient, image, y, columns, window, row);
    spread_row(p, row, y, columns, window);
  }
}

}  // namespace fastvision
