#include "conv/cpu/output.h"

#include "core/simd.h"

namespace fastvision {

bool OutputBlock::is_written_in_place() const {
  return p_.dtype == DType::f32 && p_.output_strides.c == 1 && channels_ % kLanes == 0;
}

PooledRow OutputBlock::row(int64_t y, float* values, float* codes) const {
  if (!selection_) codes = nullptr;
  if (is_written_in_place()) return {static_cast<float*>(output_) + offset(y), p_.output_strides.w, codes, pixel_};
  return {values, pixel_, codes, pixel_};
}

void OutputBlock::prefetch(int64_t y) const {
  if (p_.output_strides.w != 1) return;
  constexpr int64_t kCacheLine = 64;
  const int64_t size = size_of(p_.dtype);
  for (int64_t c = 0; c < channels_; ++c) {
    const char* row = static_cast<const char*>(output_) + (offset(y) + c * p_.output_strides.c) * size;
    for (int64_t byte = 0; byte < p_.out_w * size; byte += kCacheLine) __builtin_prefetch(row + byte, 1);
  }
}

void OutputBlock::emit(int64_t y, const PooledRow& row) const {
  if (!is_written_in_place()) emit_values(row.values, offset(y));
  if (finish_.is_needed()) finish_values(offset(y));
  if (row.codes) emit_codes(row.codes, y);
}

void OutputBlock::emit_values(const float* values, int64_t at) const {
  visit_dtype(p_.dtype, [&]<class T>() {
    T* output = static_cast<T*>(output_) + at;
    if (p_.output_strides.c == 1) {
      for (int64_t x = 0; x < p_.out_w; ++x) {
        convert_row(values + x * pixel_, output + x * p_.output_strides.w, channels_);
      }
    } else {
      transpose(values, pixel_, p_.out_w, channels_, output, p_.output_strides.c);
    }
  });
}

void OutputBlock::finish_values(int64_t at) const {
  char* output = static_cast<char*>(output_) + at * size_of(p_.dtype);
  const bool planes = p_.output_strides.w == 1;
  const int64_t rows = planes ? channels_ : p_.out_w, count = planes ? p_.out_w : channels_;
  const int64_t stride = (planes ? p_.output_strides.c : p_.output_strides.w) * size_of(p_.dtype);
  for (int64_t i = 0; i < rows; ++i) finish_(output + i * stride, count);
}

void OutputBlock::emit_codes(const float* codes, int64_t y) const {
  uint8_t* selection = selection_ + ((image_ * p_.out_h + y) * p_.out_w) * p_.out_channels + first_channel_;
  for (int64_t x = 0; x < p_.out_w; ++x) {
    for (int64_t c = 0; c < channels_; ++c) {
      selection[x * p_.out_channels + c] = static_cast<uint8_t>(codes[x * pixel_ + c]);
    }
  }
}

}  // namespace fastvision
