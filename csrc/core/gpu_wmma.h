// nvcuda::wmma, the warp-wide matrix product, for the GPU emulator: 16x16x16 tiles of fp16 and
// bf16, 16x16x8 tiles of tf32, fp32 accumulators. Which lane holds which element is our choice,
// as CUDA leaves it open.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/gpu_convert.h"
#include "core/gpu_warp.h"

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

namespace precision {
struct tf32 {};
}  // namespace precision

// tf32 keeps 10 bits of the mantissa; rounds to nearest, ties away from zero, as cvt.rna does.
inline float __float_to_tf32(float f) {
  if (!std::isfinite(f)) return f;
  return std::bit_cast<float>((std::bit_cast<uint32_t>(f) + 0x1000) & ~0x1fffu);
}

namespace emulated {

using fastvision::gpu::emulator;
using fastvision::gpu::from_float;
using fastvision::gpu::kWarpSize;
using fastvision::gpu::Place;
using fastvision::gpu::to_float;
using fastvision::gpu::WarpOperation;

template <class Use, int M, int N, int K>
struct Shape;
template <int M, int N, int K>
struct Shape<matrix_a, M, N, K> {
  static constexpr int rows = M, columns = K;
};
template <int M, int N, int K>
struct Shape<matrix_b, M, N, K> {
  static constexpr int rows = K, columns = N;
};
template <int M, int N, int K>
struct Shape<accumulator, M, N, K> {
  static constexpr int rows = M, columns = N;
};

template <class T>
struct Storage {
  using type = T;
};
template <>
struct Storage<precision::tf32> {
  using type = float;
};

}  // namespace emulated

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment {
  static_assert(M == 16 && N == 16 && (K == 8 || K == 16), "the emulator has tiles of 16x16x16 and 16x16x8");
  using element_type = typename emulated::Storage<T>::type;
  static constexpr int rows = emulated::Shape<Use, M, N, K>::rows;
  static constexpr int columns = emulated::Shape<Use, M, N, K>::columns;
  static constexpr int num_elements = rows * columns / 32;

  // A register holds anything until it is written; here, NaN.
  fragment() {
    for (element_type& element : x)
      element = emulated::from_float<element_type>(std::numeric_limits<float>::quiet_NaN());
  }

  element_type x[num_elements];
};

namespace emulated {

// Where element i of a lane's fragment is in the tile.
template <class Fragment>
int row_of(int lane, int i) {
  return (i * kWarpSize + lane) / Fragment::columns;
}
template <class Fragment>
int column_of(int lane, int i) {
  return (i * kWarpSize + lane) % Fragment::columns;
}

struct MemoryOperand {
  const void* pointer;
  unsigned leading_dimension;
};

inline void complete_memory_access(WarpOperation::Operands& operands, unsigned) {
  const auto* first = static_cast<const MemoryOperand*>(operands[0]);
  for (void* operand : operands) {
    const auto* other = static_cast<const MemoryOperand*>(operand);
    if (other->pointer != first->pointer || other->leading_dimension != first->leading_dimension) {
      emulator.fail("the lanes of a warp give wmma different addresses or leading dimensions");
    }
  }
}

template <class T>
void check_memory_access(const T* pointer, unsigned leading_dimension, Place place) {
  MemoryOperand operand{pointer, leading_dimension};
  emulator.warp_operation({&complete_memory_access, 0xffffffffu, &operand}, place);
  if (reinterpret_cast<uintptr_t>(pointer) % 32 != 0) emulator.fail("a wmma address is not 32-byte aligned");
  if (leading_dimension * sizeof(T) % 16 != 0) {
    emulator.fail("a wmma leading dimension of %u elements is not a multiple of 16 bytes", leading_dimension);
  }
}

template <class A, class B, class Accumulator>
struct ProductOperand {
  Accumulator* result;
  const A* a;
  const B* b;
  const Accumulator* addend;
};

template <class Fragment>
void collect(float (&tile)[Fragment::rows][Fragment::columns], const Fragment& fragment, int lane) {
  for (int i = 0; i < Fragment::num_elements; ++i) {
    tile[row_of<Fragment>(lane, i)][column_of<Fragment>(lane, i)] = to_float(fragment.x[i]);
  }
}

template <class T, int Rows, int Columns>
void check_tf32(const float (&tile)[Rows][Columns]) {
  if constexpr (std::is_same_v<T, precision::tf32>) {
    for (const auto& row : tile) {
      for (float value : row) {
        if (std::isfinite(value) && (std::bit_cast<uint32_t>(value) & 0x1fff) != 0) {
          emulator.fail("mma_sync takes %.9g as tf32, which did not go through wmma::__float_to_tf32", value);
        }
      }
    }
  }
}

template <class T, class A, class B, class Accumulator>
void complete_product(WarpOperation::Operands& operands, unsigned) {
  float a[A::rows][A::columns], b[B::rows][B::columns], sum[16][16];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto* operand = static_cast<ProductOperand<A, B, Accumulator>*>(operands[lane]);
    collect(a, *operand->a, lane);
    collect(b, *operand->b, lane);
    collect(sum, *operand->addend, lane);
  }
  check_tf32<T>(a);
  check_tf32<T>(b);
  for (int m = 0; m < 16; ++m) {
    for (int k = 0; k < A::columns; ++k) {
      for (int n = 0; n < 16; ++n) sum[m][n] += a[m][k] * b[k][n];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    Accumulator& result = *static_cast<ProductOperand<A, B, Accumulator>*>(operands[lane])->result;
    for (int i = 0; i < Accumulator::num_elements; ++i) {
      result.x[i] = sum[row_of<Accumulator>(lane, i)][column_of<Accumulator>(lane, i)];
    }
  }
}

}  // namespace emulated

