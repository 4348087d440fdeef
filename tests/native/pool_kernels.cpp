// Runs the pool kernels of the library it is linked with, without torch and Python: one thread against three, and
// against plain loops, for planes in memory of exactly the size needed.
//
//   pool_kernels PROBLEMS SEED   exit status 1 and a line for each random problem that differs
#include <algorithm>
#include <limits>

#include "core/kernel_library.h"
#include "host_context.h"
#include "pool/kernels.h"
#include "random_tensor.h"

namespace fastvision {
namespace {

// The size of an image's axis, or of the result's, for windows chosen before.
int64_t random_size(Random& random, int64_t kernel, int64_t pad) {
  return random.between(std::max<int64_t>({1, pad, kernel - 2 * pad}), random.coin() ? kernel + 12 : kernel + 60);
}

int64_t pooled_size(Random& random, int64_t size, int64_t kernel, int64_t stride, int64_t pad) {
  const int64_t count = (size + 2 * pad - kernel) / stride + 1;
  // As with ceil_mode: one more window if it starts inside the image.
  return random.coin() && count * stride < size + pad ? count + 1 : count;
}

struct Problem {
  Pooling p;
  Tensor input;
  bool has_indices;

  explicit Problem(Random& random) {
    p.dtype = static_cast<DType>(random.between(0, 2));
    p.planes = random.between(1, 5);
    p.kernel_h = random.coin() ? random.between(2, 3) : random.between(1, 9);
    p.kernel_w = random.coin() ? random.between(2, 3) : random.between(1, 40);
    has_indices = random.coin();
    p.stride_h = random.between(1, 4);
    p.stride_w = random.between(1, has_indices ? 2 : 4);  // with indices no more than is_faster_with_indices
    p.pad_h = random.between(0, p.kernel_h / 2);
    p.pad_w = random.between(0, p.kernel_w / 2);
    p.in_h = random_size(random, p.kernel_h, p.pad_h);
    p.in_w = random_size(random, p.kernel_w, p.pad_w);
    if (random.between(0, 5) == 0) p.planes += (1 << 17) / (p.in_h * p.in_w);  // several parts
    p.out_h = pooled_size(random, p.in_h, p.kernel_h, p.stride_h, p.pad_h);
    p.out_w = pooled_size(random, p.in_w, p.kernel_w, p.stride_w, p.pad_w);
    const int64_t elements = p.planes * p.in_h * p.in_w, rare = random.coin() ? 40 : 2;
    input = random.tensor(p.dtype, elements, 1);
    for (int64_t i = 0; i < elements; ++i) {
      const double value = static_cast<double>(random.between(-3, 3));
      input->set(i, random.between(0, rare) != 0 ? value : -std::numeric_limits<double>::infinity());
    }
    if (random.coin()) input->set(random.between(0, elements - 1), std::numeric_limits<double>::quiet_NaN());
  }

  int64_t outputs() const { return p.planes * p.out_h * p.out_w; }

  std::pair<Tensor, std::vector<int64_t>> run(int threads) const {
    auto output = std::make_unique<HostTensor>(p.dtype, outputs());
    std::vector<int64_t> indices(has_indices ? outputs() : 0, -1);
    HostContext context(threads);
    stop_at(fastvision_kernel_library()->pool->max_pool(
        p, {input->data(), output->data(), has_indices ? indices.data() : nullptr}, context));
    return {std::move(output), std::move(indices)};
  }

  Tensor average(const AvgPooling& averaging, int threads) const {
    auto output = std::make_unique<HostTensor>(p.dtype, outputs());
    HostContext context(threads);
    stop_at(fastvision_kernel_library()->pool->avg_pool(averaging, {input->data(), output->data()}, context));
    return output;
  }

