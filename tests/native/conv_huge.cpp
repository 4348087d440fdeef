// 64-bit index arithmetic: conv kernels on tensors of more than 2^31 elements, of which only the last few
// are computed and only their pages exist.
//
//   conv_huge   exit status 1 if a result differs from the same numbers in small tensors, 77 if the system
//               has no address space for the tensors
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#include "conv/kernels.h"
#include "core/kernel_library.h"
#include "host_tensor.h"

namespace fastvision {
namespace {

constexpr int kNoAddressSpace = 77;

// fp32 or bytes that read as zero until they are written.
template <class T>
class SparseTensor {
 public:
  explicit SparseTensor(int64_t elements) : elements_(elements) {
    void* block =
        mmap(nullptr, elements * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (block == MAP_FAILED) std::exit(kNoAddressSpace);
    data_ = static_cast<T*>(block);
  }
  ~SparseTensor() { munmap(data_, elements_ * sizeof(T)); }
  SparseTensor(const SparseTensor&) = delete;
  SparseTensor& operator=(const SparseTensor&) = delete;

  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  int64_t size() const { return elements_; }

 private:
  int64_t elements_;
  T* data_;
};

// Runs short loops whole and of long ones the last turn only: the end of the tensor, at no cost.
class LastTurnContext final : public Context {
 public:
  ~LastTurnContext() {
    for (void* block : blocks_) std::free(block);
  }
  void* allocate(size_t bytes) override {
    blocks_.push_back(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    std::memset(blocks_.back(), 0, bytes);
    return blocks_.back();
  }

 protected:
  void run_parallel(int64_t n, RangeBody call, const void* body) override { call(body, n < kLongLoop ? 0 : n - 1, n); }

 private:
  static constexpr int64_t kLongLoop = 16;
  std::vector<void*> blocks_;
};

const ConvKernels& kernels() {
  return *fastvision_kernel_library()->conv;
}

ConvPool2d problem(int64_t batch, int64_t in_channels, int64_t height, int64_t width, int64_t kernel,
                   bool channels_last) {
  ConvPool2d p;
  p.batch = batch;
  p.in_channels = in_channels;
  p.out_channels = 8;
  p.kernel_h = p.kernel_w = kernel;
  p.in_h = height;
  p.in_w = width;
  p.conv_h = height - kernel + 1;
  p.conv_w = width - kernel + 1;
  p.pool_kernel_h = p.pool_kernel_w = p.pool_stride_h = p.pool_stride_w = 2;
  p.out_h = p.conv_h / 2;
  p.out_w = p.conv_w / 2;
  p.input_strides = dense_strides(channels_last, in_channels, height, width);
  p.output_strides = dense_strides(channels_last, p.out_channels, p.out_h, p.out_w);
  return p;
}

struct Tensors {
  explicit Tensors(const ConvPool2d& p)
      : input(p.batch * p.in_channels * p.in_h * p.in_w),
        output(p.batch * p.out_channels * p.out_h * p.out_w),
        selection(output.size()),
        grad_input(input.size()),
        weight(p.out_channels * p.in_channels * p.kernel_h * p.kernel_w),
        bias(p.out_channels, 1.f),
        grad_weight(weight.size()) {
    for (size_t i = 0; i < weight.size(); ++i) weight[i] = static_cast<float>(i * 7 % 5) - 2;
  }

