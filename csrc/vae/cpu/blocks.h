// Tensors of any size and dtype as blocks of fp32 numbers in the first cache.
#pragma once

#include <algorithm>
#include <cstring>

#include "core/context.h"
#include "core/integers.h"
#include "core/vector_math.h"

namespace fastvision {

// Sums are fp32 within a block, in kSumLanes lanes whatever the vectors' width, and fp64 beyond, in the order of the
// blocks: the result depends on neither the instruction set nor the number of threads.
constexpr int64_t kBlock = 1024;
constexpr int64_t kSumLanes = 32;
constexpr int64_t kStep = 64;  // vectors are processed so many elements at a time
constexpr int64_t kVectors = kStep / kLanes;
constexpr int64_t kBlocksPerTask = 16;  // a task takes some 10 us

// f(v) for every vector of a step.
template <class F>
inline FASTVISION_INLINE void for_each_vector(F&& f) {
#if defined(CPU_CAPABILITY_AVX512) || defined(CPU_CAPABILITY_AVX2)
  unroll<kVectors>(f);
#else
  // Where a vector is many instructions, GCC puts no eight of them in line.
  for (int v = 0; v < kVectors; ++v) f(v);
#endif
}

inline int64_t blocks_of(int64_t elements) {
  return ceil_div(elements, kBlock);
}

// Room for one block of a tensor that is not read, or written, in place.
struct alignas(64) Buffer {
  float data[kBlock];
};

// A block of a tensor, converted into `buffer` where that is needed, with zeros after its end up to a full step.
template <class T>
const float* read_block(const void* tensor, int64_t first, int64_t count, Buffer& buffer) {
  const T* source = static_cast<const T*>(tensor) + first;
  if constexpr (std::is_same_v<T, float>) {
    if (count % kStep == 0) return source;
    std::memcpy(buffer.data, source, sizeof(float) * count);
  } else {
    convert_row(source, buffer.data, count);
  }
  std::fill(buffer.data + count, buffer.data + round_up(count, kStep), 0.f);
  return buffer.data;
}

// Where the block is to be written, before finish_block has it in its place. Null for a tensor that is not wanted.
template <class T>
float* begin_block(void* tensor, int64_t first, int64_t count, Buffer& buffer) {
  if constexpr (std::is_same_v<T, float>) {
    if (!tensor || count % kStep == 0) return tensor ? static_cast<float*>(tensor) + first : nullptr;
  }
  return tensor ? buffer.data : nullptr;
}

template <class T>
void finish_block(void* tensor, int64_t first, int64_t count, const Buffer& buffer) {
  if (!tensor) return;
  T* target = static_cast<T*>(tensor) + first;
  if constexpr (std::is_same_v<T, float>) {
    if (count % kStep != 0) std::memcpy(target, buffer.data, sizeof(float) * count);
  } else {
    convert_row(buffer.data, target, count);
  }
}

// body(block, first element, number of elements) for every block, on the threads at hand.
template <class Body>
void for_each_block(int64_t elements, Context& context, const Body& body) {
  context.parallel_for(ceil_div(blocks_of(elements), kBlocksPerTask), [&](int64_t begin, int64_t end) {
    const int64_t last = std::min(blocks_of(elements), end * kBlocksPerTask);
    for (int64_t block = begin * kBlocksPerTask; block < last; ++block) {
      body(block, block * kBlock, std::min(kBlock, elements - block * kBlock));
    }
  });
}

// The sum over a block.
class BlockSum {
 public:
  BlockSum() {
    unroll<kParts>([&](int i) FASTVISION_INLINE { parts_[i] = Vec(0.f); });
  }

  // The v-th vector of a step.
  FASTVISION_INLINE void add(int v, const Vec& values) { parts_[v % kParts] = parts_[v % kParts] + values; }

  FASTVISION_INLINE void add_square(int v, const Vec& values) {
    parts_[v % kParts] = VectorMath::fma(values, values, parts_[v % kParts]);
  }

  double total() const {
    float lanes[kSumLanes];
    for (int64_t i = 0; i < kParts; ++i) parts_[i].store(lanes + i * kLanes);
    double quarters[4]{};
    for (int64_t i = 0; i < kSumLanes; ++i) quarters[i % 4] += lanes[i];
    return (quarters[0] + quarters[1]) + (quarters[2] + quarters[3]);
  }

 private:
  static constexpr int64_t kParts = kSumLanes / kLanes;
  Vec parts_[kParts];
};

inline double sum_of_blocks(const double* sums, int64_t blocks) {
  double sum = 0;
  for (int64_t i = 0; i < blocks; ++i) sum += sums[i];
  return sum;
}

template <class T>
void store_one(void* target, double value) {
  *static_cast<T*>(target) = static_cast<T>(static_cast<float>(value));
}

template <class T>
float load_one(const void* source) {
  return static_cast<float>(*static_cast<const T*>(source));
}

}  // namespace fastvision
