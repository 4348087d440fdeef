// The heart of the GPU emulator: runs the blocks of a grid one after another, and each block's
// threads as fibers that change over at barriers and warp operations. What a GPU answers with
// a hang or with silent garbage stops the program here, with kernel, block and source line.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
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
constexpr size_t kMaxStaticSharedBytes = 48 * 1024;

// A line of a kernel, for messages.
struct Place {
  const char* file = "";
  int line = 0;
};

enum class ThreadState { ready, at_block_barrier, at_warp_operation, exited };

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

  int lane() const { return rank % kWarpSize; }
  int warp() const { return rank / kWarpSize; }
};

// The order in which threads run between two barriers. A kernel must not depend on it.
enum class Schedule { forward, reverse, random };

inline Schedule schedule_from_environment() {
  const char* name = std::getenv("FASTVISION_EMULATOR_SCHEDULE");
  if (name == nullptr || std::strcmp(name, "forward") == 0) return Schedule::forward;
  if (std::strcmp(name, "reverse") == 0) return Schedule::reverse;
  if (std::strcmp(name, "random") == 0) return Schedule::random;
  std::fprintf(stderr, "FASTVISION_EMULATOR_SCHEDULE must be forward, reverse or random, not '%s'\n", name);
  std::abort();
}

class Emulator {
 public:
  Schedule schedule = schedule_from_environment();

  // Runs `kernel` once per thread. `name` is the launcher's __PRETTY_FUNCTION__.
  template <class Kernel>
  void launch(const char* name, dim3 grid, dim3 block, const Kernel& kernel) {
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    kernel_name_ = name;
    check_launch(grid, block);
    kernel_ = &kernel;
    call_ = [](const void* k) { (*static_cast<const Kernel*>(k))(); };
    run_grid(grid, block);
  }

  // The rest is called by kernels.

  GPU_EMULATOR_INTERNAL void synchronize_block(Place place) {
    char* event = &barrier_event_[barriers_passed_ % 2];
    race_detector::publish(event);
    wait(ThreadState::at_block_barrier, place);
    race_detector::observe(event);
  }

  GPU_EMULATOR_INTERNAL void warp_operation(const WarpOperation& operation, Place place) {
    if ((operation.mask >> current_->lane() & 1) == 0) {
      current_->place = place;
      fail("lane %d calls a warp operation with mask 0x%08x, which does not name it", current_->lane(), operation.mask);
    }
    current_->operation = operation;
    wait(ThreadState::at_warp_operation, place);
  }

  // Block-wide storage, one for each key: created by the first thread that asks, filled with NaN.
  GPU_EMULATOR_INTERNAL void* shared_variable(const void* key, size_t bytes, size_t alignment) {
    int i = 0;
    while (i < shared_count_ && shared_[i].key != key) ++i;
    if (i == shared_count_) {
      Fiber::enter_host_context();
      create_shared(key, bytes, alignment);
      Fiber::leave_host_context();
    }
    race_detector::observe(&shared_created_);
    return shared_[i].storage;
  }

  const EmulatedThread& current() const { return *current_; }

