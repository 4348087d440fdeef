// Random numbers and tensors, and what every program needs beside them.
#pragma once

#include <cstdio>
#include <memory>
#include <random>

#include "host_tensor.h"

namespace fastvision {

using Tensor = std::unique_ptr<HostTensor>;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(engine_); }
  bool coin() { return between(0, 1); }
  Tensor tensor(DType dtype, int64_t elements, double scale, bool aligned = false) {
    auto tensor = std::make_unique<HostTensor>(dtype, elements, aligned);
    for (int64_t i = 0; i < elements; ++i) tensor->set(i, scale * normal_(engine_));
    return tensor;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
};

inline void stop_at(const char* error) {
  if (!error) return;
  std::printf("%s\n", error);
  std::exit(1);
}

inline void* data(const Tensor& tensor) {
  return tensor ? tensor->data() : nullptr;
}

// The exit status of a program that checks random problems, and its arguments: how many, and a seed.
template <class Check>
int run_problems(int argc, char** argv, const Check& check) {
  const int problems = argc > 1 ? std::atoi(argv[1]) : 100;
  const uint64_t seed = argc > 2 ? std::atoi(argv[2]) : 1;
  int wrong = 0;
  for (int i = 0; i < problems; ++i) {
    Random random(seed * 1000003 + i);
    wrong += !check(random);
  }
  return wrong ? 1 : 0;
}

}  // namespace fastvision