  // f(place, value) of a window's elements that lie in the plane.
  template <class F>
  void for_each_element(int64_t plane, int64_t y, int64_t x, const F& f) const {
    const int64_t top = y * p.stride_h - p.pad_h, left = x * p.stride_w - p.pad_w;
    for (int64_t row = std::max<int64_t>(top, 0); row < std::min(top + p.kernel_h, p.in_h); ++row) {
      for (int64_t column = std::max<int64_t>(left, 0); column < std::min(left + p.kernel_w, p.in_w); ++column) {
        const int64_t place = row * p.in_w + column;
        f(place, input->at(plane * p.in_h * p.in_w + place));
      }
    }
  }

  std::pair<double, int64_t> expected(int64_t plane, int64_t y, int64_t x) const {
    double best = -std::numeric_limits<double>::infinity();
    int64_t winner = -1;
    for_each_element(plane, y, x, [&](int64_t place, double value) {
      if (winner >= 0 && !(value > best) && !std::isnan(value)) return;
      best = value;
      winner = place;
    });
    return {best, winner};
  }

  double expected_average(const AvgPooling& averaging, int64_t plane, int64_t y, int64_t x) const {
    double sum = 0;
    int64_t inside = 0;
    for_each_element(plane, y, x, [&](int64_t, double value) {
      sum += value;
      ++inside;
    });
    const int64_t rows = std::min(p.kernel_h, p.in_h + 2 * p.pad_h - y * p.stride_h);
    const int64_t columns = std::min(p.kernel_w, p.in_w + 2 * p.pad_w - x * p.stride_w);
    const int64_t counted = averaging.count_include_pad ? rows * columns : inside;
    return sum / static_cast<double>(averaging.divisor ? averaging.divisor : counted);
  }
};

bool check_averages(Random& random, const Problem& problem) {
  const Pooling& p = problem.p;
  const AvgPooling averaging{p, random.coin(), random.between(0, 3) ? 0 : random.between(1, 5)};
  const auto output = problem.average(averaging, 1), again = problem.average(averaging, 3);
  if (!output->has_same_bits(*again)) {
    std::printf("the average depends on the number of threads\n");
    return false;
  }
  const double tolerance = p.dtype == DType::f32 ? 1e-6 : 1e-2;
  for (int64_t i = 0; i < problem.outputs(); ++i) {
    const double actual = output->at(i), expected = problem.expected_average(averaging, i / p.out_w / p.out_h,
                                                                             i / p.out_w % p.out_h, i % p.out_w);
    if (actual == expected || (std::isnan(actual) && std::isnan(expected)) ||
        std::fabs(actual - expected) <= tolerance * (1 + std::fabs(expected))) {
      continue;
    }
    std::printf("average %ld is %g, expected %g\n", i, actual, expected);
    return false;
  }
  return true;
}

bool check(Random& random) {
  const Problem problem(random);
  const Pooling& p = problem.p;
  const auto [output, indices] = problem.run(1);
  const auto [again, indices_again] = problem.run(3);
  if (!output->has_same_bits(*again) || indices != indices_again) {
    std::printf("the result depends on the number of threads\n");
    return false;
  }
  for (int64_t i = 0; i < problem.outputs(); ++i) {
    const int64_t y = i / p.out_w % p.out_h, x = i % p.out_w;
    const auto [value, place] = problem.expected(i / p.out_w / p.out_h, y, x);
    const double actual = output->at(i);
    const bool same = actual == value || (std::isnan(actual) && std::isnan(value));
    if (same && (indices.empty() || indices[i] == place)) continue;
    std::printf(
        "row %ld column %ld is %g at %ld, expected %g at %ld: dtype %d, %ldx%ld to %ldx%ld, kernel %ldx%ld, "
        "stride %ldx%ld, padding %ldx%ld\n",
        y, x, actual, indices.empty() ? -1 : indices[i], value, place, static_cast<int>(p.dtype), p.in_h, p.in_w,
        p.out_h, p.out_w, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w, p.pad_h, p.pad_w);
    return false;
  }
  return check_averages(random, problem);
}

}  // namespace
}  // namespace fastvision

int main(int argc, char** argv) {
  return fastvision::run_problems(argc, argv, [](fastvision::Random& random) { return fastvision::check(random); });
}
