// Small kernels, each right as it stands and wrong in one way when its bug is switched on.
// tests/test_cuda.py shows that the emulator passes the first and catches the second.
//
//   seeded_bugs clean        runs every kernel without its bug
//   seeded_bugs <bug>        runs that kernel with its bug; "wrong result" (exit 1) where nothing else stops it
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/gpu.h"

namespace {

using fastvision::gpu::launch;
using fastvision::gpu::launch_together;
using fastvision::gpu::synchronize_grid;
namespace wmma = nvcuda::wmma;

constexpr int kThreads = 64;
constexpr unsigned kAllLanes = 0xffffffffu;

using Row = float[kThreads];

enum class Slip { none, before_read, after_read };

// Reverses each of `rows` rows through shared memory.
template <Slip slip>
__global__ void reverse_rows(const float* in, float* out, int rows) {
  GPU_SHARED(Row, row);
  const int t = static_cast<int>(threadIdx.x);
  for (int i = 0; i < rows; ++i) {
    row[t] = in[i * kThreads + t];
    if (slip != Slip::before_read) __syncthreads();
    out[i * kThreads + t] = row[kThreads - 1 - t];
    if (slip != Slip::after_read) __syncthreads();
  }
}

template <Slip slip>
bool run_reverse_rows() {
  constexpr int kRows = 3;
  std::vector<float> in(kRows * kThreads), out(in.size());
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
  launch<reverse_rows<slip>>(dim3(1), dim3(kThreads), nullptr, in.data(), out.data(), kRows);
  for (int i = 0; i < kRows; ++i) {
    for (int t = 0; t < kThreads; ++t) {
      if (out[i * kThreads + t] != in[i * kThreads + kThreads - 1 - t]) return false;
    }
  }
  return true;
}

template <bool bug>
__global__ void shift_in_shared(float* data) {
  GPU_SHARED(Row, row);
  const int t = static_cast<int>(threadIdx.x);
  const int to = bug ? t + 1 : (t + 1) % kThreads;
  row[to] = data[t];
  __syncthreads();
  data[t] = row[t];
}

template <bool bug>
bool run_shared_bounds() {
  std::vector<float> data(kThreads, 1.0f);
  launch<shift_in_shared<bug>>(dim3(1), dim3(kThreads), nullptr, data.data());
  return data[1] == 1.0f;
}

template <bool bug>
__global__ void double_all(float* data, int n) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (bug || i < n) data[i] *= 2;
}

template <bool bug>
bool run_global_bounds() {
  std::vector<float> data(kThreads + 1, 1.0f);
  launch<double_all<bug>>(dim3(2), dim3(kThreads), nullptr, data.data(), static_cast<int>(data.size()));
  return data.back() == 2.0f;
}

enum class Barrier { right, skipped, divergent, after_exit, two_places };

template <Barrier barrier>
__global__ void meet(float* out) {
  const int t = static_cast<int>(threadIdx.x);
  if (barrier == Barrier::after_exit && t == 7) return;
  if (barrier == Barrier::two_places && t < 32) {
    __syncthreads();
  } else if (barrier == Barrier::divergent && t % 2 == 0) {
    __syncwarp();
  } else if (barrier != Barrier::skipped || t < 32) {
    __syncthreads();
  }
  out[t] = 1.0f;
}

template <Barrier barrier>
bool run_barrier() {
  std::vector<float> out(kThreads);
  launch<meet<barrier>>(dim3(1), dim3(kThreads), nullptr, out.data());
  return out[7] == 1.0f;
}

enum class Mask { right, without_caller, without_source, unequal, absent_lane };

