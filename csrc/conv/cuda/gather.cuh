// Global memory to shared memory: how a block fetches the next step of A and B. load() fills
// registers, store() empties them into a shared tile, so that a load is under way while the
// block multiplies.
#pragma once

#include "conv/cuda/tile.cuh"

namespace fastvision::conv_cuda {

// How A is fetched from an image.
enum class Gather {
  single,       // element by element, whatever the strides; neighbouring threads take neighbouring rows
  along_depth,  // 16 bytes of one row: the depth runs over channels, which are adjacent
  along_rows,   // 16 bytes of one step of the depth: the rows run over channels, which are adjacent
};

// The shared tile of A is [depth][row], except where tensor cores can take the vectors as they come: [row][depth].
template <class Math, Gather gather>
struct TileA {
  using Element = typename Math::Element;
  static constexpr bool kRowMajor = Math::kTensorCores && gather == Gather::along_depth;
  static constexpr int kLines = kRowMajor ? kTileRows : kTileDepth<Math>;
  static constexpr int kStride = (kRowMajor ? kTileDepth<Math> : kTileRows) + kPadding<Element>;
  alignas(32) Element data[kLines * kStride];
};

template <class Math, int kColumns>
struct TileB {
  using Element = typename Math::Element;
  static constexpr int kStride = kColumns + kPadding<Element>;
  alignas(32) Element data[kTileDepth<Math> * kStride];
};

template <class Math>
__device__ __forceinline__ void store_vector(typename Math::Element* to, const Vector<typename Math::Element>& from) {
  Vector<typename Math::Element> prepared;
#pragma unroll
  for (int j = 0; j < prepared.kSize; ++j) prepared.lane[j] = prepare<Math>(from.lane[j]);
  *reinterpret_cast<Vector<typename Math::Element>*>(to) = prepared;
}

// The vector at base + offset, or zeros.
template <class Element>
__device__ __forceinline__ Vector<Element> load_vector(const void* base, int64_t offset, bool valid) {
  if (!valid) {
    Vector<Element> zeros;
#pragma unroll
    for (int j = 0; j < zeros.kSize; ++j) zeros.lane[j] = gpu::from_float<Element>(0.0f);
    return zeros;
  }
  return *reinterpret_cast<const Vector<Element>*>(static_cast<const Element*>(base) + offset);
}

// Fetches A from an image. `rows` are the anchors of the tile's rows, in shared memory; the depth is
// that of `walk` from `begin` to `end`.
template <class Math, Gather gather>
class GatherA;

template <class Math>
class GatherA<Math, Gather::single> {
  using Element = typename Math::Element;
  using Tile = TileA<Math, Gather::single>;

 public:
  __device__ GatherA(const Image& image, const Walk& walk, int64_t begin, int64_t end, const Anchor* rows)
      : image_(image), depth_(walk, begin, end), row_(rows[threadIdx.x]) {}

  __device__ __forceinline__ void load() {
#pragma unroll
    for (int k = 0; k < kTileDepth<Math>; ++k) {
      const Anchor step = depth_.anchor();
      values_[k] = image_.contains(row_, step) ? static_cast<const Element*>(image_.data)[row_.offset + step.offset]
                                               : gpu::from_float<Element>(0.0f);
      depth_.advance(1);
    }
  }

  __device__ __forceinline__ void store(Tile& tile) const {
#pragma unroll
    for (int k = 0; k < kTileDepth<Math>; ++k) {
      tile.data[k * Tile::kStride + static_cast<int>(threadIdx.x)] = prepare<Math>(values_[k]);
    }
  }

 private:
  const Image& image_;
  Walker depth_;
  Anchor row_;
  Element values_[kTileDepth<Math>];
};

template <class Math>
class GatherA<Math, Gather::along_depth> {
  using Element = typename Math::Element;
  using Tile = TileA<Math, Gather::along_depth>;
  static constexpr int kVectorsPerRow = kDepthBytes / kVectorBytes;
  static constexpr int kRowsPerPass = kThreads / kVectorsPerRow;
  static constexpr int kPasses = kTileRows / kRowsPerPass;

 public:
  __device__ GatherA(const Image& image, const Walk& walk, int64_t begin, int64_t end, const Anchor* rows)
      : image_(image), rows_(rows), depth_(walk, begin + first_depth(), end) {}

  __device__ __forceinline__ void load() {
    const Anchor step = depth_.anchor();
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const Anchor row = rows_[row_of(pass)];
      values_[pass] = load_vector<Element>(image_.data, row.offset + step.offset, image_.contains(row, step));
    }
    depth_.advance(kTileDepth<Math>);
  }

