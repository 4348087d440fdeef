// CUDA's barriers, warp shuffles, votes and atomics over the GPU emulator.
#pragma once

#include "core/gpu_scheduler.h"

namespace fastvision::gpu {

// The place of the caller: default arguments are evaluated where the function is called.
#define GPU_CALLER const char *file = __builtin_FILE(), int line = __builtin_LINE()

template <class T>
struct ShuffleOperand {
  T value;
  int source;  // lane to read from
};

template <class T>
void complete_shuffle(WarpOperation::Operands& operands, unsigned mask) {
  T values[kWarpSize];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (operands[lane] != nullptr) values[lane] = static_cast<ShuffleOperand<T>*>(operands[lane])->value;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (operands[lane] == nullptr) continue;
    auto* operand = static_cast<ShuffleOperand<T>*>(operands[lane]);
    if ((mask >> operand->source & 1) == 0) {
      emulator.fail("lane %d reads by shuffle from lane %d, which mask 0x%08x does not name", lane, operand->source,
                    mask);
    }
    operand->value = values[operand->source];
  }
}

template <class T>
GPU_EMULATOR_INTERNAL T shuffle(unsigned mask, T value, int source, Place place) {
  ShuffleOperand<T> operand{value, source};
  emulator.warp_operation({&complete_shuffle<T>, mask, &operand}, place);
  return operand.value;
}

inline void check_shuffle_width(int width) {
  if (width < 1 || width > kWarpSize || (width & (width - 1)) != 0) {
    emulator.fail("shuffle width %d is not a power of two up to %d", width, kWarpSize);
  }
}

// The lane a shuffle reads: `target` counts inside the segment of `width` lanes; one that falls outside reads itself.
inline int lane_in_segment(int target, int width) {
  check_shuffle_width(width);
  const int lane = emulator.current().lane();
  return target < 0 || target >= width ? lane : lane / width * width + target;
}

inline void complete_ballot(WarpOperation::Operands& operands, unsigned) {
  unsigned result = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (operands[lane] != nullptr) result |= *static_cast<unsigned*>(operands[lane]) << lane;
  }
  for (void* operand : operands) {
    if (operand != nullptr) *static_cast<unsigned*>(operand) = result;
  }
}

// __syncwarp orders memory, which shuffles and votes do not. Each thread announces what it has done
// through one of two events, in turn, and afterwards observes those of all lanes in the mask.
struct SyncOperand {
  char* event;
  char* observed[kWarpSize];
};

inline void complete_sync(WarpOperation::Operands& operands, unsigned) {
  for (void* to : operands) {
    if (to == nullptr) continue;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      static_cast<SyncOperand*>(to)->observed[lane] =
          operands[lane] == nullptr ? nullptr : static_cast<SyncOperand*>(operands[lane])->event;
    }
  }
}

GPU_EMULATOR_INTERNAL inline void synchronize_warp(unsigned mask, Place place) {
  EmulatedThread& mine = emulator.current();
  SyncOperand operand;
  operand.event = &mine.warp_event[mine.warp_turn++ % 2];
  race_detector::publish(operand.event);
  emulator.warp_operation({&complete_sync, mask, &operand}, place);
  for (char* event : operand.observed) {
    if (event != nullptr) race_detector::observe(event);
  }
}

}  // namespace fastvision::gpu

inline void __syncthreads(GPU_CALLER) {
  fastvision::gpu::emulator.synchronize_block({file, line});
}

inline void __syncwarp(unsigned mask = 0xffffffffu, GPU_CALLER) {
  fastvision::gpu::synchronize_warp(mask, {file, line});
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, GPU_CALLER) {
  fastvision::gpu::check_shuffle_width(width);
  return fastvision::gpu::shuffle(mask, value, fastvision::gpu::lane_in_segment(source & (width - 1), width),
                                  {file, line});
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, GPU_CALLER) {
  const int in_segment = fastvision::gpu::emulator.current().lane() & (width - 1);
  return fastvision::gpu::shuffle(
      mask, value, fastvision::gpu::lane_in_segment(in_segment - static_cast<int>(delta), width), {file, line});
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, GPU_CALLER) {
  const int in_segment = fastvision::gpu::emulator.current().lane() & (width - 1);
  return fastvision::gpu::shuffle(
      mask, value, fastvision::gpu::lane_in_segment(in_segment + static_cast<int>(delta), width), {file, line});
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, GPU_CALLER) {
  const int in_segment = fastvision::gpu::emulator.current().lane() & (width - 1);
  return fastvision::gpu::shuffle(mask, value, fastvision::gpu::lane_in_segment(in_segment ^ lane_mask, width),
                                  {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, GPU_CALLER) {
  unsigned vote = predicate != 0;
  fastvision::gpu::emulator.warp_operation({&fastvision::gpu::complete_ballot, mask, &vote}, {file, line});
  return vote;
}

inline int __any_sync(unsigned mask, int predicate, GPU_CALLER) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, GPU_CALLER) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

// As on the GPU, atomics are atomic and order nothing else.
inline int atomicAdd(int* address, int value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

inline unsigned atomicAdd(unsigned* address, unsigned value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

inline float atomicAdd(float* address, float value) {
  float old;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  for (;;) {
    float sum = old + value;
    if (__atomic_compare_exchange(address, &old, &sum, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return old;
  }
}

#undef GPU_CALLER
