// Shared memory to sums: a block's tile of the product, in registers (F32) or in the fragments of
// the tensor cores, and the pipeline that feeds it.
#pragma once

#include "conv/cuda/gather.cuh"

namespace fastvision::conv_cuda {

// One slice of the sums in shared memory, rows or columns adjacent.
struct SliceLayout {
  int row_stride, column_stride;

  static constexpr int kRowMajorStride = kSliceColumns + 4;  // 4 floats of padding against bank conflicts
  static constexpr int kColumnMajorStride = kTileRows + 4;
  static constexpr int kElements = kTileRows * kRowMajorStride;
  static_assert(kElements >= kSliceColumns * kColumnMajorStride);

  static __device__ SliceLayout of(bool columns_adjacent) {
    return columns_adjacent ? SliceLayout{kRowMajorStride, 1} : SliceLayout{1, kColumnMajorStride};
  }
};

template <class Math, Gather gather, int kColumns, bool kTensorCores = Math::kTensorCores>
class Sums;

// Each thread owns two groups of 4 rows, 64 apart, and one group of 4 columns in each slice. The error of one
// long chain of additions grows with its length, so the sum is kept in two levels.
template <class Math, Gather gather, int kColumns>
class Sums<Math, gather, kColumns, false> {
  static constexpr int kSlices = kColumns / kSliceColumns;
  static constexpr int kGroup = 4;
  static constexpr int kColumnGroups = kSliceColumns / kGroup;
  static constexpr int kRowGroups = 2;
  static constexpr int kRowGroupDistance = kTileRows / kRowGroups;
  static_assert(kThreads == kColumnGroups * kRowGroupDistance / kGroup);

 public:
  __device__ Sums() {
#pragma unroll
    for (int i = 0; i < kRowGroups * kGroup; ++i) {
#pragma unroll
      for (int j = 0; j < kSlices * kGroup; ++j) total_[i][j] = sum_[i][j] = 0.0f;
    }
  }

  // Ends a chain of additions.
  __device__ __forceinline__ void cut() {
#pragma unroll
    for (int i = 0; i < kRowGroups * kGroup; ++i) {
#pragma unroll
      for (int j = 0; j < kSlices * kGroup; ++j) {
        total_[i][j] += sum_[i][j];
        sum_[i][j] = 0.0f;
      }
    }
  }

  __device__ __forceinline__ void multiply(const TileA<Math, gather>& a, const TileB<Math, kColumns>& b) {
#pragma unroll
    for (int k = 0; k < kTileDepth<Math>; ++k) {
      Vector<float> left[kRowGroups], right[kSlices];
#pragma unroll
      for (int i = 0; i < kRowGroups; ++i) {
        left[i] = group(&a.data[k * TileA<Math, gather>::kStride + first_row() + i * kRowGroupDistance]);
      }
#pragma unroll
      for (int j = 0; j < kSlices; ++j) {
        right[j] = group(&b.data[k * TileB<Math, kColumns>::kStride + j * kSliceColumns + first_column()]);
      }
#pragma unroll
      for (int i = 0; i < kRowGroups * kGroup; ++i) {
#pragma unroll
        for (int j = 0; j < kSlices * kGroup; ++j) {
          sum_[i][j] = fmaf(left[i / kGroup].lane[i % kGroup], right[j / kGroup].lane[j % kGroup], sum_[i][j]);
        }
      }
    }
  }

  template <int slice>
  __device__ __forceinline__ void store_slice(float* results, SliceLayout layout) const {
#pragma unroll
    for (int i = 0; i < kRowGroups * kGroup; ++i) {
      const int row = first_row() + i / kGroup * kRowGroupDistance + i % kGroup;
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        results[row * layout.row_stride + (first_column() + j) * layout.column_stride] = total_[i][slice * kGroup + j];
      }
    }
  }

 private:
  static __device__ int first_row() { return static_cast<int>(threadIdx.x) / kColumnGroups * kGroup; }
  static __device__ int first_column() { return static_cast<int>(threadIdx.x) % kColumnGroups * kGroup; }
  static __device__ __forceinline__ Vector<float> group(const float* p) {
    return *reinterpret_cast<const Vector<float>*>(p);
  }

  float sum_[kRowGroups * kGroup][kSlices * kGroup];
  float total_[kRowGroups * kGroup][kSlices * kGroup];
};

