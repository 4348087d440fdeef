// The heart of the GPU emulator: runs the blocks of a grid one after another, or together where they wait for each
// other, and each block's threads as fibers that change over at barriers and warp operations. What a GPU answers with
// a hang or with silent garbage stops the program here, with kernel, block and source line.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/gpu_block.h"

namespace fastvision::gpu {

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
  // Blocks that can wait for each other: as many as leave the process with enough memory maps for their stacks.
  static constexpr int kMaxResidentBlocks = 64;

  Schedule schedule = schedule_from_environment();

  // Runs `kernel` once per thread. `name` is the launcher's __PRETTY_FUNCTION__. Only with `together` may the blocks
  // wait for each other. Returns null, or what the kernel complained of first.
  template <class Kernel>
  const char* launch(const char* name, dim3 grid, dim3 block, bool together, const Kernel& kernel) {
    const std::lock_guard<std::mutex> one_at_a_time(mutex_);
    kernel_name_ = name;
    check_launch(grid, block, together);
    kernel_ = &kernel;
    call_ = [](const void* k) { (*static_cast<const Kernel*>(k))(); };
    complaint_ = nullptr;
    run_grid(grid, block, together);
    return complaint_;
  }

  // The rest is called by kernels.

  GPU_EMULATOR_INTERNAL void synchronize_block(Place place) {
    char* event = &block_->barrier_event[block_->barriers_passed % 2];
    race_detector::publish(event);
    wait(ThreadState::at_block_barrier, place);
    race_detector::observe(event);
  }

  GPU_EMULATOR_INTERNAL void synchronize_grid(Place place) {
    if (!together_) {
      current_->place = place;
      fail("synchronize_grid in a launch whose blocks need not run at the same time; launch_together makes them");
    }
    char* event = &grid_event_[grid_barriers_passed_ % 2];
    race_detector::publish(event);
    wait(ThreadState::at_grid_barrier, place);
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
    while (i < block_->shared_count && block_->shared[i].key != key) ++i;
    if (i == block_->shared_count) {
      Fiber::enter_host_context();
      create_shared(key, bytes, alignment);
      Fiber::leave_host_context();
    }
    race_detector::observe(&block_->shared_created);
    return block_->shared[i].storage;
  }

  GPU_EMULATOR_INTERNAL void complain(const char* message) {
    if (complaint_ == nullptr) complaint_ = message;
  }

  EmulatedThread& current() { return *current_; }

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
  void check_launch(dim3 grid, dim3 block, bool together) {
    block_ = nullptr;
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
    if (together && uint64_t{grid.x} * grid.y * grid.z > kMaxResidentBlocks) {
      fail("bad launch: (%u, %u, %u) blocks that wait for each other; at most %d run at the same time", grid.x, grid.y,
           grid.z, kMaxResidentBlocks);
    }
  }

