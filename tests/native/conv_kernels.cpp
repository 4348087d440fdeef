// Runs the conv kernels of the library it is linked with, without torch and Python, and compares them with
// conv_reference.h. Inputs are small integers: sums are exact in every format and ties are common. Where Winograd is
// allowed they are fractions, ties are rare, and a few may be decided otherwise.
//
//   conv_kernels PROBLEMS SEED   exit status 1 and a line for each random problem that differs
#include <cstdio>

#include "conv/kernels.h"
#include "core/kernel_library.h"
#include "cuda/conv_reference.h"
#include "host_context.h"
#include "random_problem.h"

namespace fastvision {
namespace {

using reference::Values;

const ConvKernels& kernels() {
  return *fastvision_kernel_library()->conv;
}

// Integers, or fractions that every format holds.
Values random_values(Random& random, int64_t count, int largest, bool fractions) {
  const int parts = fractions ? 32 : 1;
  Values values(count);
  for (double& value : values) value = static_cast<double>(random.between(-largest * parts, largest * parts)) / parts;
  return values;
}

std::vector<int64_t> in_order(int64_t count) {
  return places({0, 0, 0, 1}, 1, 1, 1, count);
}

void fill(HostTensor& tensor, const Values& values, const std::vector<int64_t>& at) {
  for (size_t i = 0; i < values.size(); ++i) tensor.set(at[i], values[i]);
}

// Averages, and what follows from them, are rounded, and so are fractions; everything else is exact.
double tolerance_of(const ConvPool2d& p) {
  if (p.pool != Pool::avg && !p.allow_winograd) return 0;
  const double f32 = p.allow_winograd ? 1e-4 : 1e-5;
  return p.dtype == DType::f32 ? f32 : p.dtype == DType::f16 ? 1e-2 : 6e-2;
}

bool selections_agree(const ConvPool2d& p, const std::vector<uint8_t>& actual, const std::vector<uint8_t>& expected) {
  size_t different = 0;
  for (size_t i = 0; i < expected.size(); ++i) different += actual[i] != expected[i];
  return different <= (p.allow_winograd ? 2 + expected.size() / 100 : 0);
}

bool equal(const char* what, DType dtype, const HostTensor& tensor, const std::vector<int64_t>& at,
           const Values& expected, double tolerance) {
  HostTensor rounded(dtype, 1);
  for (size_t i = 0; i < expected.size(); ++i) {
    rounded.set(0, expected[i]);
    const double want = rounded.at(0);
    const double got = tensor.at(at[i]);
    if (std::fabs(got - want) <= tolerance * (std::fabs(want) + 1)) continue;
    std::printf("%s[%zu] = %.9g, expected %.9g: ", what, i, got, want);
    return false;
  }
  return true;
}

// One problem with its numbers, and the checks of what the kernels make of it.
class Check {
 public:
  Check(const ConvPool2d& p, Random& random)
      : p_(p),
        in_places_(places(p.input_strides, p.batch, p.in_channels, p.in_h, p.in_w)),
        out_places_(places(p.output_strides, p.batch, p.out_channels, p.out_h, p.out_w)),
        inputs_(random_values(random, static_cast<int64_t>(in_places_.size()), 2, p.allow_winograd)),
        weights_(random_values(random, p.out_channels * (p.in_channels / p.groups) * p.kernel_h * p.kernel_w, 1,
                               p.allow_winograd)),
        biases_(random_values(random, p.out_channels, 3, p.allow_winograd)),
        gradients_(random_values(random, static_cast<int64_t>(out_places_.size()), 2, p.allow_winograd)),
        with_bias_(!random.chance(4)),
        expected_(reference::forward(p, inputs_, weights_, with_bias_ ? &biases_ : nullptr)),
        input_(p.dtype, static_cast<int64_t>(inputs_.size())),
        weight_(p.dtype, static_cast<int64_t>(weights_.size())),
        bias_(p.dtype, p.out_channels),
        grad_output_(p.dtype, static_cast<int64_t>(gradients_.size())) {
    fill(input_, inputs_, in_places_);
    fill(weight_, weights_, in_order(weight_.elements()));
    fill(bias_, biases_, in_order(p.out_channels));
    fill(grad_output_, gradients_, out_places_);
  }

  bool run() {
    if (!forward_is_right(/*training=*/false)) return false;
    if (p_.dtype == DType::f32 && !scaled_forward_is_right()) return false;
    const bool any_activation = kernels().has_all_activations && p_.pool == Pool::none;
    if (any_activation && !activated_forward_is_right()) return false;
    return !selection_fits(p_) || (forward_is_right(/*training=*/true) && unpool_is_right() && backward_is_right());
  }

 private:
  bool forward_is_right(bool training) {
    const bool selects = training && needs_selection(p_);
    std::vector<uint8_t> selection(selects ? expected_.selection.size() : 0);
    HostTensor one_thread(p_.dtype, output_elements()), three_threads(p_.dtype, output_elements());
    for (auto [threads, output] : {std::pair{1, &one_thread}, {3, &three_threads}}) {
      HostContext context(threads);
      const char* error = kernels().forward(p_,
                                            {input_.data(), weight_.data(), with_bias_ ? bias_.data() : nullptr,
                                             output->data(), selects ? selection.data() : nullptr},
                                            context);
      if (error) return fails(error);
    }
    if (!one_thread.has_same_bits(three_threads)) return fails("the output depends on the number of threads");
    if (selects && !selections_agree(p_, selection, expected_.selection)) return fails("the selection differs");
    return equal("output", p_.dtype, one_thread, out_places_, expected_.output, tolerance_of(p_));
  }