template <Mask mask>
__global__ void sum_half_warps(float* data) {
  const int lane = static_cast<int>(threadIdx.x);
  float value = data[lane];
  unsigned lanes = kAllLanes;
  if (mask == Mask::without_caller) lanes = 0x0000ffffu;
  if (mask == Mask::without_source) lanes = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  if (mask == Mask::unequal && lane == 3) lanes = 0x0000ffffu;
  if (mask == Mask::absent_lane && lane == 5) return;
  const int first_distance = mask == Mask::without_source ? 16 : 8;
  for (int distance = first_distance; distance > 0; distance /= 2) value += __shfl_xor_sync(lanes, value, distance);
  data[lane] = value;
}

template <Mask mask>
bool run_shuffle() {
  std::vector<float> data(32, 1.0f);
  launch<sum_half_warps<mask>>(dim3(1), dim3(32), nullptr, data.data());
  return data[0] == 16.0f && data[31] == 16.0f;
}

// Several threads of a block meet in one counter.
template <bool bug>
__global__ void histogram(const int* values, int* counts) {
  using Counts = int[4];
  GPU_SHARED(Counts, local);
  const int t = static_cast<int>(threadIdx.x);
  if (t < 4) local[t] = 0;
  __syncthreads();
  if (bug) {
    ++local[values[t]];
  } else {
    atomicAdd(&local[values[t]], 1);
  }
  __syncthreads();
  if (t < 4) atomicAdd(&counts[t], local[t]);
}

template <bool bug>
bool run_shared_update() {
  std::vector<int> values(kThreads), counts(4);
  for (int t = 0; t < kThreads; ++t) values[t] = t % 4;
  launch<histogram<bug>>(dim3(2), dim3(kThreads), nullptr, values.data(), counts.data());
  return counts[3] == 2 * kThreads / 4;
}

// The first threads of several blocks meet in one sum.
template <bool bug>
__global__ void count_blocks(float* sum) {
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (bug) {
    *sum += 1.0f;
  } else {
    atomicAdd(sum, 1.0f);
  }
}

template <bool bug>
bool run_global_update() {
  float sum = 0;
  launch<count_blocks<bug>>(dim3(3), dim3(kThreads), nullptr, &sum);
  return sum == 3.0f;
}

// Lanes pass values through shared memory; a vote in between keeps time, but orders no memory.
template <bool bug>
__global__ void rotate_warp(float* data) {
  using Lanes = float[32];
  GPU_SHARED(Lanes, lanes);
  const int lane = static_cast<int>(threadIdx.x);
  lanes[lane] = data[lane];
  if (bug) {
    (void)__any_sync(kAllLanes, lane == 0);
  } else {
    __syncwarp();
  }
  data[lane] = lanes[(lane + 1) % 32];
}

template <bool bug>
bool run_warp_order() {
  std::vector<float> data(32);
  for (int lane = 0; lane < 32; ++lane) data[lane] = static_cast<float>(lane);
  launch<rotate_warp<bug>>(dim3(1), dim3(32), nullptr, data.data());
  return data[0] == 1.0f && data[31] == 0.0f;
}

template <bool bug>
__global__ void sum_in_shared(float* out) {
  GPU_SHARED(Row, row);
  const int t = static_cast<int>(threadIdx.x);
  if (!bug || t != 9) row[t] = 1.0f;
  __syncthreads();
  float sum = 0;
  for (float value : row) sum += value;
  out[t] = sum;
}

template <bool bug>
bool run_shared_init() {
  std::vector<float> out(kThreads);
  launch<sum_in_shared<bug>>(dim3(1), dim3(kThreads), nullptr, out.data());
  return out[0] == static_cast<float>(kThreads);
}

enum class Tile { right, unaligned, odd_stride, unequal, diverged, unfilled, unrounded };

struct alignas(32) Tiles {
  float a[16 * 16], b[16 * 16], product[16 * 16];
};

