// Runs the vae kernels of the library it is linked with, without torch and Python: samples and KL against plain loops
// and the scalar generator, all passes with one thread against three, in memory of exactly the size needed. (What the
// gradients and the ELBO are worth is compared in Python, with those of stock.)
//
//   vae_kernels PROBLEMS SEED   exit status 1 and a line for each random problem that differs
#include <algorithm>

#include "core/kernel_library.h"
#include "core/normal.h"
#include "host_context.h"
#include "random_tensor.h"
#include "vae/kernels.h"

namespace fastvision {
namespace {

using Tensors = std::vector<Tensor>;

const VaeKernels& kernels() {
  return *fastvision_kernel_library()->vae;
}

Tensor empty(DType dtype, int64_t elements, bool aligned) {
  return std::make_unique<HostTensor>(dtype, elements, aligned);
}

double tolerance(DType dtype) {
  return dtype == DType::bf16 ? 1.0 / 128 : dtype == DType::f16 ? 1.0 / 1024 : 2e-6;
}

bool near(double actual, double expected, double size, DType dtype) {
  return std::abs(actual - expected) <= tolerance(dtype) * std::max(size, std::abs(expected));
}

struct Sampling {
  Reparameterization p;
  int64_t state[2];
  bool aligned;
  Tensor mu, logvar;

  explicit Sampling(Random& random) : aligned(random.coin()) {
    p.dtype = static_cast<DType>(random.between(0, 2));
    p.elements = random.coin() ? random.between(0, 200) : random.between(900, 40000);
    p.kl = static_cast<KlResult>(random.between(0, 2));
    p.kl_scale = random.coin() ? 1 : 0.25;
    for (int64_t& word : state) word = random.between(INT64_MIN, INT64_MAX);
    mu = random.tensor(p.dtype, p.elements, 2, aligned);
    logvar = random.tensor(p.dtype, p.elements, 1, aligned);
  }

  int64_t kl_elements() const { return p.kl == KlResult::absent ? 0 : p.kl == KlResult::total ? 1 : p.elements; }
};

// z and KL.
Tensors forward(const Sampling& s, int threads) {
  HostContext context(threads);
  Tensors results;
  results.push_back(empty(s.p.dtype, s.p.elements, s.aligned));
  results.push_back(s.p.kl == KlResult::absent ? nullptr : empty(s.p.dtype, s.kl_elements(), s.aligned));
  stop_at(kernels().forward(s.p, {data(s.mu), data(s.logvar), s.state, data(results[0]), data(results[1])}, context));
  return results;
}

Tensors backward(const Sampling& s, const Tensors& incoming, int wanted, int threads) {
  HostContext context(threads);
  Tensors results;
  for (int i = 0; i < 2; ++i) results.push_back(wanted >> i & 1 ? empty(s.p.dtype, s.p.elements, s.aligned) : nullptr);
  stop_at(kernels().backward(
      s.p,
      {data(incoming[0]), data(incoming[1]), data(s.mu), data(s.logvar), s.state, data(results[0]), data(results[1])},
      context));
  return results;
}

std::vector<float> noise_of(const Sampling& s) {
  std::vector<float> noise(s.p.elements);
  HostContext context(2);
  stop_at(kernels().standard_normal(s.p.elements, s.state, noise.data(), context));
  return noise;
}

bool is_the_scalar_generators(const Sampling& s, const std::vector<float>& noise) {
  for (int64_t i = 0; i < s.p.elements; ++i) {
    float quad[4];
    normal_quad(static_cast<uint64_t>(s.state[0]), static_cast<uint64_t>(s.state[1]), i / 4, quad);
    if (std::memcmp(&quad[i % 4], &noise[i], sizeof(float)) == 0) continue;
    std::printf("noise %lld is %.9g, expected %.9g: ", static_cast<long long>(i), noise[i], quad[i % 4]);
    return false;
  }
  return true;
}

bool agrees_with_plain_loops(const Sampling& s, const std::vector<float>& noise, const Tensors& results) {
  double sum = 0, size = 0;
  for (int64_t i = 0; i < s.p.elements; ++i) {
    const double mu = s.mu->at(i), logvar = s.logvar->at(i), kl = 0.5 * (mu * mu + std::exp(logvar) - 1 - logvar);
    const double spread = noise[i] * std::exp(logvar / 2);
    if (!near(results[0]->at(i), mu + spread, std::abs(mu) + std::abs(spread), s.p.dtype)) {
      std::printf("z %lld is %.9g, expected %.9g: ", static_cast<long long>(i), results[0]->at(i), mu + spread);
      return false;
    }
    if (s.p.kl == KlResult::elements && !near(results[1]->at(i), kl, 1, s.p.dtype)) {
      std::printf("KL %lld is %.9g, expected %.9g: ", static_cast<long long>(i), results[1]->at(i), kl);
      return false;
    }
    sum += kl;
    size += std::abs(kl);
  }
  // In 16 bits a sum beyond 65504 is infinite.
  const double total = s.p.kl_scale * sum;
  if (s.p.kl != KlResult::total || (s.p.dtype == DType::f16 && total > 65000)) return true;
  if (near(results[1]->at(0), total, s.p.kl_scale * size, s.p.dtype)) return true;
  std::printf("KL is %.9g, expected %.9g: ", results[1]->at(0), total);
  return false;
}

bool same_bits(const char* what, const Tensors& one, const Tensors& other) {
  for (size_t i = 0; i < one.size(); ++i) {
    if (!one[i] || one[i]->has_same_bits(*other[i])) continue;
    std::printf("%s %zu depends on the number of threads: ", what, i);
    return false;
  }
  return true;
}

bool check_sampling(Random& random) {
  const Sampling s(random);
  const Tensors results = forward(s, 1);
  const std::vector<float> noise = noise_of(s);
  Tensors incoming;
  incoming.push_back(random.between(0, 3) ? random.tensor(s.p.dtype, s.p.elements, 1, s.aligned) : nullptr);
  incoming.push_back(results[1] && random.between(0, 3) ? random.tensor(s.p.dtype, s.kl_elements(), 1, s.aligned)
                                                        : nullptr);
  const int wanted = random.between(0, 3);
  if (is_the_scalar_generators(s, noise) && agrees_with_plain_loops(s, noise, results) &&
      same_bits("result", results, forward(s, 3)) &&
      same_bits("gradient", backward(s, incoming, wanted, 1), backward(s, incoming, wanted, 3))) {
    return true;
  }
  std::printf("sampling, dtype %d, %lld elements, KL %d\n", static_cast<int>(s.p.dtype),
              static_cast<long long>(s.p.elements), static_cast<int>(s.p.kl));
  return false;
}

struct Loss {
  ElboLoss p;
  bool aligned;
  Tensor recon, target, mu, logvar, grad_loss;