// Each warp owns 32 rows and all columns.
template <class Math, Gather gather, int kColumns>
class Sums<Math, gather, kColumns, true> {
  static constexpr int kTile = 16;
  static constexpr int kDepth = Math::kFragmentDepth;
  static constexpr int kRowTiles = kTileRows / kWarps / kTile;
  static constexpr int kColumnTiles = kColumns / kTile;
  static constexpr int kColumnTilesPerSlice = kSliceColumns / kTile;
  using A = TileA<Math, gather>;
  using B = TileB<Math, kColumns>;
  using LayoutA = std::conditional_t<A::kRowMajor, nvcuda::wmma::row_major, nvcuda::wmma::col_major>;
  using FragmentA =
      nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, kTile, kTile, kDepth, typename Math::Factor, LayoutA>;
  using FragmentB = nvcuda::wmma::fragment<nvcuda::wmma::matrix_b, kTile, kTile, kDepth, typename Math::Factor,
                                           nvcuda::wmma::row_major>;
  using FragmentSum = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, kTile, kTile, kDepth, float>;

 public:
  __device__ Sums() {
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) nvcuda::wmma::fill_fragment(sum_[i][j], 0.0f);
    }
  }

  // The rounding of the factors outweighs that of the sum.
  __device__ __forceinline__ void cut() {}

  __device__ __forceinline__ void multiply(const A& a, const B& b) {
#pragma unroll 1  // more of it in flight does not fit the registers
    for (int k = 0; k < kTileDepth<Math>; k += kDepth) {
      FragmentA left[kRowTiles];
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        const int row = first_row() + i * kTile;
        const int at = A::kRowMajor ? row * A::kStride + k : k * A::kStride + row;
        nvcuda::wmma::load_matrix_sync(left[i], &a.data[at], A::kStride);
      }
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        FragmentB right;
        nvcuda::wmma::load_matrix_sync(right, &b.data[k * B::kStride + j * kTile], B::kStride);
#pragma unroll
        for (int i = 0; i < kRowTiles; ++i) nvcuda::wmma::mma_sync(sum_[i][j], left[i], right, sum_[i][j]);
      }
    }
  }

  template <int slice>
  __device__ __forceinline__ void store_slice(float* results, SliceLayout layout) const {
    const bool rows_adjacent = layout.row_stride == 1;
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
      for (int j = 0; j < kColumnTilesPerSlice; ++j) {
        float* corner = results + (first_row() + i * kTile) * layout.row_stride + j * kTile * layout.column_stride;
        nvcuda::wmma::store_matrix_sync(corner, sum_[i][slice * kColumnTilesPerSlice + j],
                                        rows_adjacent ? layout.column_stride : layout.row_stride,
                                        rows_adjacent ? nvcuda::wmma::mem_col_major : nvcuda::wmma::mem_row_major);
      }
    }
  }

 private:
  static __device__ int first_row() { return static_cast<int>(threadIdx.x) / 32 * (kTileRows / kWarps); }

  FragmentSum sum_[kRowTiles][kColumnTiles];
};

template <class Math, Gather gather, int kColumns>
struct Tiles {
  TileA<Math, gather> a[2];
  TileB<Math, kColumns> b[2];
};

constexpr int kTilesPerCut = 4;

// Resident blocks that the registers of a kernel have to suffice for.
template <class Math, int kColumns>
constexpr int kBlocksPerMultiprocessor = !Math::kTensorCores && kColumns > kSliceColumns ? 2 : 3;

// Computes `depth` steps of the product. Every thread of the block calls it.
template <class Math, Gather gather, int kColumns>
__device__ __forceinline__ void multiply_all(GatherA<Math, gather>& a, LoadB<Math, kColumns>& b, int64_t depth,
                                             Tiles<Math, gather, kColumns>& tiles, Sums<Math, gather, kColumns>& sums) {
  a.load();
  b.load();
  a.store(tiles.a[0]);
  b.store(tiles.b[0]);
  __syncthreads();
  int current = 0;
  int since_cut = 0;
  for (int64_t done = kTileDepth<Math>; done < depth; done += kTileDepth<Math>) {
    a.load();
    b.load();
    sums.multiply(tiles.a[current], tiles.b[current]);
    if (++since_cut == kTilesPerCut) {
      sums.cut();
      since_cut = 0;
    }
    current ^= 1;
    a.store(tiles.a[current]);
    b.store(tiles.b[current]);
    __syncthreads();
  }
  sums.multiply(tiles.a[current], tiles.b[current]);
  sums.cut();
}

// Calls epilogue(first_column, results, layout) for each slice of the tile that has one of `columns` columns.
template <int slice = 0, class Math, Gather gather, int kColumns, class Epilogue>
__device__ __forceinline__ void for_each_slice(const Sums<Math, gather, kColumns>& sums, int first_column, int columns,
                                               float* results, SliceLayout layout, const Epilogue& epilogue) {
  if constexpr (slice < kColumns / kSliceColumns) {
    if (first_column + slice * kSliceColumns >= columns) return;
    __syncthreads();  // what was in `results` has been read
    sums.template store_slice<slice>(results, layout);
    __syncthreads();
    epilogue(first_column + slice * kSliceColumns, results, layout);
    for_each_slice<slice + 1>(sums, first_column, columns, results, layout, epilogue);
  }
}

}  // namespace fastvision::conv_cuda
