#include "pool/cpu/pool.h"

#include <algorithm>

#include "core/integers.h"
#include "pool/cpu/averages.h"
#include "pool/cpu/maxima.h"

namespace fastvision {
namespace {

// Elements of input of a part of the work, and those below which there is one part: a second thread costs more.
constexpr int64_t kPart = 1 << 16, kFewElements = 1 << 17;

// run(first plane, last)
template <class Run>
void in_parts(const Pooling& p, Context& context, const Run& run) {
  const int64_t plane = p.in_h * p.in_w;
  const int64_t planes = p.planes * plane < kFewElements ? p.planes : ceil_div(kPart, plane);
  context.parallel_for(ceil_div(p.planes, planes),
                       [&](int64_t begin, int64_t end) { run(begin * planes, std::min(p.planes, end * planes)); });
}

const char* max_pool(const Pooling& p, const MaxPoolingArrays& arrays, Context& context) {
  in_parts(p, context, [&](int64_t first, int64_t last) {
    arrays.indices ? pool_planes_with_indices(p, arrays, first, last) : pool_planes(p, arrays, first, last);
  });
  return nullptr;
}

const char* avg_pool(const AvgPooling& p, const AvgPoolingArrays& arrays, Context& context) {
  in_parts(p, context, [&](int64_t first, int64_t last) { average_planes(p, arrays, first, last); });
  return nullptr;
}

// Windows further apart are pooled one by one, as stock does it.
bool is_faster_with_indices(const Pooling& p) {
  return p.stride_w <= 2;
}

}  // namespace

const PoolKernels* pool_cpu_kernels() {
  static const PoolKernels kernels{&max_pool, &is_faster_with_indices, &avg_pool};
  return &kernels;
}

}  // namespace fastvision