  void run_grid(dim3 grid, dim3 block, bool together) {
    gridDim = grid;
    blockDim = block;
    together_ = together;
    host.race_context = race_detector::current();
    race_detector::publish(&launch_started_);
    race_detector::ignore_begin();
    size_t count = 0;
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          if (together) {
            start_block(count, count, {x, y, z});
            ++count;
          } else {
            // ThreadSanitizer sees one order in what one fiber does. Blocks have none, so they take turns with two
            // sets.
            if (race_detector::kActive) fiber_set_ ^= 1;
            start_block(0, fiber_set_, {x, y, z});
            run_block();
            end_block();
          }
        }
      }
    }
    if (together) run_together(count);
    race_detector::ignore_end();
    race_detector::observe(&launch_ended_);
    for (void* storage : retired_shared_) std::free(storage);
    retired_shared_.clear();
  }

  // Runs all blocks up to their next barrier of the grid, until they have exited.
  void run_together(size_t count) {
    for (;;) {
      size_t waiting = 0, threads = 0;
      for (size_t b = 0; b < count; ++b) {
        select_block(b);
        run_block();
        waiting += block_->at_grid_barrier;
        threads += block_->threads.size();
      }
      if (waiting == 0) break;
      if (waiting < threads) fail("a thread exits while others of its grid wait at synchronize_grid");
      ++grid_barriers_passed_;
      for (size_t b = 0; b < count; ++b) {
        blocks_[b].at_grid_barrier = 0;
        for (const EmulatedThread& thread : blocks_[b].threads) blocks_[b].ready.push_back(thread.rank);
      }
    }
    for (size_t b = 0; b < count; ++b) {
      select_block(b);
      end_block();
    }
  }

  void select_block(size_t number) {
    block_ = &blocks_[number];
    blockIdx = block_->index;
  }

  void start_block(size_t number, size_t fiber_set, uint3 index) {
    while (blocks_.size() <= number) blocks_.emplace_back();
    while (fibers_.size() <= fiber_set) fibers_.emplace_back(kMaxBlockThreads);
    EmulatedBlock& block = blocks_[number];
    block.index = index;
    select_block(number);
    block.at_block_barrier = block.at_grid_barrier = block.exited = 0;
    for (unsigned& arrived : block.arrived) arrived = 0;
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    block.ready.clear();
    block.threads.resize(threads);
    for (unsigned rank = 0; rank < threads; ++rank) {
      Fiber& fiber = fibers_[fiber_set][rank];
      if (!fiber.exists()) fiber.create(&Emulator::thread_body, this, static_cast<int>(rank));
      EmulatedThread& thread = block.threads[rank];
      thread.fiber = &fiber;
      thread.index = {rank % blockDim.x, rank / blockDim.x % blockDim.y, rank / (blockDim.x * blockDim.y)};
      thread.rank = static_cast<int>(rank);
      thread.state = ThreadState::ready;
      thread.place = {};
      block.ready.push_back(thread.rank);
    }
  }

  // Until all its threads have exited or wait for the grid.
  void run_block() {
    while (!block_->is_suspended()) {
      if (block_->ready.empty()) fail_deadlock();
      batch_.swap(block_->ready);
      block_->ready.clear();
      reorder(batch_);
      for (int rank : batch_) run_thread(block_->threads[rank]);
    }
  }

  void end_block() {
    for (int i = 0; i < block_->shared_count; ++i) {
      // ThreadSanitizer would take an early free for a race: the host learns only at the
      // end of the launch what the threads of this block did.
      if (race_detector::kActive) {
        retired_shared_.push_back(block_->shared[i].storage);
      } else {
        std::free(block_->shared[i].storage);
      }
    }
    block_->shared_count = 0;
    block_->shared_bytes = 0;
  }

  void run_thread(EmulatedThread& thread) {
    current_ = &thread;
    threadIdx = thread.index;
    thread.state = ThreadState::ready;
    thread.fiber->resume();
    switch (thread.state) {
      case ThreadState::exited:
        ++block_->exited;
        if (block_->at_block_barrier > 0) fail("a thread exits while others of its block wait at __syncthreads");
        break;
      case ThreadState::at_block_barrier:
        arrive_at_barrier(thread);
        break;
      case ThreadState::at_grid_barrier:
        ++block_->at_grid_barrier;
        break;
      default:
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
    if (block_->exited > 0) fail("a thread waits at __syncthreads after others of its block have exited");
    if (++block_->at_block_barrier < static_cast<int>(block_->threads.size())) return;
    for (const EmulatedThread& other : block_->threads) {
      if (other.place.line != thread.place.line) fail("threads of one block meet at different __syncthreads");
      block_->ready.push_back(other.rank);
    }
    block_->at_block_barrier = 0;
    ++block_->barriers_passed;
  }

  void arrive_at_warp_operation(const EmulatedThread& thread) {
    const WarpOperation& operation = thread.operation;
    unsigned& arrived = block_->arrived[thread.warp()];
    arrived |= 1u << thread.lane();
    if ((arrived & operation.mask) != operation.mask) return;
    WarpOperation::Operands operands{};
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if ((operation.mask >> lane & 1) == 0) continue;
      EmulatedThread& other = block_->threads[thread.warp() * kWarpSize + lane];
      if (other.operation.mask != operation.mask) fail("lanes that meet in a warp operation name different masks");
      if (other.operation.complete != operation.complete || other.place.line != thread.place.line) {
        fail("lanes of one warp meet in different warp operations");
      }
      operands[lane] = other.operation.operand;
      block_->ready.push_back(other.rank);
    }
    arrived &= ~operation.mask;
    operation.complete(operands, operation.mask);
  }

  void create_shared(const void* key, size_t bytes, size_t alignment) {
    EmulatedBlock& block = *block_;
    block.shared_bytes += bytes;
    if (block.shared_bytes > kMaxStaticSharedBytes) {
      fail("%zu bytes of shared memory; a block has %zu", block.shared_bytes, kMaxStaticSharedBytes);
    }
    if (block.shared_count == kMaxSharedVariables) fail("more than %d shared variables", kMaxSharedVariables);
    void* storage = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    std::memset(storage, 0xff, bytes);  // a NaN in every floating-point type
    block.shared[block.shared_count++] = {key, storage};
    race_detector::publish(&block.shared_created);
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
    if (block_->at_block_barrier > 0 && block_->at_grid_barrier > 0) {
      fail("threads of one block wait at __syncthreads and at synchronize_grid");
    }
    if (block_->at_block_barrier > 0) {
      fail("divergent barrier: not all threads of the block reach the same __syncthreads");
    }
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
    static const char* const kStates[] = {"running", "waits at __syncthreads", "waits at synchronize_grid",
                                          "waits in a warp operation", "exited"};
    constexpr int kMaxLines = 8;
    const int count = block_ == nullptr ? 0 : static_cast<int>(block_->threads.size());
    for (int first = 0, lines = 0; first < count && lines < kMaxLines; ++lines) {
      const EmulatedThread& thread = block_->threads[first];
      int last = first;
      while (last + 1 < count && block_->threads[last + 1].state == thread.state &&
             block_->threads[last + 1].place.line == thread.place.line) {
        ++last;
      }
      std::fprintf(stderr, "  threads %d-%d: %s", first, last, kStates[static_cast<int>(thread.state)]);
      if (thread.place.line != 0) std::fprintf(stderr, ", last at %s:%d", thread.place.file, thread.place.line);
      std::fprintf(stderr, "\n");
      first = last + 1;
    }
  }

  std::mutex mutex_;
  const char* kernel_name_ = "";
  const char* complaint_ = nullptr;
  const void* kernel_ = nullptr;
  void (*call_)(const void*) = nullptr;

  std::deque<EmulatedBlock> blocks_;
  std::deque<std::vector<Fiber>> fibers_;  // of kMaxBlockThreads each
  size_t fiber_set_ = 0;
  EmulatedBlock* block_ = nullptr;
  EmulatedThread* current_ = nullptr;
  bool together_ = false;
  unsigned grid_barriers_passed_ = 0;
  std::vector<int> batch_;
  uint64_t random_ = 1;
  std::vector<void*> retired_shared_;  // under ThreadSanitizer, until the launch ends

  // Addresses by which ThreadSanitizer knows events, as in EmulatedBlock.
  char launch_started_ = 0, launch_ended_ = 0, grid_event_[2] = {};
};

inline Emulator emulator;

}  // namespace fastvision::gpu