template <Tile tile>
__global__ void multiply_tile(Tiles* tiles) {
  wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::col_major> b;
  wmma::fragment<wmma::accumulator, 16, 16, 8, float> sum;
  const int lane = static_cast<int>(threadIdx.x);
  if (tile != Tile::unfilled) wmma::fill_fragment(sum, 0.0f);
  if (tile == Tile::diverged && lane < 4) return;
  const int offset = tile == Tile::unaligned || (tile == Tile::unequal && lane == 4) ? 1 : 0;
  wmma::load_matrix_sync(a, tiles->a + offset, tile == Tile::odd_stride ? 15 : 16);
  wmma::load_matrix_sync(b, tiles->b, 16);
  for (float& value : b.x) value = tile == Tile::unrounded ? value : wmma::__float_to_tf32(value);
  wmma::mma_sync(sum, a, b, sum);
  wmma::store_matrix_sync(tiles->product, sum, 16, wmma::mem_row_major);
}

template <Tile tile>
bool run_tile() {
  Tiles tiles;
  for (int i = 0; i < 256; ++i) {
    tiles.a[i] = static_cast<float>(i % 7);
    tiles.b[i] = 1.1f * static_cast<float>(i % 5);
  }
  launch<multiply_tile<tile>>(dim3(1), dim3(32), nullptr, &tiles);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      float expected = 0;
      for (int k = 0; k < 8; ++k) {
        expected += tiles.a[row * 16 + k] * wmma::__float_to_tf32(tiles.b[column * 16 + k]);
      }
      if (!(std::fabs(tiles.product[row * 16 + column] - expected) < 1e-3f)) return false;
    }
  }
  return true;
}

template <int bytes>
__global__ void fill_shared(float* out) {
  using Buffer = float[bytes / 4];
  GPU_SHARED(Buffer, buffer);
  buffer[threadIdx.x] = 1.0f;
  out[threadIdx.x] = buffer[threadIdx.x];
}

template <int bytes>
bool run_shared_size() {
  std::vector<float> out(kThreads);
  launch<fill_shared<bytes>>(dim3(1), dim3(kThreads), nullptr, out.data());
  return out[0] == 1.0f;
}

bool run_launch(dim3 grid, dim3 block) {
  std::vector<float> data(2 * kThreads, 1.0f);
  launch<double_all<false>>(grid, block, nullptr, data.data(), static_cast<int>(data.size()));
  return data[0] == 2.0f;
}

enum class Grid { right, no_barrier, one_block_leaves, blocks_apart };

// Each block takes what the next one has written, twice.
template <Grid slip>
__global__ void pass_round(int* values, int* seen, unsigned* arrivals) {
  const unsigned block = blockIdx.x, next = (block + 1) % gridDim.x;
  if (slip == Grid::one_block_leaves && block == 1) return;
  for (unsigned round = 1; round <= 2; ++round) {
    if (threadIdx.x == 0) values[round * gridDim.x + block] = static_cast<int>(round * 10 + block);
    if (slip != Grid::no_barrier) synchronize_grid(arrivals, round);
    if (threadIdx.x == 0) seen[block] = values[round * gridDim.x + next];
  }
}

template <Grid slip>
bool run_pass_round() {
  constexpr int kBlocks = 3;
  int values[3 * kBlocks] = {}, seen[kBlocks] = {};
  unsigned arrivals = 0;
  if (slip == Grid::blocks_apart) {
    launch<pass_round<slip>>(dim3(kBlocks), dim3(kThreads), nullptr, &values[0], &seen[0], &arrivals);
  } else {
    launch_together<pass_round<slip>>(dim3(kBlocks), dim3(kThreads), nullptr, &values[0], &seen[0], &arrivals);
  }
  for (int i = 0; i < kBlocks; ++i) {
    if (seen[i] != 20 + (i + 1) % kBlocks) return false;
  }
  return true;
}

template <int kBlocks>
bool run_blocks_together() {
  std::vector<int> values(3 * kBlocks), seen(kBlocks);
  unsigned arrivals = 0;
  launch_together<pass_round<Grid::right>>(dim3(kBlocks), dim3(kThreads), nullptr, values.data(), seen.data(),
                                           &arrivals);
  return seen[0] == 21;
}

