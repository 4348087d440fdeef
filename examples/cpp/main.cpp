// Runs a model that fastvision.export wrote, without Python: ./film film.pt2
#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <exception>

namespace {

void print_numbers(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.contiguous();
  const float* numbers = dense.const_data_ptr<float>();
  for (int64_t i = 0; i < dense.numel(); ++i) std::printf(i ? " %.9g" : "%.9g", numbers[i]);
  std::printf("\n");
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s film.pt2\n", arguments[0]);
    return 2;
  }
  try {
    const at::NoGradGuard no_grad;
    torch::inductor::AOTIModelPackageLoader model(arguments[1]);
    at::manual_seed(0);
    const at::Tensor films = at::randn({3, 5, 1, 16, 16});
    for (const at::Tensor& result : model.run({films})) print_numbers(result);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