  // Weights divided by powers of two, which the kernel multiplies them by.
  bool scaled_forward_is_right() {
    std::vector<float> scale(p_.out_channels);
    for (size_t c = 0; c < scale.size(); ++c) scale[c] = c % 3 == 0 ? 0.5f : c % 3 == 1 ? -1.f : 4.f;
    const size_t taps = weights_.size() / scale.size();
    HostTensor divided(p_.dtype, weight_.elements()), output(p_.dtype, output_elements());
    for (size_t i = 0; i < weights_.size(); ++i) divided.set(i, weights_[i] / scale[i / taps]);
    HostContext context(2);
    const char* error = kernels().forward(
        p_, {input_.data(), divided.data(), with_bias_ ? bias_.data() : nullptr, output.data(), nullptr, scale.data()},
        context);
    if (error) return fails(error);
    return equal("scaled output", p_.dtype, output, out_places_, expected_.output, tolerance_of(p_));
  }

  // In inference. A sum of 16 bits was rounded before.
  bool activated_forward_is_right() {
    ConvPool2d p = p_;
    p.activation = Activation::none;
    const Values sums = reference::forward(p, inputs_, weights_, with_bias_ ? &biases_ : nullptr).output;
    const auto relu6 = [](double x) { return std::clamp(x, 0., 6.); };
    for (const Activation activation : {Activation::relu6, Activation::silu, Activation::hardswish}) {
      p.activation = activation;
      Values expected = sums;
      for (double& x : expected) {
        x = activation == Activation::relu6  ? relu6(x)
            : activation == Activation::silu ? x / (1 + std::exp(-x))
                                             : x * relu6(x + 3) / 6;
      }
      HostTensor output(p.dtype, output_elements());
      HostContext context(2);
      const char* error = kernels().forward(
          p, {input_.data(), weight_.data(), with_bias_ ? bias_.data() : nullptr, output.data(), nullptr}, context);
      if (error) return fails(error);
      const double tolerance = p.dtype == DType::f32 ? 1e-4 : p.dtype == DType::f16 ? 1e-2 : 6e-2;
      if (!equal("activated output", p.dtype, output, out_places_, expected, tolerance)) return false;
    }
    return true;
  }

  bool unpool_is_right() {
    const auto strides = dense_strides(true, p_.out_channels, p_.conv_h, p_.conv_w);
    const Values expected = reference::unpool(p_, gradients_, expected_.selection);
    HostTensor grad_conv(p_.dtype, static_cast<int64_t>(expected.size()));
    HostContext context(2);
    const char* error = kernels().unpool(p_, grad_output_.data(), selection(), grad_conv.data(), context);
    if (error) return fails(error);
    return equal("grad_conv", p_.dtype, grad_conv, places(strides, p_.batch, p_.out_channels, p_.conv_h, p_.conv_w),
                 expected, tolerance_of(p_));
  }

  bool backward_is_right() {
    const ConvGradients own = kernels().supported_gradients(p_);
    const Values grad_conv = reference::unpool(p_, gradients_, expected_.selection);
    const reference::Backward expected = reference::backward(p_, grad_conv, inputs_, weights_);
    HostTensor grad_input(p_.dtype, input_.elements()), grad_weight(p_.dtype, weight_.elements());
    HostTensor grad_bias(p_.dtype, p_.out_channels);
    for (const int threads : {1, 3}) {
      HostContext context(threads);
      const char* error = kernels().backward(
          p_,
          {grad_output_.data(), selection(), input_.data(), weight_.data(), own.input ? grad_input.data() : nullptr,
           own.weight ? grad_weight.data() : nullptr, own.weight ? grad_bias.data() : nullptr},
          context);
      if (error) return fails(error);
      const double tolerance = tolerance_of(p_);
      if (own.input && !equal("grad_input", p_.dtype, grad_input, in_places_, expected.input, tolerance)) return false;
      if (own.weight &&
          !(equal("grad_weight", p_.dtype, grad_weight, in_order(weight_.elements()), expected.weight, 8 * tolerance) &&
            equal("grad_bias", p_.dtype, grad_bias, in_order(p_.out_channels), expected.bias, 8 * tolerance))) {
        return false;
      }
    }
    return true;
  }

  static bool fails(const char* reason) {
    std::printf("%s: ", reason);
    return false;
  }
  int64_t output_elements() const { return static_cast<int64_t>(out_places_.size()); }
  const uint8_t* selection() const { return needs_selection(p_) ? expected_.selection.data() : nullptr; }

  const ConvPool2d p_;
  const std::vector<int64_t> in_places_, out_places_;
  const Values inputs_, weights_, biases_, gradients_;
  const bool with_bias_;
  const reference::Forward expected_;
  HostTensor input_, weight_, bias_, grad_output_;
};

}  // namespace
}  // namespace fastvision

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const int problems = std::atoi(arguments[1]);
  fastvision::Random random(static_cast<unsigned>(std::atoi(arguments[2])));
  int ran = 0, wrong = 0;
  while (ran < problems) {
    const fastvision::ConvPool2d p = fastvision::random_problem(random);
    if (!fastvision_kernel_library()->conv->supports(p)) continue;
    ++ran;
    if (fastvision::Check(p, random).run()) continue;
    std::printf("%s\n", fastvision::describe(p).c_str());
    ++wrong;
  }
  std::printf("%s: %d of %d problems differ\n", fastvision_kernel_library()->name, wrong, problems);
  return wrong != 0;
}
