// Autocast, as of the stock operators that these stand for: exp, pow and sum run in float32 on CUDA and are not touched
// on the CPU, losses run in float32 on both.
#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "core/operator_handle.h"
#include "vae/reference.h"

namespace fastvision {
namespace {

using at::Tensor;

template <c10::DeviceType device>
class Autocast {
 public:
  static Tensor reparameterize(const Tensor& mu, const Tensor& logvar, const std::optional<at::Generator>& generator) {
    static const auto op = find_operator<decltype(reparameterize)>("fastvision::reparameterize");
    const Autocast cast;
    return op.call(cast(mu), cast(logvar), generator);
  }

  static SampleAndKl reparameterize_kl(const Tensor& mu, const Tensor& logvar, std::string_view reduction,
                                       const std::optional<at::Generator>& generator) {
    static const auto op = find_operator<decltype(reparameterize_kl)>("fastvision::reparameterize_kl");
    const Autocast cast;
    return op.call(cast(mu), cast(logvar), reduction, generator);
  }

  static Tensor elbo_loss(const Tensor& recon, const Tensor& target, const Tensor& mu, const Tensor& logvar,
                          std::string_view reconstruction, double beta, double free_bits, std::string_view reduction) {
    static const auto op = find_operator<decltype(elbo_loss)>("fastvision::elbo_loss");
    const Autocast cast;
    return op.call(cast(recon), cast(target), cast(mu), cast(logvar), reconstruction, beta, free_bits, reduction);
  }

 private:
  Tensor operator()(const Tensor& tensor) const { return at::autocast::cached_cast(at::kFloat, tensor, device); }

  const c10::impl::ExcludeDispatchKeyGuard guard_{
      c10::DispatchKeySet(at::autocast::get_autocast_dispatch_key_from_device_type(device))};
};

}  // namespace

TORCH_LIBRARY_IMPL(fastvision, AutocastCPU, m) {
  m.impl("elbo_loss", &Autocast<c10::DeviceType::CPU>::elbo_loss);
}

TORCH_LIBRARY_IMPL(fastvision, AutocastCUDA, m) {
  m.impl("reparameterize", &Autocast<c10::DeviceType::CUDA>::reparameterize);
  m.impl("reparameterize_kl", &Autocast<c10::DeviceType::CUDA>::reparameterize_kl);
  m.impl("elbo_loss", &Autocast<c10::DeviceType::CUDA>::elbo_loss);
}

}  // namespace fastvision