struct Case {
  const char* bug;
  bool (*clean)();
  bool (*seeded)();
};

const Case kCases[] = {
    {"barrier_missing_before_read", run_reverse_rows<Slip::none>, run_reverse_rows<Slip::before_read>},
    {"barrier_missing_after_read", run_reverse_rows<Slip::none>, run_reverse_rows<Slip::after_read>},
    {"shared_out_of_bounds", run_shared_bounds<false>, run_shared_bounds<true>},
    {"global_out_of_bounds", run_global_bounds<false>, run_global_bounds<true>},
    {"barrier_skipped", run_barrier<Barrier::right>, run_barrier<Barrier::skipped>},
    {"barrier_divergent", run_barrier<Barrier::right>, run_barrier<Barrier::divergent>},
    {"barrier_after_exit", run_barrier<Barrier::right>, run_barrier<Barrier::after_exit>},
    {"barrier_in_two_places", run_barrier<Barrier::right>, run_barrier<Barrier::two_places>},
    {"mask_without_caller", run_shuffle<Mask::right>, run_shuffle<Mask::without_caller>},
    {"mask_without_source", run_shuffle<Mask::right>, run_shuffle<Mask::without_source>},
    {"mask_unequal", run_shuffle<Mask::right>, run_shuffle<Mask::unequal>},
    {"mask_names_absent_lane", run_shuffle<Mask::right>, run_shuffle<Mask::absent_lane>},
    {"shared_update_not_atomic", run_shared_update<false>, run_shared_update<true>},
    {"global_update_not_atomic", run_global_update<false>, run_global_update<true>},
    {"syncwarp_missing", run_warp_order<false>, run_warp_order<true>},
    {"shared_uninitialised", run_shared_init<false>, run_shared_init<true>},
    {"wmma_unaligned", run_tile<Tile::right>, run_tile<Tile::unaligned>},
    {"wmma_odd_stride", run_tile<Tile::right>, run_tile<Tile::odd_stride>},
    {"wmma_unequal_addresses", run_tile<Tile::right>, run_tile<Tile::unequal>},
    {"wmma_diverged", run_tile<Tile::right>, run_tile<Tile::diverged>},
    {"wmma_unfilled", run_tile<Tile::right>, run_tile<Tile::unfilled>},
    {"wmma_unrounded_tf32", run_tile<Tile::right>, run_tile<Tile::unrounded>},
    {"grid_barrier_missing", run_pass_round<Grid::right>, run_pass_round<Grid::no_barrier>},
    {"grid_barrier_left_out_by_block", run_pass_round<Grid::right>, run_pass_round<Grid::one_block_leaves>},
    {"grid_barrier_of_blocks_apart", run_pass_round<Grid::right>, run_pass_round<Grid::blocks_apart>},
    {"grid_too_large_to_wait", run_blocks_together<64>, run_blocks_together<65>},
    {"shared_too_large", run_shared_size<48 * 1024>, run_shared_size<48 * 1024 + 4>},
    {"block_too_large", [] { return run_launch(dim3(1), dim3(64)); }, [] { return run_launch(dim3(1), dim3(64, 32)); }},
    {"grid_empty", [] { return run_launch(dim3(2), dim3(64)); }, [] { return run_launch(dim3(0), dim3(64)); }},
};

bool report(const char* name, bool right) {
  if (!right) std::printf("%s: wrong result\n", name);
  return right;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  bool known = false, right = true;
  for (const Case& c : kCases) {
    if (std::strcmp(arguments[1], "clean") == 0) {
      known = true;
      right &= report(c.bug, c.clean());
    } else if (std::strcmp(arguments[1], c.bug) == 0) {
      known = true;
      right &= report(c.bug, c.seeded());
    }
  }
  return known ? !right : 2;
}
