// A block of the GPU emulator: its threads, what they wait for, its shared memory.
#pragma once

#include <cstddef>
#include <vector>

#include "core/gpu_fiber.h"

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// CUDA's built-in variables, those of the thread that is running.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace fastvision::gpu {

constexpr int kWarpSize = 32;
constexpr int kMaxBlockThreads = 1024;
constexpr int kMaxSharedVariables = 32;
constexpr size_t kMaxStaticSharedBytes = 48 * 1024;

// A line of a kernel, for messages.
struct Place {
  const char* file = "";
  int line = 0;
};

enum class ThreadState { ready, at_block_barrier, at_grid_barrier, at_warp_operation, exited };

// What the lanes in a mask do together. When the last of them arrives, `complete` acts for all
// on their operands, indexed by lane, null for a lane outside the mask.
struct WarpOperation {
  using Operands = void* [kWarpSize];
  void (*complete)(Operands& operands, unsigned mask) = nullptr;
  unsigned mask = 0;
  void* operand = nullptr;
};

struct EmulatedThread {
  Fiber* fiber = nullptr;
  uint3 index{};
  int rank = 0;  // linear index in the block
  ThreadState state = ThreadState::exited;
  Place place;
  WarpOperation operation;
  char warp_event[2] = {};  // ThreadSanitizer's names of what __syncwarp announces, in turn
  unsigned warp_turn = 0;

  int lane() const { return rank % kWarpSize; }
  int warp() const { return rank / kWarpSize; }
};

struct SharedVariable {
  const void* key;
  void* storage;
};

struct EmulatedBlock {
  uint3 index{};
  std::vector<EmulatedThread> threads;
  std::vector<int> ready;
  int at_block_barrier = 0, at_grid_barrier = 0, exited = 0;  // threads
  unsigned barriers_passed = 0;
  unsigned arrived[kMaxBlockThreads / kWarpSize] = {};  // lanes that wait in a warp operation

  SharedVariable shared[kMaxSharedVariables] = {};
  int shared_count = 0;
  size_t shared_bytes = 0;

  // Addresses by which ThreadSanitizer knows events. Two barrier events take turns: a thread that
  // is already at the next barrier must not appear to have come before one that has yet to leave this one.
  char shared_created = 0, barrier_event[2] = {};

  bool is_suspended() const { return exited + at_grid_barrier == static_cast<int>(threads.size()); }
};

}  // namespace fastvision::gpu
