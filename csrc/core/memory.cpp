#include "core/memory.h"

#include <ATen/EmptyTensor.h>
#include <ATen/ops/empty.h>
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <vector>

#include "core/integers.h"

namespace fastvision {
namespace {

constexpr size_t kMinBlock = 128 << 10;
constexpr size_t kHugePage = 2 << 20;
constexpr size_t kMinHuge = 2 * kHugePage;

// In front of a block's data, so that these are aligned as at::empty's are.
struct alignas(64) Header {
  size_t capacity;  // bytes of data
};

struct FreeBlock {
  Header* header;
  uint64_t freed_at;
};

// The machine's memory, or what a container may use of it.
size_t available_memory() {
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  size_t memory = pages > 0 && page > 0 ? static_cast<size_t>(pages) * page : 0;
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    size_t limit = 0;
    if (std::ifstream(path) >> limit) memory = std::min(memory, limit);
  }
  return memory;
}

size_t default_limit() {
  return std::min<size_t>(available_memory() / 16, 1 << 30);
}

class BlockCache {
 public:
  BlockCache() { blocks_.reserve(kMaxBlocks + 1); }

  // A block of this size or a little more; null where there is none.
  Header* take(size_t bytes) {
    const std::lock_guard guard(mutex_);
    ++time_;
    // The last one freed is the likeliest to be in the processor's caches.
    for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) {
      const size_t capacity = block->header->capacity;
      if (capacity < bytes || capacity > bytes + bytes / kMaxWaste) continue;
      Header* header = block->header;
      blocks_.erase(std::next(block).base());
      cached_ -= capacity;
      return header;
    }
    return nullptr;
  }

  void give(Header* header) {
    change([&] {
      blocks_.push_back({header, time_});
      cached_ += header->capacity;
      return drop(superfluous());
    });
  }

  size_t cached() {
    const std::lock_guard guard(mutex_);
    return cached_;
  }

  size_t limit() {
    const std::lock_guard guard(mutex_);
    return limit_;
  }

  void set_limit(size_t bytes) {
    change([&] {
      limit_ = bytes;
      return drop(superfluous());
    });
  }

  void empty() {
    change([&] { return drop(blocks_.size()); });
  }

  std::mutex& mutex() { return mutex_; }

 private:
  static constexpr size_t kMaxWaste = 4;     // of a block, as a part of what is asked for
  static constexpr uint64_t kMaxAge = 1024;  // allocations that passed a block by
  static constexpr size_t kMaxBlocks = 256;

  // What is dropped is freed without the mutex: the system takes its time over that.
  template <class F>
  void change(const F& dropping) {
    std::vector<FreeBlock> dropped;
    {
      const std::lock_guard guard(mutex_);
      dropped = dropping();
    }
    for (const FreeBlock& block : dropped) std::free(block.header);
  }

  // How many of the oldest blocks have to go.
  size_t superfluous() const {
    size_t count = 0, kept = cached_;
    for (; count < blocks_.size(); ++count) {
      const FreeBlock& oldest = blocks_[count];
      if (blocks_.size() - count <= kMaxBlocks && kept <= limit_ && time_ - oldest.freed_at <= kMaxAge) break;
      kept -= oldest.header->capacity;
    }
    return count;
  }

  std::vector<FreeBlock> drop(size_t count) {
    const auto end = blocks_.begin() + count;
    std::vector<FreeBlock> dropped(blocks_.begin(), end);
    for (const FreeBlock& block : dropped) cached_ -= block.header->capacity;
    blocks_.erase(blocks_.begin(), end);
    return dropped;
  }

  std::mutex mutex_;
  std::vector<FreeBlock> blocks_;  // in the order they were freed
  uint64_t time_ = 0;
  size_t cached_ = 0, limit_ = default_limit();
};

// Never destroyed: tensors may live as long as the process.
BlockCache& cache() {
  static BlockCache* const cache = [] {
    auto* made = new BlockCache;
    // A child of fork() must not inherit a mutex that another thread holds.
    pthread_atfork([] { fastvision::cache().mutex().lock(); }, [] { fastvision::cache().mutex().unlock(); },
                   [] { fastvision::cache().mutex().unlock(); });
    return made;
  }();
  return *cache;
}

Header* new_block(size_t bytes) {
  const bool huge = bytes >= kMinHuge;
  const size_t capacity = round_up(bytes, alignof(Header));
  const auto allocate = [=] {
    void* memory = nullptr;
    return posix_memalign(&memory, huge ? kHugePage : alignof(Header), sizeof(Header) + capacity) ? nullptr : memory;
  };
  void* memory = allocate();
  if (!memory) {
    cache().empty();
    memory = allocate();
  }
  TORCH_CHECK_WITH(OutOfMemoryError, memory, "fastvision: out of memory: tried to allocate ", bytes, " bytes");
  // A wish: its failure changes nothing.
  if (huge) madvise(memory, capacity / kHugePage * kHugePage, MADV_HUGEPAGE);
  return new (memory) Header{capacity};
}

void free_block(void* data) {
  c10::profiledCPUMemoryReporter().Delete(data);
  cache().give(static_cast<Header*>(data) - 1);
}

class BlockAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes < kMinBlock) return c10::GetCPUAllocator()->allocate(bytes);
    Header* header = cache().take(bytes);
    if (!header) header = new_block(bytes);
    void* data = header + 1;
    c10::profiledCPUMemoryReporter().New(data, bytes);
    return {data, data, &free_block, c10::Device(c10::DeviceType::CPU)};
  }

  void copy_data(void* target, const void* source, size_t bytes) const override {
    default_copy_data(target, source, bytes);
  }
};

BlockAllocator& allocator() {
  static BlockAllocator* const allocator = new BlockAllocator;
  return *allocator;
}

}  // namespace

c10::DataPtr allocate_block(size_t bytes) {
  return allocator().allocate(bytes);
}

at::Tensor empty_result(at::IntArrayRef sizes, const at::TensorOptions& options, at::MemoryFormat format) {
  if (!options.device().is_cpu()) return at::empty(sizes, options, format);
  const auto dtype = c10::typeMetaToScalarType(options.dtype());
  return at::detail::empty_generic(sizes, &allocator(), c10::DispatchKeySet(c10::DispatchKey::CPU), dtype, format);
}

size_t cached_bytes() {
  return cache().cached();
}

size_t max_cached_bytes() {
  return cache().limit();
}

void set_max_cached_bytes(size_t bytes) {
  cache().set_limit(bytes);
}

void empty_cache() {
  cache().empty();
}

}  // namespace fastvision