  explicit Loss(Random& random) : aligned(random.coin()) {
    p.dtype = static_cast<DType>(random.between(0, 2));
    p.reconstruction = static_cast<Reconstruction>(random.between(0, 2));
    p.recon_elements = random.between(0, random.coin() ? 100 : 30000);
    p.latent_elements = random.between(0, random.coin() ? 100 : 30000);
    p.free_bits = random.coin() ? 0 : 0.5;
    for (Tensor* tensor : {&recon, &target}) {
      *tensor = empty(p.dtype, p.recon_elements, aligned);
      for (int64_t i = 0; i < p.recon_elements; ++i) (*tensor)->set(i, random.between(0, 64) / 64.0);
    }
    mu = random.tensor(p.dtype, p.latent_elements, 1, aligned);
    logvar = random.tensor(p.dtype, p.latent_elements, 1, aligned);
    grad_loss = random.tensor(p.dtype, 1, 1, aligned);
  }
};

Tensors run(const Loss& l, int wanted, int threads) {
  HostContext context(threads);
  Tensors results;
  results.push_back(empty(l.p.dtype, 1, l.aligned));
  stop_at(kernels().elbo_forward(l.p, {data(l.recon), data(l.target), data(l.mu), data(l.logvar), data(results[0])},
                                 context));
  for (int i = 0; i < 3; ++i) {
    const int64_t elements = i ? l.p.latent_elements : l.p.recon_elements;
    results.push_back(wanted >> i & 1 ? empty(l.p.dtype, elements, l.aligned) : nullptr);
  }
  stop_at(kernels().elbo_backward(l.p,
                                  {data(l.grad_loss), data(l.recon), data(l.target), data(l.mu), data(l.logvar),
                                   data(results[1]), data(results[2]), data(results[3])},
                                  context));
  return results;
}

bool check_loss(Random& random) {
  const Loss l(random);
  const int wanted = random.between(0, 7);
  if (same_bits("result", run(l, wanted, 1), run(l, wanted, 3))) return true;
  std::printf("ELBO, dtype %d, %lld and %lld elements\n", static_cast<int>(l.p.dtype),
              static_cast<long long>(l.p.recon_elements), static_cast<long long>(l.p.latent_elements));
  return false;
}

}  // namespace
}  // namespace fastvision

int main(int argc, char** argv) {
  return fastvision::run_problems(argc, argv, [](fastvision::Random& random) {
    const bool samples = fastvision::check_sampling(random);
    return fastvision::check_loss(random) && samples;
  });
}
