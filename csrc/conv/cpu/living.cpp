#include "conv/cpu/living.h"

#include <cstring>

namespace fastvision {
namespace {

constexpr int64_t kSquare = sizeof(uint64_t);

// Swaps the upper bytes of one word of a pair with the lower ones of the other.
template <int Shift, uint64_t LowerBytes>
void swap_bytes(uint64_t& first, uint64_t& second) {
  const uint64_t change = ((first >> Shift) ^ second) & LowerBytes;
  second ^= change;
  first ^= change << Shift;
}

// Byte j of word i becomes byte i of word j: quarters, then their quarters, then bytes.
void transpose_bytes(uint64_t (&words)[kSquare]) {
  for (int i = 0; i < 4; ++i) swap_bytes<32, 0x00000000ffffffff>(words[i], words[i + 4]);
  for (int i : {0, 1, 4, 5}) swap_bytes<16, 0x0000ffff0000ffff>(words[i], words[i + 2]);
  for (int i : {0, 2, 4, 6}) swap_bytes<8, 0x00ff00ff00ff00ff>(words[i], words[i + 1]);
}

}  // namespace

void transpose_codes(const uint8_t* codes, int64_t pixel_stride, int64_t pixels, int64_t channels, uint8_t* target,
                     int64_t target_stride) {
  for (int64_t x = 0; x < target_stride; x += kSquare) {
    const int64_t columns = std::clamp<int64_t>(pixels - x, 0, kSquare);
    for (int64_t c = 0; c < channels; c += kSquare) {
      const int64_t rows = std::min(kSquare, channels - c);
      uint64_t words[kSquare];
      std::memset(words, kDead, sizeof words);
      for (int64_t i = 0; i < columns; ++i) {
        std::memcpy(&words[i], codes + (x + i) * pixel_stride + c, static_cast<size_t>(rows));
      }
      transpose_bytes(words);
      for (int64_t i = 0; i < rows; ++i) std::memcpy(target + (c + i) * target_stride + x, &words[i], kSquare);
    }
  }
}

bool all_finite(const float* values, int64_t count) {
  constexpr int kSums = 4;
  Vec sums[kSums];
  unroll<kSums>([&](int i) FASTVISION_INLINE { sums[i] = Vec(0.f); });
  int64_t at = 0;
  for (; at + kSums * kLanes <= count; at += kSums * kLanes) {
    unroll<kSums>([&](int i) FASTVISION_INLINE {
      sums[i] = at::vec::fmadd(Vec::loadu(values + at + i * kLanes), Vec(0.f), sums[i]);
    });
  }
  for (; at < count; at += kLanes) {
    sums[0] = at::vec::fmadd(Vec::loadu(values + at, std::min(kLanes, count - at)), Vec(0.f), sums[0]);
  }
  unroll<kSums - 1>([&](int i) FASTVISION_INLINE { sums[0] = sums[0] + sums[i + 1]; });
  return !sums[0].has_inf_nan();
}

}  // namespace fastvision
