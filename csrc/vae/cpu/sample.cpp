// The sample and its KL, and their gradients: one pass over memory, the noise in the first cache.
#include "vae/cpu/sample.h"

#include "core/normal_vectors.h"
#include "vae/cpu/blocks.h"
#include "vae/terms.h"
#include "vae/visit.h"

namespace fastvision {
namespace {

static_assert(kBlock % kNormalStep == 0 && kBlock % kStep == 0);

PhiloxVectors stream_of(const int64_t* state) {
  return {static_cast<uint64_t>(state[0]), static_cast<uint64_t>(state[1])};
}

// The noise of a block, and some more.
void fill_block(const PhiloxVectors& stream, int64_t first, int64_t count, Buffer& noise) {
  fill_normals(stream, static_cast<uint64_t>(first) / 4, noise.data, round_up(count, kNormalStep));
}

// Returns twice the sum of KL.
template <KlResult kl_result>
double sample_block(const float* mu, const float* logvar, const float* noise, float* z, float* kl, int64_t count) {
  BlockSum sum;
  for (int64_t i = 0; i < count; i += kStep) {
    for_each_vector([&](int v) FASTVISION_INLINE {
      const int64_t at = i + v * kLanes;
      const Vec m = Vec::loadu(mu + at), l = Vec::loadu(logvar + at);
      const auto d = deviation<VectorMath>(l);
      sample<VectorMath>(m, Vec::loadu(noise + at), d).store(z + at);
      if constexpr (kl_result == KlResult::absent) return;
      const Vec twice = twice_kl<VectorMath>(m, l, d);
      if constexpr (kl_result == KlResult::elements) {
        (twice * Vec(0.5f)).store(kl + at);
      } else {
        sum.add(v, twice);
      }
    });
  }
  return kl_result == KlResult::total ? sum.total() : 0;
}

template <class T, KlResult kl_result>
void forward(const Reparameterization& p, const ReparameterizeForward& arrays, Context& context) {
  const PhiloxVectors stream = stream_of(arrays.state);
  constexpr bool kTotal = kl_result == KlResult::total, kElements = kl_result == KlResult::elements;
  const int64_t blocks = blocks_of(p.elements);
  auto* sums = kTotal ? static_cast<double*>(context.allocate(sizeof(double) * std::max<int64_t>(1, blocks))) : nullptr;
  for_each_block(p.elements, context, [&](int64_t block, int64_t first, int64_t count) {
    Buffer noise, mu, logvar, z, kl;
    void* kl_tensor = kElements ? arrays.kl : nullptr;
    fill_block(stream, first, count, noise);
    const double sum = sample_block<kl_result>(
        read_block<T>(arrays.mu, first, count, mu), read_block<T>(arrays.logvar, first, count, logvar), noise.data,
        begin_block<T>(arrays.z, first, count, z), begin_block<T>(kl_tensor, first, count, kl), count);
    finish_block<T>(arrays.z, first, count, z);
    finish_block<T>(kl_tensor, first, count, kl);
    if (kTotal) sums[block] = sum;
  });
  if (kTotal) store_one<T>(arrays.kl, 0.5 * p.kl_scale * sum_of_blocks(sums, blocks));
}

// Incoming gradients of a block; null is zero. That of the total KL is one number.
struct Incoming {
  const float* z;
  const float* kl;
  float total;
};

template <bool has_z, KlResult kl_result>
void gradient_block(const Incoming& incoming, const float* mu, const float* logvar, const float* noise, float* grad_mu,
                    float* grad_logvar, int64_t count) {
  for (int64_t i = 0; i < count; i += kStep) {
    for_each_vector([&](int v) FASTVISION_INLINE {
      const int64_t at = i + v * kLanes;
      Vec by_mu(0.f), by_logvar(0.f);  // the second doubled
      const auto d = deviation<VectorMath>(Vec::loadu(logvar + at));
      if constexpr (has_z) by_mu = Vec::loadu(incoming.z + at);
      if constexpr (kl_result != KlResult::absent) {
        const Vec g = kl_result == KlResult::total ? Vec(incoming.total) : Vec::loadu(incoming.kl + at);
        by_logvar = g * variance_minus_one<VectorMath>(d);
        if constexpr (has_z) by_logvar = VectorMath::fma(by_mu * Vec::loadu(noise + at), d.sigma, by_logvar);
        by_mu = VectorMath::fma(g, Vec::loadu(mu + at), by_mu);
      } else if constexpr (has_z) {
        by_logvar = by_mu * Vec::loadu(noise + at) * d.sigma;
      }
      if (grad_mu) by_mu.store(grad_mu + at);
      if (grad_logvar) (by_logvar * Vec(0.5f)).store(grad_logvar + at);
    });
  }
}

template <class T, bool has_z, KlResult kl_result>
void backward(const Reparameterization& p, const ReparameterizeBackward& arrays, Context& context) {
  const PhiloxVectors stream = stream_of(arrays.state);
  const float total = kl_result == KlResult::total ? static_cast<float>(load_one<T>(arrays.grad_kl) * p.kl_scale) : 0.f;
  for_each_block(p.elements, context, [&](int64_t, int64_t first, int64_t count) {
    Buffer noise, mu, logvar, z, kl, grad_mu, grad_logvar;
    if (has_z) fill_block(stream, first, count, noise);
    const Incoming incoming{has_z ? read_block<T>(arrays.grad_z, first, count, z) : nullptr,
                            kl_result == KlResult::elements ? read_block<T>(arrays.grad_kl, first, count, kl) : nullptr,
                            total};
    gradient_block<has_z, kl_result>(incoming, read_block<T>(arrays.mu, first, count, mu),
                                     read_block<T>(arrays.logvar, first, count, logvar), noise.data,
                                     begin_block<T>(arrays.grad_mu, first, count, grad_mu),
                                     begin_block<T>(arrays.grad_logvar, first, count, grad_logvar), count);
    finish_block<T>(arrays.grad_mu, first, count, grad_mu);
    finish_block<T>(arrays.grad_logvar, first, count, grad_logvar);
  });
}

}  // namespace

const char* vae_standard_normal(int64_t elements, const int64_t* state, float* noise, Context& context) {
  const PhiloxVectors stream = stream_of(state);
  for_each_block(elements, context, [&](int64_t, int64_t first, int64_t count) {
    Buffer buffer;
    if (count == kBlock) return fill_normals(stream, static_cast<uint64_t>(first) / 4, noise + first, count);
    fill_block(stream, first, count, buffer);
    std::memcpy(noise + first, buffer.data, sizeof(float) * count);
  });
  return nullptr;
}

const char* vae_sample_forward(const Reparameterization& p, const ReparameterizeForward& arrays, Context& context) {
  visit_dtype(p.dtype, [&]<class T>() { visit_kl(p.kl, [&]<KlResult kl>() { forward<T, kl>(p, arrays, context); }); });
  return nullptr;
}

const char* vae_sample_backward(const Reparameterization& p, const ReparameterizeBackward& arrays, Context& context) {
  visit_dtype(p.dtype, [&]<class T>() {
    visit_kl(arrays.grad_kl ? p.kl : KlResult::absent, [&]<KlResult kl>() {
      if (arrays.grad_z) {
        backward<T, true, kl>(p, arrays, context);
      } else {
        backward<T, false, kl>(p, arrays, context);
      }
    });
  });
  return nullptr;
}

}  // namespace fastvision
