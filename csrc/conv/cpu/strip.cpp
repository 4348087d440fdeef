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

// The rows of a strip that hold image rows, the first of them `first_in_image`; the others are padding.
struct RowsInside {
  int64_t begin, end, first_in_image;
};

RowsInside rows_inside(const ConvPool2d& p, int64_t first, int64_t rows) {
  const int64_t begin = std::clamp<int64_t>(p.pad_top - first, 0, rows);
  const int64_t end = std::clamp(p.pad_top + p.in_h - first, begin, rows);
  return {begin, end, first + begin - p.pad_top};
}

template <class T>
void pack_planar(const ConvPool2d& p, const DirectPlan& plan, const ColumnRange& columns, const RowsInside& rows,
                 int64_t row_count, const T* image, float* strip) {
  for (int64_t c = 0; c < plan.group_in_channels; ++c) {
    float* plane = strip + c * plan.channel_stride;
    std::fill(plane, plane + rows.begin * plan.strip_w, 0.f);
    std::fill(plane + rows.end * plan.strip_w, plane + row_count * plan.strip_w, 0.f);
    for (int64_t r = rows.begin; r < rows.end; ++r) {
      pack_planar_row(columns, plan.strip_w, image + c * p.input_strides.c + (r - rows.begin) * p.input_strides.h,
                      plane + r * plan.strip_w);
    }
  }
}

template <class T>
void pack_interleaved_row(const ConvPool2d& p, const DirectPlan& plan, int64_t columns, const T* row, float* target) {
  const int64_t channels = plan.group_in_channels;
  if (p.input_strides.w == channels && plan.pixel == channels) return convert_row(row, target, columns * channels);
  for (int64_t x = 0; x < columns; ++x) convert_row(row + x * p.input_strides.w, target + x * plan.pixel, channels);
}

template <class T>
void pack_interleaved(const ConvPool2d& p, const DirectPlan& plan, const ColumnRange& columns, const RowsInside& rows,
                      int64_t row_count, const T* image, float* strip) {
  const int64_t channels = plan.group_in_channels;
  std::fill(strip, strip + rows.begin * plan.row_stride, 0.f);
  std::fill(strip + rows.end * plan.row_stride, strip + row_count * plan.row_stride, 0.f);
  for (int64_t r = rows.begin; r < rows.end; ++r) {
    float* row = strip + r * plan.row_stride;
    std::fill(row, row + columns.begin * plan.pixel, 0.f);
    std::fill(row + columns.end * plan.pixel, row + plan.row_stride, 0.f);
  }
  const int64_t count = columns.end - columns.begin;
  float* first = strip + rows.begin * plan.row_stride + columns.begin * plan.pixel;
  const bool planes = p.input_strides.w == 1 && channels > 1;
  // A few planes at a time: the rows of each follow each other in memory, and the processor likes long streams.
  const int64_t channels_at_once = planes ? kLanes : channels;
  for (int64_t c = 0; c < channels; c += channels_at_once) {
    for (int64_t r = 0; r < rows.end - rows.begin; ++r) {
      const T* row = image + c * p.input_strides.c + r * p.input_strides.h;
      float* target = first + r * plan.row_stride + c;
      if (planes) {
        transpose(row, p.input_strides.c, std::min(kLanes, channels - c), count, target, plan.pixel);
      } else {
        pack_interleaved_row(p, plan, count, row, target);
      }
    }
  }
}

template <class T>
void pack_strip_of(const ConvPool2d& p, const DirectPlan& plan, const T* image, int64_t first, int64_t row_count,
                   float* strip) {
  const ColumnRange columns = columns_inside(p, plan);
  const RowsInside rows = rows_inside(p, first, row_count);
  const T* origin = image + rows.first_in_image * p.input_strides.h + columns.first_in_image * p.input_strides.w;
  const auto pack = plan.order == InputOrder::planar ? pack_planar<T> : pack_interleaved<T>;
  pack(p, plan, columns, rows, row_count, origin, strip);
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
