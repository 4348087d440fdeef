// Runs the linear kernels of the library it is linked with, without torch and Python: one thread against three, and
// against plain loops, for matrices in memory of exactly the size needed.
//
//   linear_kernels PROBLEMS SEED   exit status 1 and a line for each random problem that differs
#include "core/kernel_library.h"
#include "host_context.h"
#include "linear/kernels.h"
#include "random_tensor.h"

namespace fastvision {
namespace {

struct Problem {
  Linear p;
  std::vector<float> input, floats, bias, scale;
  std::vector<uint16_t> halves;
  std::vector<int8_t> bytes;

  explicit Problem(Random& random) {
    p.weight = static_cast<LinearWeight>(random.between(0, 2));
    p.activation = random.coin() ? Activation::relu : Activation::none;
    p.rows = random.coin() ? random.between(1, 9) : random.between(60, 140);
    p.in_features = random.coin() ? random.between(1, 70) : random.between(1000, 2100);
    p.out_features = random.between(1, 40);
    p.input_stride = p.in_features + random.between(0, 3);
    p.weight_stride = p.in_features + random.between(0, 3);
    const auto number = [&] { return static_cast<float>(random.between(-127, 127)); };
    input.resize((p.rows - 1) * p.input_stride + p.in_features);
    for (float& value : input) value = number() / 64;
    // Whole numbers up to 127 are exact in all three formats.
    const int64_t weights = (p.out_features - 1) * p.weight_stride + p.in_features;
    for (int64_t i = 0; i < weights; ++i) {
      floats.push_back(number());
      uint32_t bits;
      std::memcpy(&bits, &floats.back(), sizeof bits);
      halves.push_back(static_cast<uint16_t>(bits >> 16));
      bytes.push_back(static_cast<int8_t>(floats.back()));
    }
    for (int64_t i = 0; i < p.out_features; ++i) {
      bias.push_back(number());
      scale.push_back(number() / 127);
    }
    if (random.coin()) bias.clear();
    if (random.coin()) scale.clear();
  }

  std::vector<float> run(int threads) const {
    std::vector<float> output(p.rows * p.out_features, std::numeric_limits<float>::quiet_NaN());
    const void* weights = p.weight == LinearWeight::f32    ? static_cast<const void*>(floats.data())
                          : p.weight == LinearWeight::bf16 ? static_cast<const void*>(halves.data())
                                                           : bytes.data();
    HostContext context(threads);
    stop_at(fastvision_kernel_library()->linear->forward(p,
                                                         {input.data(), weights, scale.empty() ? nullptr : scale.data(),
                                                          bias.empty() ? nullptr : bias.data(), output.data()},
                                                         context));
    return output;
  }

  double expected(int64_t row, int64_t feature) const {
    double sum = 0;
    for (int64_t k = 0; k < p.in_features; ++k) {
      sum += static_cast<double>(input[row * p.input_stride + k]) * floats[feature * p.weight_stride + k];
    }
    if (!scale.empty()) sum *= scale[feature];
    if (!bias.empty()) sum += bias[feature];
    return p.activation == Activation::relu ? std::max(sum, 0.0) : sum;
  }
};

// Both gradients, and the products that they are the sums of.
bool check_gradients(Random& random) {
  Problem problem(random);
  Linear& p = problem.p;
  p.weight = LinearWeight::f32;
  p.activation = Activation::none;
  std::vector<float> grad(p.rows * p.out_features);
  for (float& value : grad) value = static_cast<float>(random.between(-127, 127)) / 64;
  const bool wants_input = random.coin(), wants_weight = !wants_input || random.coin();
  const auto run = [&](int threads) {
    std::vector<float> input(wants_input ? p.rows * p.in_features : 0),
        weight(wants_weight ? p.out_features * p.in_features : 0);
    HostContext context(threads);
    stop_at(fastvision_kernel_library()->linear->backward(
        p,
        {grad.data(), problem.input.data(), problem.floats.data(), wants_input ? input.data() : nullptr,
         wants_weight ? weight.data() : nullptr},
        context));
    return std::pair{input, weight};
  };
  const auto [input, weight] = run(1);
  if (std::pair{input, weight} != run(3)) {
    std::printf("the gradients depend on the number of threads\n");
    return false;
  }
  const auto agrees = [&](const char* name, const std::vector<float>& actual, int64_t depth, const auto& product) {
    for (size_t i = 0; i < actual.size(); ++i) {
      const int64_t row = i / p.in_features, column = i % p.in_features;
      double expected = 0;
      for (int64_t k = 0; k < depth; ++k) expected += product(row, column, k);
      if (std::abs(actual[i] - expected) <= 1e-5 * (depth + std::abs(expected))) continue;
      std::printf("the gradient of %s at %d, %d is %.9g, expected %.9g: %d rows, %d > %d features\n", name,
                  static_cast<int>(row), static_cast<int>(column), actual[i], expected, static_cast<int>(p.rows),
                  static_cast<int>(p.in_features), static_cast<int>(p.out_features));
      return false;
    }
    return true;
  };
  const auto grad_at = [&](int64_t row, int64_t feature) {
    return static_cast<double>(grad[row * p.out_features + feature]);
  };
  return agrees("input", input, p.out_features,
                [&](int64_t row, int64_t column, int64_t k) {
                  return grad_at(row, k) * problem.floats[k * p.weight_stride + column];
                }) &&
         agrees("weight", weight, p.rows, [&](int64_t row, int64_t column, int64_t k) {
           return grad_at(k, row) * problem.input[k * p.input_stride + column];
         });
}

bool check(Random& random) {
  if (random.between(0, 2) == 0) return check_gradients(random);
  const Problem problem(random);
  const Linear& p = problem.p;
  const std::vector<float> output = problem.run(1);
  if (std::memcmp(output.data(), problem.run(3).data(), sizeof(float) * output.size()) != 0) {
    std::printf("the result depends on the number of threads\n");
    return false;
  }
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t feature = 0; feature < p.out_features; ++feature) {
      const double actual = output[row * p.out_features + feature], expected = problem.expected(row, feature);
      if (std::abs(actual - expected) <= 1e-5 * (p.in_features + std::abs(expected))) continue;
      std::printf("row %d feature %d is %.9g, expected %.9g: %d rows, %d > %d features, weight format %d\n",
                  static_cast<int>(row), static_cast<int>(feature), actual, expected, static_cast<int>(p.rows),
                  static_cast<int>(p.in_features), static_cast<int>(p.out_features), static_cast<int>(p.weight));
      return false;
    }
  }
  return true;
}

}  // namespace
}  // namespace fastvision

int main(int argc, char** argv) {
  return fastvision::run_problems(argc, argv, [](fastvision::Random& random) { return fastvision::check(random); });
}
