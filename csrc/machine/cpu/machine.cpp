#include "machine/machine.h"

#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <new>

namespace fastvision {
namespace {

using Vec = at::vec::Vectorized<float>;

// Enough independent chains to hide an instruction's latency at two per cycle (4 cycles for a
// fused multiply-add, about 7 for a multiply and an add), few enough to stay in registers.
#if defined(CPU_CAPABILITY_AVX512)
constexpr int kChains = 16;
#elif defined(CPU_CAPABILITY_AVX2)
constexpr int kChains = 12;
#else
constexpr int kChains = 6;  // of two SSE registers each
#endif

// Lanes that nobody reads would be optimised away with the loop that made them.
void keep(const Vec (&chains)[kChains]) {
  volatile float sink;
  for (const Vec& chain : chains) {
    float lanes[Vec::size()];
    chain.store(lanes);
    for (float lane : lanes) sink = lane;
  }
  static_cast<void>(sink);
}

// Calls work() until `seconds` are over, once at least; returns how often per second.
template <class Work>
double rate(double seconds, const Work& work) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  int64_t calls = 0;
  double elapsed = 0;
  do {
    work();
    ++calls;
    elapsed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (elapsed < seconds);
  return static_cast<double>(calls) / elapsed;
}

double fma_peak(double seconds) {
  constexpr int kSteps = 8192;  // some 20 us: reading the clock costs nothing beside it
  Vec chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = Vec::arange(i, 0.1f);
  // x = x * scale + shift stays near shift / (1 - scale): neither infinite nor denormal. The
  // chain runs through the factor, so that no product can be computed once for all steps.
  const Vec scale(0.75f), shift(0.5f);
  const double calls_per_second = rate(seconds, [&] {
    for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
      for (int i = 0; i < kChains; ++i) chains[i] = at::vec::fmadd(chains[i], scale, shift);
    }
  });
  keep(chains);
  return calls_per_second * kSteps * kChains * Vec::size() * 2;
}

struct Free {
  void operator()(float* data) const { ::operator delete(data, std::align_val_t{64}); }
};

double read_bandwidth(int64_t bytes, double seconds) {
  constexpr int64_t kStep = kChains * Vec::size();
  const int64_t steps = std::max<int64_t>(1, bytes / static_cast<int64_t>(sizeof(float)) / kStep);
  const int64_t size = steps * kStep;
  const std::unique_ptr<float, Free> buffer(
      static_cast<float*>(::operator new(static_cast<size_t>(size) * sizeof(float), std::align_val_t{64})));
  std::fill_n(buffer.get(), size, 1.0f);  // own pages, not the shared page of zeros

  const int64_t passes = std::max<int64_t>(1, (int64_t{1} << 20) / size);
  Vec chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = Vec::arange(i, 0.1f);
  const double calls_per_second = rate(seconds, [&] {
    for (int64_t pass = 0; pass < passes; ++pass) {
      const float* data = buffer.get();
      for (int64_t step = 0; step < steps; ++step, data += kStep) {
#pragma GCC unroll 16
        for (int i = 0; i < kChains; ++i) chains[i] = chains[i] + Vec::loadu(data + i * Vec::size());
      }
    }
  });
  keep(chains);
  return calls_per_second * static_cast<double>(passes * size) * sizeof(float);
}

constexpr MachineKernels kMachineKernels{&fma_peak, &read_bandwidth};

}  // namespace

const MachineKernels* machine_kernel_table() {
  return &kMachineKernels;
}

}  // namespace fastvision