  SparseTensor<float> input, output;  // in the backward pass the output is the gradient of the output
  SparseTensor<uint8_t> selection;
  SparseTensor<float> grad_input;
  std::vector<float> weight, bias, grad_weight;
};

// Numbers for the last `rows` input rows of the last image: the same in the huge problem and in the small one.
void fill_last_rows(const ConvPool2d& p, Tensors& t, int64_t rows) {
  for (int64_t c = 0; c < p.in_channels; ++c)
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t x = 0; x < p.in_w; ++x) {
        const int64_t at = (p.batch - 1) * p.input_strides.n + c * p.input_strides.c +
                           (p.in_h - rows + y) * p.input_strides.h + x * p.input_strides.w;
        t.input[at] = static_cast<float>((c * 5 + y * 3 + x * 7) % 11 - 5);
      }
}

// So that the gradient is the same in the huge problem, of which the last turn alone was computed, and in the small
// one.
void keep_last_row_of_output(const ConvPool2d& p, Tensors& t, int64_t rows) {
  for (int64_t c = 0; c < p.out_channels; ++c)
    for (int64_t y = p.out_h - rows; y < p.out_h - 1; ++y)
      for (int64_t x = 0; x < p.out_w; ++x) {
        const ImageStrides& s = p.output_strides;
        t.output[(p.batch - 1) * s.n + c * s.c + y * s.h + x * s.w] = 0;
      }
}

bool run(const ConvPool2d& p, Tensors& t, int64_t rows, bool with_weight) {
  LastTurnContext context;
  const char* error = kernels().forward(
      p, {t.input.data(), t.weight.data(), t.bias.data(), t.output.data(), t.selection.data()}, context);
  keep_last_row_of_output(p, t, rows);
  if (!error) {
    error = kernels().backward(p,
                               {t.output.data(), t.selection.data(), t.input.data(), t.weight.data(),
                                t.grad_input.data(), with_weight ? t.grad_weight.data() : nullptr, nullptr},
                               context);
  }
  if (error) std::printf("%s\n", error);
  return !error;
}

// Compares the last row of the last image of an (image, channel, row, column) tensor in both problems.
template <class T>
bool same_last_row(const char* what, SparseTensor<T>& huge, int64_t huge_start, int64_t huge_rows,
                   const ImageStrides& a, SparseTensor<T>& small, int64_t small_rows, const ImageStrides& b,
                   int64_t channels, int64_t columns) {
  bool any = false;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t x = 0; x < columns; ++x) {
      const T got = huge[huge_start + c * a.c + (huge_rows - 1) * a.h + x * a.w];
      const T want = small[c * b.c + (small_rows - 1) * b.h + x * b.w];
      any = any || want != T(0);
      if (got == want) continue;
      std::printf("%s differs in channel %ld, column %ld: ", what, c, x);
      return false;
    }
  if (!any) std::printf("%s is zero throughout, nothing was computed: ", what);
  return any;
}

bool same_results(const ConvPool2d& p, Tensors& huge, const ConvPool2d& q, Tensors& small) {
  const int64_t image = p.batch - 1;
  const ImageStrides a = dense_strides(true, p.out_channels, p.out_h, p.out_w);
  const ImageStrides b = dense_strides(true, q.out_channels, q.out_h, q.out_w);
  return same_last_row("output", huge.output, image * p.output_strides.n, p.out_h, p.output_strides, small.output,
                       q.out_h, q.output_strides, p.out_channels, p.out_w) &&
         same_last_row("selection", huge.selection, image * a.n, p.out_h, a, small.selection, q.out_h, b,
                       p.out_channels, p.out_w) &&
         same_last_row("grad_input", huge.grad_input, image * p.input_strides.n, p.in_h, p.input_strides,
                       small.grad_input, q.in_h, q.input_strides, p.in_channels, p.in_w);
}

// `rows` input rows are all that the last turn needs.
bool agrees_with_small(const char* name, const ConvPool2d& p, int64_t rows, bool with_weight = false) {
  const bool channels_last = p.input_strides.c == 1 && p.in_channels > 1;
  const ConvPool2d q = problem(1, p.in_channels, rows, p.in_w, p.kernel_h, channels_last);
  Tensors huge(p), small(q);
  constexpr int64_t kIntMax = 0x7fffffff;
  bool good = huge.input.size() > kIntMax && huge.output.size() > kIntMax;
  if (!good) std::printf("not huge: ");
  fill_last_rows(p, huge, rows);
  fill_last_rows(q, small, rows);
  good = good && run(p, huge, q.out_h, with_weight) && run(q, small, q.out_h, with_weight);
  good = good && same_results(p, huge, q, small);
  if (good && huge.grad_weight != small.grad_weight) {
    std::printf("grad_weight differs: ");
    good = false;
  }
  std::printf("%s %s: %s\n", channels_last ? "channels_last" : "contiguous", name, good ? "agrees" : "differs");
  return good;
}

}  // namespace
}  // namespace fastvision

int main() {
  using fastvision::agrees_with_small;
  using fastvision::problem;
  bool good = true;
  for (const bool channels_last : {false, true}) {
    good &= agrees_with_small("many images", problem(3 << 19, 8, 34, 34, 3, channels_last), 34);
    good &= agrees_with_small("a large image", problem(1, 8, 1 << 16, 1 << 15, 3, channels_last), 8);
  }
  good &= agrees_with_small("few channels", problem(1, 3, 1 << 16, 1 << 16, 3, false), 8);
  good &= agrees_with_small("gradient of the weight", problem(1, 1, 1 << 16, 1 << 16, 1, false), 6, true);
  return good ? 0 : 1;
}
