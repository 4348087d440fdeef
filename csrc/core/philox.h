// Philox4x32-10, the counter-based generator of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (2011).
//
// The stream of fastvision's noise: element i of a tensor (in the order of its logical indices) depends on a seed, an
// offset, both 64 bits, and i, and on nothing else:
//
//   counter   word 0, 1 = i / 4 (the lower half first), word 2, 3 = offset
//   key       word 0, 1 = seed
//   numbers   words 0 and 1 of the result make elements 4 (i / 4) and 4 (i / 4) + 1, words 2 and 3 the next two
//             (core/normal.h)
//
// So a thread of CUDA that handles four neighbours needs one result and all of it, and a vector of counters needs one
// exchange of neighbouring lanes.
#pragma once

#include <cstdint>

#include "core/scalar_math.h"

namespace fastvision {

constexpr int kPhiloxRounds = 10;
constexpr uint32_t kPhiloxMultiplier0 = 0xD2511F53, kPhiloxMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kPhiloxKeyStep0 = 0x9E3779B9, kPhiloxKeyStep1 = 0xBB67AE85;

struct PhiloxWords {
  uint32_t word[4];
};

FASTVISION_HOST_DEVICE PhiloxWords philox(PhiloxWords counter, uint32_t key_low, uint32_t key_high) {
  uint32_t (&c)[4] = counter.word;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t first = uint64_t{kPhiloxMultiplier0} * c[0], second = uint64_t{kPhiloxMultiplier1} * c[2];
    c[0] = static_cast<uint32_t>(second >> 32) ^ c[1] ^ key_low;
    c[1] = static_cast<uint32_t>(second);
    c[2] = static_cast<uint32_t>(first >> 32) ^ c[3] ^ key_high;
    c[3] = static_cast<uint32_t>(first);
    key_low += kPhiloxKeyStep0;
    key_high += kPhiloxKeyStep1;
  }
  return counter;
}

// The random words of elements 4 quad to 4 quad + 3.
FASTVISION_HOST_DEVICE PhiloxWords philox(uint64_t seed, uint64_t offset, uint64_t quad) {
  const PhiloxWords counter{{static_cast<uint32_t>(quad), static_cast<uint32_t>(quad >> 32),
                             static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32)}};
  return philox(counter, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

}  // namespace fastvision
