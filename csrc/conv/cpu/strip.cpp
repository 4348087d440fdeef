#include "conv/cpu/strip.h"

#include "core/simd.h"

namespace fastvision {
namespace {

// Columns [begin, end) of a strip row hold image columns, the first of them `first_in_image`; the others
// are padding. Negative padding crops: the adjoint of a padded convolution has it.
struct ColumnRange {
  int64_t begin, end, first_in_image;
};

ColumnRange columns_inside(const ConvPool2d& p, const DirectPlan& plan) {
  const int64_t begin = std::clamp<int64_t>(p.pad_left, 0, plan.strip_w);
  const int64_t end = std::clamp(p.pad_left + p.in_w, begin, plan.strip_w);
  return {begin, end, begin - p.pad_left};
}

template <class T>
void pack_planar_row(const ColumnRange& inside, int64_t strip_w, const T* row, float* target) {
  std::fill(target, target + inside.begin, 0.f);
  convert_row(row, target + inside.begin, inside.end - inside.begin);
  std::fill(target + inside.end, target + strip_w, 0.f);
}

template <class T>
void pack_interleaved_row(const ConvPool2d& p, const DirectPlan& plan, const ColumnRange& inside, const T* row,
                          float* target) {
  const int64_t channels = plan.group_in_channels;
  const int64_t columns = inside.end - inside.begin;
  std::fill(target, target + inside.begin * channels, 0.f);
  std::fill(target + inside.end * channels, target + plan.strip_w * channels, 0.f);
  float* first = target + inside.begin * channels;
  if (p.input_strides.w == 1 && channels > 1) {
    transpose(row, p.input_strides.c, channels, columns, first, channels);
  } else if (p.input_strides.w == channels) {
    convert_row(row, first, columns * channels);
  } else {
    for (int64_t x = 0; x < columns; ++x) convert_row(row + x * p.input_strides.w, first + x * channels, channels);
  }
}

template <class T>
void pack_strip_of(const ConvPool2d& p, const DirectPlan& plan, const T* image, int64_t first, int64_t rows,
                   float* strip) {
  const ColumnRange inside = columns_inside(p, plan);
  const bool planar = plan.order == InputOrder::planar;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t y = first + r - p.pad_top;
    const bool outside = y < 0 || y >= p.in_h;
    const T* row = image + y * p.input_strides.h + inside.first_in_image * p.input_strides.w;
    float* target = strip + r * plan.row_stride;
    if (planar) {
      for (int64_t c = 0; c < plan.group_in_channels; ++c) {
        float* plane = target + c * plan.channel_stride;
        if (outside) {
          std::fill(plane, plane + plan.strip_w, 0.f);
        } else {
          pack_planar_row(inside, plan.strip_w, row + c * p.input_strides.c, plane);
        }
      }
    } else if (outside) {
      std::fill(target, target + plan.row_stride, 0.f);
    } else {
      pack_interleaved_row(p, plan, inside, row, target);
    }
  }
}

}  // namespace

void ImageStrips::pack(int64_t image, int64_t group, int64_t first, int64_t rows, float* strip) const {
  visit_dtype(p_.dtype, [&]<class T>() {
    const T* origin = static_cast<const T*>(images_) + image * p_.input_strides.n +
                      group * plan_.group_in_channels * p_.input_strides.c;
    pack_strip_of(p_, plan_, origin, first, rows, strip);
  });
}

void GradientStrips::pack(int64_t image, int64_t group, int64_t first, int64_t rows, float* strip) const {
  std::fill_n(strip, rows * plan_.row_stride, 0.f);
  const ColumnRange columns = columns_inside(adjoint_, plan_);
  const int64_t first_row = std::clamp<int64_t>(first - adjoint_.pad_top, 0, p_.conv_h);
  const int64_t last_row = std::clamp<int64_t>(first + rows - adjoint_.pad_top, first_row, p_.conv_h);
  if (first_row == last_row || columns.begin == columns.end) return;
  const int64_t channels = plan_.group_in_channels;
  float* data = strip + (first_row + adjoint_.pad_top - first) * plan_.row_stride + columns.begin * channels;
  unpool(p_, gradient_, image,
         {data, first_row, last_row - first_row, columns.first_in_image, columns.end - columns.begin, group * channels,
          channels, plan_.row_stride, channels});
}

}  // namespace fastvision
