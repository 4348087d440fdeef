#include "conv/cpu/conv.h"

namespace fastvision {
namespace {

bool supports(const ConvPool2d&) { return false; }

}  // namespace

const ConvKernels* conv_cpu_kernels() {
  static const ConvKernels kernels{&supports, nullptr, nullptr, nullptr, nullptr};
  return &kernels;
}

}  // namespace fastvision
