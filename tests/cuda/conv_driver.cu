// Runs the conv kernels on the emulated GPU, forward and backward, and compares them with
// conv_reference.h. Inputs are small integers, so that sums are exact in every format and nearly all
// results, the selection with its many ties included, must be equal to the last bit.
//
//   conv_driver CASES SEED THREADS [far]   so many random problems on each of so many threads;
//                                          exit status 1 and a line for each problem that differs; `far` puts
//                                          more than 2^31 elements between one image of a batch and the next
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "conv/cuda/kernels.h"
#include "conv_reference.h"
#include "core/gpu.h"

namespace fastvision {
namespace {

using reference::Values;

// Workspaces of exactly the size asked for, so that AddressSanitizer sees what goes beyond.
class DriverContext : public Context {
 public:
  ~DriverContext() {
    for (void* p : allocated_) std::free(p);
  }
  void* allocate(size_t bytes) override {
    void* p = nullptr;
    if (posix_memalign(&p, 64, bytes) != 0) std::abort();
    std::memset(p, 0xff, bytes);
    allocated_.push_back(p);
    return p;
  }

 protected:
  void run_parallel(int64_t, RangeBody, const void*) override { std::abort(); }

 private:
  std::vector<void*> allocated_;
};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int between(int low, int high) { return std::uniform_int_distribution<int>(low, high)(engine_); }
  bool chance(int one_in) { return between(1, one_in) == 1; }
  template <class T, size_t n>
  T one_of(const T (&choices)[n]) {
    return choices[between(0, n - 1)];
  }

