// Fibers for the GPU emulator: a stack per CUDA thread and a switch between them that
// AddressSanitizer and ThreadSanitizer can follow. x86-64, System V calling convention.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if !defined(__x86_64__)
#error "The GPU emulator switches stacks with x86-64 instructions; this processor needs its own switch_stack()."
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

// For emulator code that runs between two CUDA threads: sanitizers watch the kernels, not the
// emulator, and an instrumented function must not be entered on one stack and left on another.
#define GPU_EMULATOR_INTERNAL __attribute__((no_sanitize("address", "thread", "undefined"), noinline))

namespace fastvision::gpu {

// What ThreadSanitizer is told. Without it everything here is empty.
namespace race_detector {

#if defined(__SANITIZE_THREAD__)
constexpr bool kActive = true;
constexpr unsigned kSwitchWithoutOrdering = 1;
inline void* current() {
  return __tsan_get_current_fiber();
}
inline void* create() {
  return __tsan_create_fiber(0);
}
inline void enter(void* context) {
  __tsan_switch_to_fiber(context, kSwitchWithoutOrdering);
}
// What happened before publish() on one thread happened before what follows observe() on another.
inline void publish(void* event) {
  __tsan_release(event);
}
inline void observe(void* event) {
  __tsan_acquire(event);
}
inline void ignore_begin() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
inline void ignore_end() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#else
constexpr bool kActive = false;
inline void* current() {
  return nullptr;
}
inline void* create() {
  return nullptr;
}
inline void enter(void*) {}
inline void publish(void*) {}
inline void observe(void*) {}
inline void ignore_begin() {}
inline void ignore_end() {}
#endif

}  // namespace race_detector

// Stores the callee-saved registers on the running stack, the stack pointer in *save, and
// continues where the stack pointer `load` was stored.
__attribute__((naked, no_sanitize("address", "thread", "undefined"), noinline)) inline void switch_stack(
    void** /*save*/, void* /*load*/) {
  asm("pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
      "movq %rsp, (%rdi)\n\tmovq %rsi, %rsp\n\t"
      "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tret");
}

// The side that resumes fibers: the thread inside launch(). Launches exclude each other, so there is one.
struct Host {
  void* stack_pointer = nullptr;
  void* race_context = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  const void* stack_bottom = nullptr;
  size_t stack_bytes = 0;
};
inline Host host;

class Fiber {
 public:
  using Body = void (*)(void* argument);

  // `number` staggers the stacks, which would otherwise all meet in the same cache sets.
  GPU_EMULATOR_INTERNAL void create(Body body, void* argument, int number) {
    stack_ = static_cast<char*>(
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stack_ == MAP_FAILED || mprotect(stack_, kGuardBytes, PROT_NONE) != 0) {
      std::perror("GPU emulator: no memory for the stack of a CUDA thread");
      std::abort();
    }
    void** top = reinterpret_cast<void**>(stack_ + kStackBytes - kGuardBytes - number * size_t{832} % 16384 / 64 * 64);
    body_ = body;
    argument_ = argument;
    *--top = nullptr;  // the return address of entry(), which never returns
    *--top = reinterpret_cast<void*>(&Fiber::entry);
    for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
    stack_pointer_ = top;
    race_context_ = race_detector::create();
  }

  bool exists() const { return stack_ != nullptr; }

  // From the host: runs the fiber until it suspends.
  GPU_EMULATOR_INTERNAL void resume() {
    running_ = this;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&host.fake_stack, stack_, kStackBytes);
#endif
    race_detector::enter(race_context_);
    switch_stack(&host.stack_pointer, stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(host.fake_stack, nullptr, nullptr);
#endif
  }

  // From the running fiber: back to the host.
  GPU_EMULATOR_INTERNAL static void suspend() {
    Fiber* self = running_;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&self->fake_stack_, host.stack_bottom, host.stack_bytes);
#endif
    race_detector::enter(host.race_context);
    switch_stack(&self->stack_pointer_, host.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(self->fake_stack_, nullptr, nullptr);
#endif
  }

  // Lets the running fiber act for a moment as the host in the eyes of ThreadSanitizer.
  GPU_EMULATOR_INTERNAL static void enter_host_context() { race_detector::enter(host.race_context); }
  GPU_EMULATOR_INTERNAL static void leave_host_context() { race_detector::enter(running_->race_context_); }

 private:
  GPU_EMULATOR_INTERNAL static void entry() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &host.stack_bottom, &host.stack_bytes);
#endif
    for (;;) {
      running_->body_(running_->argument_);
      suspend();
    }
  }

  static constexpr size_t kStackBytes = 256 * 1024;
  static constexpr size_t kGuardBytes = 4096;  // unmapped, below the stack
  inline static Fiber* running_ = nullptr;

  char* stack_ = nullptr;
  void* stack_pointer_ = nullptr;
  void* fake_stack_ = nullptr;
  void* race_context_ = nullptr;
  Body body_ = nullptr;
  void* argument_ = nullptr;
};

}  // namespace fastvision::gpu
