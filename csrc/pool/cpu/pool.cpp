#include "pool/cpu/pool.h"

#include <algorithm>

#include "core/integers.h"
#include "pool/cpu/maxima.h"

namespace fastvision {
namespace {

// Elements of input of a part of the work, and those below which there is one part: a second thread costs more.
constexpr int64_t kPart = 1 << 16, kFewElements = 1 << 17;

const char* max_pool(const MaxPooling& p, const MaxPoolingArrays& arrays, Context& context) {
  const int64_t plane = p.in_h * p.in_w;
  const int64_t planes = p.planes * plane < kFewElements ? p.planes : ceil_div(kPart, plane);
  context.parallel_for(ceil_div(p.planes, planes), [&](int64_t begin, int64_t end) {
    const auto run = arrays.indices ? pool_planes_with_indices : pool_planes;
    run(p, arrays, begin * planes, std::min(p.planes, end * planes));
  });
  return nullptr;
}

// Windows further apart are pooled one by one, as stock does it.
bool is_faster_with_indices(const MaxPooling& p) {
  return p.stride_w <= 2;
}

}  // namespace

const PoolKernels* pool_cpu_kernels() {
  static const PoolKernels kernels{&max_pool, &is_faster_with_indices};
  return &kernels;
}

}  // namespace fastvision