template <class Use, int M, int N, int K, class T, class Layout>
void fill_fragment(fragment<Use, M, N, K, T, Layout>& f,
                   typename fragment<Use, M, N, K, T, Layout>::element_type value) {
  for (auto& element : f.x) element = value;
}

template <class Use, int M, int N, int K, class T, class Layout>
void load_matrix_sync(fragment<Use, M, N, K, T, Layout>& f, const typename emulated::Storage<T>::type* pointer,
                      unsigned leading_dimension, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  using Fragment = fragment<Use, M, N, K, T, Layout>;
  emulated::check_memory_access(pointer, leading_dimension, {file, line});
  const int lane = emulated::emulator.current().lane();
  for (int i = 0; i < Fragment::num_elements; ++i) {
    const int row = emulated::row_of<Fragment>(lane, i), column = emulated::column_of<Fragment>(lane, i);
    const size_t ld = leading_dimension;
    f.x[i] = pointer[std::is_same_v<Layout, row_major> ? row * ld + column : column * ld + row];
  }
}

template <int M, int N, int K>
void store_matrix_sync(float* pointer, const fragment<accumulator, M, N, K, float>& f, unsigned leading_dimension,
                       layout_t layout, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  using Fragment = fragment<accumulator, M, N, K, float>;
  emulated::check_memory_access(pointer, leading_dimension, {file, line});
  const int lane = emulated::emulator.current().lane();
  for (int i = 0; i < Fragment::num_elements; ++i) {
    const int row = emulated::row_of<Fragment>(lane, i), column = emulated::column_of<Fragment>(lane, i);
    const size_t ld = leading_dimension;
    pointer[layout == mem_row_major ? row * ld + column : column * ld + row] = f.x[i];
  }
}

template <int M, int N, int K, class T, class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, M, N, K, float>& result, const fragment<matrix_a, M, N, K, T, LayoutA>& a,
              const fragment<matrix_b, M, N, K, T, LayoutB>& b, const fragment<accumulator, M, N, K, float>& addend,
              const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  using A = fragment<matrix_a, M, N, K, T, LayoutA>;
  using B = fragment<matrix_b, M, N, K, T, LayoutB>;
  using Accumulator = fragment<accumulator, M, N, K, float>;
  emulated::ProductOperand<A, B, Accumulator> operand{&result, &a, &b, &addend};
  emulated::emulator.warp_operation({&emulated::complete_product<T, A, B, Accumulator>, 0xffffffffu, &operand},
                                    {file, line});
}

}  // namespace nvcuda::wmma