  __device__ __forceinline__ void store(Tile& tile) const {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      if constexpr (Tile::kRowMajor) {
        store_vector<Math>(&tile.data[row_of(pass) * Tile::kStride + first_depth()], values_[pass]);
      } else {
#pragma unroll
        for (int j = 0; j < Vector<Element>::kSize; ++j) {
          tile.data[(first_depth() + j) * Tile::kStride + row_of(pass)] = prepare<Math>(values_[pass].lane[j]);
        }
      }
    }
  }

 private:
  static __device__ int first_depth() {
    return static_cast<int>(threadIdx.x) % kVectorsPerRow * Vector<Element>::kSize;
  }
  static __device__ int row_of(int pass) {
    return static_cast<int>(threadIdx.x) / kVectorsPerRow + pass * kRowsPerPass;
  }

  const Image& image_;
  const Anchor* rows_;
  Walker depth_;
  Vector<Element> values_[kPasses];
};

template <class Math>
class GatherA<Math, Gather::along_rows> {
  using Element = typename Math::Element;
  using Tile = TileA<Math, Gather::along_rows>;
  static constexpr int kVectorsPerLine = kTileRows / Vector<Element>::kSize;
  static constexpr int kLinesPerPass = kThreads / kVectorsPerLine;
  static constexpr int kPasses = kTileDepth<Math> / kLinesPerPass;

 public:
  __device__ GatherA(const Image& image, const Walk& walk, int64_t begin, int64_t end, const Anchor* rows)
      : image_(image), depth_(walk, begin + first_line(), end), row_(rows[first_row()]) {}

  __device__ __forceinline__ void load() {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const Anchor step = depth_.anchor();
      values_[pass] = load_vector<Element>(image_.data, row_.offset + step.offset, image_.contains(row_, step));
      depth_.advance(kLinesPerPass);
    }
  }

  __device__ __forceinline__ void store(Tile& tile) const {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int line = first_line() + pass * kLinesPerPass;
      store_vector<Math>(&tile.data[line * Tile::kStride + first_row()], values_[pass]);
    }
  }

 private:
  static __device__ int first_row() { return static_cast<int>(threadIdx.x) % kVectorsPerLine * Vector<Element>::kSize; }
  static __device__ int first_line() { return static_cast<int>(threadIdx.x) / kVectorsPerLine; }

  const Image& image_;
  Walker depth_;
  Anchor row_;
  Vector<Element> values_[kPasses];
};

// B: a dense row-major matrix whose row stride is a multiple of the vector size.
struct Matrix {
  const void* data;
  int64_t row_stride;
};

template <class Math, int kColumns>
class LoadB {
  using Element = typename Math::Element;
  using Tile = TileB<Math, kColumns>;
  static constexpr int kVectorsPerLine = kColumns / Vector<Element>::kSize;
  static constexpr int kLinesPerPass = kThreads / kVectorsPerLine;
  static constexpr int kPasses = kTileDepth<Math> / kLinesPerPass;

 public:
  __device__ LoadB(const Matrix& matrix, int64_t begin, int64_t end, int first_column)
      : next_(static_cast<const Element*>(matrix.data) + begin * matrix.row_stride + first_column),
        row_stride_(matrix.row_stride),
        lines_(first_column + column_in_tile() < matrix.row_stride ? static_cast<int>(end - begin) : 0) {}

  __device__ __forceinline__ void load() {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int line = first_line() + pass * kLinesPerPass;
      values_[pass] = load_vector<Element>(next_, line * row_stride_ + column_in_tile(), line < lines_);
    }
    next_ += kTileDepth<Math> * row_stride_;
    lines_ -= kTileDepth<Math>;
  }

  __device__ __forceinline__ void store(Tile& tile) const {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int line = first_line() + pass * kLinesPerPass;
      store_vector<Math>(&tile.data[line * Tile::kStride + column_in_tile()], values_[pass]);
    }
  }

 private:
  static __device__ int first_line() { return static_cast<int>(threadIdx.x) / kVectorsPerLine; }
  static __device__ int column_in_tile() {
    return static_cast<int>(threadIdx.x) % kVectorsPerLine * Vector<Element>::kSize;
  }

  const Element* next_;
  const int64_t& row_stride_;
  int lines_;  // left, none where the column is beyond the matrix
  Vector<Element> values_[kPasses];
};

}  // namespace fastvision::conv_cuda
