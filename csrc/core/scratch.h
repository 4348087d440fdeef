// Working memory of one thread inside a kernel: freed when the object goes out of scope.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace fastvision {

class FloatScratch {
 public:
  explicit FloatScratch(int64_t floats)
      : heap_(floats > kStackFloats ? static_cast<float*>(::operator new(sizeof(float) * floats, kAlignment))
                                    : nullptr) {}
  ~FloatScratch() {
    if (heap_) ::operator delete(heap_, kAlignment);
  }
  FloatScratch(const FloatScratch&) = delete;
  FloatScratch& operator=(const FloatScratch&) = delete;

  float* data() { return heap_ ? heap_ : stack_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  static constexpr int64_t kStackFloats = 8 * 1024;  // a problem of 2 us must not wait for malloc
  float* heap_;
  alignas(64) float stack_[kStackFloats];
};

}  // namespace fastvision