  [[noreturn]] __attribute__((format(printf, 2, 3))) void fail(const char* format, ...) const {
    std::fprintf(stderr, "GPU emulator: ");
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "\n  kernel %s, block (%u, %u, %u)\n", short_kernel_name().c_str(), blockIdx.x, blockIdx.y,
                 blockIdx.z);
    list_threads();
    std::fflush(stderr);
    std::abort();
  }

 private:
  struct SharedVariable {
    const void* key;
    void* storage;
  };

  void check_launch(dim3 grid, dim3 block) {
    block_threads_ = 0;
    blockIdx = {0, 0, 0};
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (threads == 0 || threads > kMaxBlockThreads || block.x > 1024 || block.y > 1024 || block.z > 64) {
      fail("bad launch: a block of (%u, %u, %u) threads; 1 to %d are possible, at most 64 in z", block.x, block.y,
           block.z, kMaxBlockThreads);
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
      fail("bad launch: a grid of (%u, %u, %u) blocks; possible are 1 to (2^31 - 1, 65535, 65535)", grid.x, grid.y,
           grid.z);
    }
  }

  void run_grid(dim3 grid, dim3 block) {
    gridDim = grid;
    blockDim = block;
    block_threads_ = static_cast<int>(block.x * block.y * block.z);
    host.race_context = race_detector::current();
    race_detector::publish(&launch_started_);
    race_detector::ignore_begin();
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) run_block({x, y, z});
      }
    }
    race_detector::ignore_end();
    race_detector::observe(&launch_ended_);
    for (void* storage : retired_shared_) std::free(storage);
    retired_shared_.clear();
  }

  void run_block(uint3 index) {
    blockIdx = index;
    ready_.clear();
    for (int rank = 0; rank < block_threads_; ++rank) prepare_thread(rank);
    waiting_ = exited_ = 0;
    for (int w = 0; w * kWarpSize < block_threads_; ++w) arrived_[w] = 0;
    while (exited_ < block_threads_) {
      if (ready_.empty()) fail_deadlock();
      batch_.swap(ready_);
      ready_.clear();
      reorder(batch_);
      for (int rank : batch_) run_thread(threads_[rank]);
    }
    release_block();
  }

  void prepare_thread(int rank) {
    EmulatedThread& thread = threads_[rank];
    thread.fiber = &fibers_[fiber_set_][rank];
    if (!thread.fiber->exists()) thread.fiber->create(&Emulator::thread_body, this, rank);
    const unsigned r = static_cast<unsigned>(rank);
    thread.index = {r % blockDim.x, r / blockDim.x % blockDim.y, r / (blockDim.x * blockDim.y)};
    thread.rank = rank;
    thread.state = ThreadState::ready;
    thread.place = {};
    ready_.push_back(rank);
  }

  void release_block() {
    for (int i = 0; i < shared_count_; ++i) {
      // ThreadSanitizer would take an early free for a race: the host learns only at the
      // end of the launch what the threads of this block did.
      if (race_detector::kActive) {
        retired_shared_.push_back(shared_[i].storage);
      } else {
        std::free(shared_[i].storage);
      }
    }
    shared_count_ = 0;
    shared_bytes_ = 0;
    if (race_detector::kActive) fiber_set_ ^= 1;
  }

  void run_thread(EmulatedThread& thread) {
    current_ = &thread;
    threadIdx = thread.index;
    thread.state = ThreadState::ready;
    thread.fiber->resume();
    if (thread.state == ThreadState::exited) {
      ++exited_;
      if (waiting_ > 0) fail("a thread exits while others of its block wait at __syncthreads");
    } else if (thread.state == ThreadState::at_block_barrier) {
      arrive_at_barrier(thread);
    } else {
      arrive_at_warp_operation(thread);
    }
  }

  GPU_EMULATOR_INTERNAL static void thread_body(void* self) {
    Emulator& emulator = *static_cast<Emulator*>(self);
    race_detector::observe(&emulator.launch_started_);
    emulator.call_(emulator.kernel_);
    race_detector::publish(&emulator.launch_ended_);
    emulator.current_->state = ThreadState::exited;
  }

  GPU_EMULATOR_INTERNAL void wait(ThreadState state, Place place) {
    current_->state = state;
    current_->place = place;
    Fiber::suspend();
  }

  void arrive_at_barrier(const EmulatedThread& thread) {
    if (exited_ > 0) fail("a thread waits at __syncthreads after others of its block have exited");
    if (++waiting_ < block_threads_) return;
    for (int rank = 0; rank < block_threads_; ++rank) {
      if (threads_[rank].place.line != thread.place.line) fail("threads of one block meet at different __syncthreads");
      ready_.push_back(rank);
    }
    waiting_ = 0;
    ++barriers_passed_;
  }

  void arrive_at_warp_operation(const EmulatedThread& thread) {
    const WarpOperation& operation = thread.operation;
    unsigned& arrived = arrived_[thread.warp()];
    arrived |= 1u << thread.lane();
    if ((arrived & operation.mask) != operation.mask) return;
    WarpOperation::Operands operands{};
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if ((operation.mask >> lane & 1) == 0) continue;
      EmulatedThread& other = threads_[thread.warp() * kWarpSize + lane];
      if (other.operation.mask != operation.mask) fail("lanes that meet in a warp operation name different masks");
      if (other.operation.complete != operation.complete || other.place.line != thread.place.line) {
        fail("lanes of one warp meet in different warp operations");
      }
      operands[lane] = other.operation.operand;
      ready_.push_back(other.rank);
    }
    arrived &= ~operation.mask;
    operation.complete(operands, operation.mask);
  }

  void create_shared(const void* key, size_t bytes, size_t alignment) {
    shared_bytes_ += bytes;
    if (shared_bytes_ > kMaxStaticSharedBytes) {
      fail("%zu bytes of shared memory; a block has %zu", shared_bytes_, kMaxStaticSharedBytes);
    }
    if (shared_count_ == kMaxSharedVariables) fail("more than %d shared variables", kMaxSharedVariables);
    void* storage = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    std::memset(storage, 0xff, bytes);  // a NaN in every floating-point type
    shared_[shared_count_++] = {key, storage};
    race_detector::publish(&shared_created_);
  }

  void reorder(std::vector<int>& ranks) {
    if (schedule == Schedule::reverse) {
      for (size_t i = 0, j = ranks.size(); i + 1 < j; ++i) std::swap(ranks[i], ranks[--j]);
    } else if (schedule == Schedule::random) {
      for (size_t i = ranks.size(); i > 1; --i) {
        random_ = random_ * 6364136223846793005u + 1442695040888963407u;
        std::swap(ranks[i - 1], ranks[(random_ >> 33) % i]);
      }
    }
  }

  [[noreturn]] void fail_deadlock() const {
    if (waiting_ > 0) fail("divergent barrier: not all threads of the block reach the same __syncthreads");
    fail("a warp operation waits for lanes in its mask that never arrive");
  }

  std::string short_kernel_name() const {
    const std::string name = kernel_name_;
    const size_t begin = name.find("Kernel = ");
    if (begin == std::string::npos) return name;
    const size_t end = name.find("; Arguments", begin);
    return name.substr(begin + 9, end == std::string::npos ? end : end - begin - 9);
  }

  void list_threads() const {
    static const char* const kStates[] = {"running", "waits at __syncthreads", "waits in a warp operation", "exited"};
    constexpr int kMaxLines = 8;
    for (int first = 0, lines = 0; first < block_threads_ && lines < kMaxLines; ++lines) {
      const EmulatedThread& thread = threads_[first];
      int last = first;
      while (last + 1 < block_threads_ && threads_[last + 1].state == thread.state &&
             threads_[last + 1].place.line == thread.place.line) {
        ++last;
      }
      std::fprintf(stderr, "  threads %d-%d: %s", first, last, kStates[static_cast<int>(thread.state)]);
      if (thread.place.line != 0) std::fprintf(stderr, ", last at %s:%d", thread.place.file, thread.place.line);
      std::fprintf(stderr, "\n");
      first = last + 1;
    }
  }

  static constexpr int kMaxSharedVariables = 32;

  std::mutex mutex_;
  const char* kernel_name_ = "";
  const void* kernel_ = nullptr;
  void (*call_)(const void*) = nullptr;

  EmulatedThread threads_[kMaxBlockThreads];
  // ThreadSanitizer sees one order in what one fiber does. Blocks have none, so they take turns with two sets.
  Fiber fibers_[2][kMaxBlockThreads];
  int fiber_set_ = 0;
  EmulatedThread* current_ = nullptr;
  int block_threads_ = 0, waiting_ = 0, exited_ = 0;
  unsigned barriers_passed_ = 0;
  unsigned arrived_[kMaxBlockThreads / kWarpSize] = {};  // lanes that wait in a warp operation
  std::vector<int> ready_, batch_;
  uint64_t random_ = 1;

  SharedVariable shared_[kMaxSharedVariables] = {};
  int shared_count_ = 0;
  size_t shared_bytes_ = 0;
  std::vector<void*> retired_shared_;  // under ThreadSanitizer, until the launch ends

  // Addresses by which ThreadSanitizer knows events. Two barrier events take turns: a thread that
  // is already at the next barrier must not appear to have come before one that has yet to leave this one.
  char launch_started_ = 0, launch_ended_ = 0, shared_created_ = 0, barrier_event_[2] = {};
};

inline Emulator emulator;

}  // namespace fastvision::gpu