 private:
  std::mt19937 engine_;
};

struct Problem {
  ConvPool2d p;
  bool with_bias, training, channels_last, unaligned, with_nan;
};

constexpr int64_t kFar = int64_t{1} << 31;  // elements

ImageStrides dense_strides(bool channels_last, int64_t channels, int64_t height, int64_t width) {
  if (channels_last) return {channels * height * width, 1, channels * width, channels};
  return {channels * height * width, height * width, width, 1};
}

int64_t pooled_size(Random& random, int64_t size, int64_t kernel, int64_t stride, int64_t pad) {
  int64_t pooled = (size + 2 * pad - kernel) / stride + 1;
  const bool ceil_mode = random.chance(2);
  if (ceil_mode && (size + 2 * pad - kernel) % stride != 0 && pooled * stride < size + pad) ++pooled;
  return pooled;
}

void choose_pool(Random& random, ConvPool2d& p) {
  p.pool = random.one_of({Pool::none, Pool::max, Pool::max, Pool::avg});
  p.activation = random.chance(4) ? Activation::none : Activation::relu;
  p.count_include_pad = random.chance(2);
  if (p.pool == Pool::none) return;
  const int largest = static_cast<int>(std::min<int64_t>({p.conv_h, p.conv_w, 4}));
  p.pool_kernel_h = random.chance(2) ? std::min(2, largest) : random.between(1, largest);
  p.pool_kernel_w = random.chance(2) ? p.pool_kernel_h : random.between(1, largest);
  p.pool_stride_h = random.between(1, 3);
  p.pool_stride_w = random.between(1, 3);
  p.pool_pad_h = random.between(0, static_cast<int>(p.pool_kernel_h / 2));
  p.pool_pad_w = random.between(0, static_cast<int>(p.pool_kernel_w / 2));
}

Problem random_problem(Random& random, bool far) {
  Problem problem{};
  ConvPool2d& p = problem.p;
  p.dtype = random.one_of({DType::f32, DType::f16, DType::bf16});
  p.allow_tf32 = p.dtype == DType::f32 && random.chance(2);
  p.batch = random.between(1, 3);
  p.in_channels = random.one_of({1, 2, 3, 4, 7, 8, 16, 24, 33});
  p.out_channels = random.one_of({1, 3, 8, 16, 31, 32, 33, 40, 65, 72});
  p.kernel_h = random.between(1, 4);
  p.kernel_w = random.chance(2) ? p.kernel_h : random.between(1, 5);
  p.stride_h = random.one_of({1, 1, 2, 3});
  p.stride_w = random.chance(2) ? p.stride_h : random.between(1, 3);
  p.dilation_h = random.one_of({1, 1, 2});
  p.dilation_w = random.one_of({1, 1, 2, 3});
  p.pad_top = random.between(0, 2);
  p.pad_left = random.between(0, 3);
  const int64_t bottom = random.between(0, 2), right = random.between(0, 2);
  p.in_h = p.dilation_h * (p.kernel_h - 1) + random.between(1, 14);
  p.in_w = p.dilation_w * (p.kernel_w - 1) + random.between(1, 14);
  p.conv_h = (p.in_h + p.pad_top + bottom - p.dilation_h * (p.kernel_h - 1) - 1) / p.stride_h + 1;
  p.conv_w = (p.in_w + p.pad_left + right - p.dilation_w * (p.kernel_w - 1) - 1) / p.stride_w + 1;
  choose_pool(random, p);
  p.out_h = pooled_size(random, p.conv_h, p.pool_kernel_h, p.pool_stride_h, p.pool_pad_h);
  p.out_w = pooled_size(random, p.conv_w, p.pool_kernel_w, p.pool_stride_w, p.pool_pad_w);
  problem.channels_last = random.chance(2);
  problem.with_bias = !random.chance(4);
  problem.training = selection_fits(p) && !random.chance(3);
  problem.unaligned = random.chance(6);
  problem.with_nan = random.chance(6);
  p.input_strides = dense_strides(problem.channels_last, p.in_channels, p.in_h, p.in_w);
  p.output_strides = dense_strides(problem.channels_last, p.out_channels, p.out_h, p.out_w);
  if (far) {
    p.input_strides.n += kFar;
    p.output_strides.n += kFar;
  }
  return problem;
}

std::string describe(const Problem& problem) {
  const ConvPool2d& p = problem.p;
  const char* const dtypes[] = {"f32", "bf16", "f16"};
  const char* const pools[] = {"none", "max", "avg"};
  char text[512];
  std::snprintf(text, sizeof text,
                "%s%s %s batch %ld in %ldx%ldx%ld out %ld kernel %ldx%ld stride %ldx%ld pad %ld,%ld dilation %ldx%ld "
                "conv %ldx%ld relu %d pool %s %ldx%ld stride %ldx%ld pad %ldx%ld%s%s%s%s",
                dtypes[static_cast<int>(p.dtype)], p.allow_tf32 ? " tf32" : "",
                problem.channels_last ? "channels_last" : "contiguous", p.batch, p.in_channels, p.in_h, p.in_w,
                p.out_channels, p.kernel_h, p.kernel_w, p.stride_h, p.stride_w, p.pad_top, p.pad_left, p.dilation_h,
                p.dilation_w, p.conv_h, p.conv_w, p.activation == Activation::relu, pools[static_cast<int>(p.pool)],
                p.pool_kernel_h, p.pool_kernel_w, p.pool_stride_h, p.pool_stride_w, p.pool_pad_h, p.pool_pad_w,
                problem.with_bias ? " bias" : "", problem.training ? " training" : "",
                problem.unaligned ? " unaligned" : "", problem.with_nan ? " nan" : "");
  return text;
}

Values random_values(Random& random, int64_t count, int largest) {
  Values values(count);
  for (double& value : values) value = random.between(-largest, largest);
  return values;
}

// Memory for elements in the kernels' type. As a rule of exactly the size asked for, so that AddressSanitizer
// sees what goes beyond; beyond 2^31 elements only the pages that are touched exist.
template <class Element>
class Tensor {
 public:
  // `unaligned` moves it off 16-byte boundaries.
  explicit Tensor(int64_t size, bool unaligned = false)
      : offset_(unaligned ? 1 : 0), bytes_((size + offset_) * sizeof(Element)) {
    if (size < kFar) {
      data_ = static_cast<Element*>(std::malloc(bytes_));
      for (int64_t i = 0; i < size + offset_; ++i) data_[i] = gpu::from_float<Element>(std::nanf(""));
    } else {
      void* pages = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (pages == MAP_FAILED) std::abort();
      data_ = static_cast<Element*>(pages);
      mapped_ = true;
    }
  }
  ~Tensor() {
    if (mapped_) {
      munmap(data_, bytes_);
    } else {
      std::free(data_);
    }
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  Element* data() { return data_ + offset_; }
  double at(int64_t i) const { return gpu::to_float(data_[i + offset_]); }
  void set(int64_t i, double value) { data()[i] = gpu::from_float<Element>(static_cast<float>(value)); }

 private:
  int64_t offset_;
  size_t bytes_;
  Element* data_ = nullptr;
  bool mapped_ = false;
};

// Position in memory of each element of a dense (batch, channel, row, column) tensor.
std::vector<int64_t> layout(const ImageStrides& s, int64_t batch, int64_t channels, int64_t height, int64_t width) {
  std::vector<int64_t> places;
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x) places.push_back(n * s.n + c * s.c + y * s.h + x * s.w);
  return places;
}

std::vector<int64_t> dense_layout(int64_t count) {
  std::vector<int64_t> places(count);
  for (int64_t i = 0; i < count; ++i) places[i] = i;
  return places;
}

int64_t size_of(const std::vector<int64_t>& places) {
  return *std::max_element(places.begin(), places.end()) + 1;
}

template <class Element>
void upload(const Values& values, const std::vector<int64_t>& places, Tensor<Element>& tensor) {
  for (size_t i = 0; i < values.size(); ++i) tensor.set(places[i], values[i]);
}

// The first difference in words, or nothing.
template <class Element>
std::string compare(const char* what, const Tensor<Element>& tensor, const std::vector<int64_t>& places,
                    const Values& expected, double tolerance) {
  for (size_t i = 0; i < expected.size(); ++i) {
    const double got = tensor.at(places[i]);
    const double want = gpu::to_float(gpu::from_float<Element>(static_cast<float>(expected[i])));
    if (std::isnan(want) ? std::isnan(got) : std::fabs(got - want) <= tolerance * (std::fabs(want) + 1)) continue;
    return std::string(what) + "[" + std::to_string(i) + "] = " + std::to_string(got) + ", expected " +
           std::to_string(want);
  }
  return {};
}

// Averages and what follows from them are rounded; everything else is exact.
template <class Element>
double tolerance_of(const ConvPool2d& p) {
  if (p.pool != Pool::avg) return 0;
  if (p.allow_tf32 || std::is_same_v<Element, __half>) return 1e-2;
  return std::is_same_v<Element, float> ? 1e-5 : 6e-2;
}

template <class Element>
std::string check_backward(const Problem& problem, Random& random, const reference::Forward& forward,
                           Tensor<Element>& input, Tensor<Element>& weight, const Values& inputs,
                           const Values& weights) {
  const ConvPool2d& p = problem.p;
  const auto in_places = layout(p.input_strides, p.batch, p.in_channels, p.in_h, p.in_w);
  const auto out_places = layout(p.output_strides, p.batch, p.out_channels, p.out_h, p.out_w);
  const auto conv_strides = dense_strides(true, p.out_channels, p.conv_h, p.conv_w);
  const auto conv_places = layout(conv_strides, p.batch, p.out_channels, p.conv_h, p.conv_w);
  const Values gradients = random_values(random, static_cast<int64_t>(forward.output.size()), 2);
  Tensor<Element> grad_output(size_of(out_places));
  upload(gradients, out_places, grad_output);
  const uint8_t* selection = needs_selection(p) ? forward.selection.data() : nullptr;

  const int64_t weight_size = static_cast<int64_t>(weights.size());
  DriverContext context;
  Tensor<Element> grad_conv(size_of(conv_places));
  Tensor<Element> grad_input(size_of(in_places)), grad_weight(weight_size), grad_bias(p.out_channels);
  const char* error = cuda_conv_kernels.unpool(p, grad_output.data(), selection, grad_conv.data(), context);
  if (error == nullptr) {
    error = cuda_conv_kernels.backward(p,
                                       {grad_output.data(), selection, input.data(), weight.data(), grad_input.data(),
                                        grad_weight.data(), grad_bias.data()},
                                       context);
  }
  if (error != nullptr) return error;
  const double tolerance = tolerance_of<Element>(p);
  const Values expected_conv = reference::unpool(p, gradients, forward.selection);
  const reference::Backward expected = reference::backward(p, expected_conv, inputs, weights);
  for (const std::string& difference :
       {compare("grad_conv", grad_conv, conv_places, expected_conv, tolerance),
        compare("grad_input", grad_input, in_places, expected.input, tolerance),
        compare("grad_weight", grad_weight, dense_layout(weight_size), expected.weight, 8 * tolerance),
        compare("grad_bias", grad_bias, dense_layout(p.out_channels), expected.bias, 8 * tolerance)}) {
    if (!difference.empty()) return difference;
  }
  return {};
}

template <class Element>
std::string check(const Problem& problem, Random& random) {
  const ConvPool2d& p = problem.p;
  const auto in_places = layout(p.input_strides, p.batch, p.in_channels, p.in_h, p.in_w);
  const auto out_places = layout(p.output_strides, p.batch, p.out_channels, p.out_h, p.out_w);
  Values inputs = random_values(random, static_cast<int64_t>(in_places.size()), 2);
  if (problem.with_nan) inputs[random.between(0, static_cast<int>(inputs.size()) - 1)] = std::nan("");
  const Values weights = random_values(random, p.out_channels * p.in_channels * p.kernel_h * p.kernel_w, 1);
  const Values biases = random_values(random, p.out_channels, 3);
  const auto weight_places = dense_layout(static_cast<int64_t>(weights.size()));
  Tensor<Element> input(size_of(in_places), problem.unaligned);
  Tensor<Element> weight(size_of(weight_places)), bias(p.out_channels);
  upload(inputs, in_places, input);
  upload(weights, weight_places, weight);
  upload(biases, dense_layout(p.out_channels), bias);

  DriverContext context;
  Tensor<Element> output(size_of(out_places));
  const bool selects = problem.training && needs_selection(p);
  std::vector<uint8_t> selection(selects ? out_places.size() : 0);
  const char* error = cuda_conv_kernels.forward(p,
                                                {input.data(), weight.data(), problem.with_bias ? bias.data() : nullptr,
                                                 output.data(), selects ? selection.data() : nullptr},
                                                context);
  if (error != nullptr) return error;
  const reference::Forward expected = reference::forward(p, inputs, weights, problem.with_bias ? &biases : nullptr);
  const std::string difference = compare("output", output, out_places, expected.output, tolerance_of<Element>(p));
  if (!difference.empty()) return difference;
  if (selects && selection != expected.selection) return "selection differs";
  if (!problem.training) return {};
  return check_backward(problem, random, expected, input, weight, inputs, weights);
}

std::string check(const Problem& problem, Random& random) {
  if (!cuda_conv_kernels.supports(problem.p)) {
    return "not supported";
  }
  if (problem.p.dtype == DType::f32) return check<float>(problem, random);
  return problem.p.dtype == DType::f16 ? check<__half>(problem, random) : check<__nv_bfloat16>(problem, random);
}

int count_wrong(int cases, unsigned seed, bool far) {
  Random random(seed);
  int wrong = 0;
  for (int i = 0; i < cases; ++i) {
    const Problem problem = random_problem(random, far);
    const std::string difference = check(problem, random);
    if (difference.empty()) continue;
    std::printf("%s: %s\n", describe(problem).c_str(), difference.c_str());
    ++wrong;
  }
  return wrong;
}

}  // namespace
}  // namespace fastvision

int main(int count, char** arguments) {
  if (count < 4 || count > 5) return 2;
  const bool far = count == 5 && std::strcmp(arguments[4], "far") == 0;
  const int cases = std::atoi(arguments[1]), seed = std::atoi(arguments[2]), threads = std::atoi(arguments[3]);
  std::atomic<int> wrong{0};
  std::vector<std::thread> workers;
  for (int i = 0; i < threads; ++i) {
    workers.emplace_back([&, i] { wrong += fastvision::count_wrong(cases, static_cast<unsigned>(seed + i), far); });
  }
  for (std::thread& worker : workers) worker.join();
  std::printf("%d of %d problems differ\n", wrong.load(), cases * threads);
  return wrong != 0;
}
