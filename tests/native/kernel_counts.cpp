// Calls one kernel after the other with one thread, for tools/instruction_counts.py, which counts the instructions of
// each call of fastvision_counted. Prints the kernels' names in the order of these calls.
//
// Each kernel has run before it is counted, and finds memory at hand: counts depend on its code and nothing else.
#include <string>

#include "conv/kernels.h"
#include "core/kernel_library.h"
#include "random_tensor.h"
#include "rnn/kernels.h"
#include "vae/kernels.h"

// Not inlined, and with a name that valgrind finds.
extern "C" __attribute__((noinline)) void fastvision_counted(void (*call)(void*), void* argument) {
  call(argument);
  asm volatile("" ::: "memory");
}

namespace fastvision {
namespace {

// One thread; memory that is used again in every call.
class CountedContext final : public Context {
 public:
  void* allocate(size_t bytes) override {
    char* block = arena_.get() + used_;
    used_ += (bytes + 63) / 64 * 64;
    if (used_ > kBytes) std::abort();
    return block;
  }
  void free_all() { used_ = 0; }

 protected:
  void run_parallel(int64_t n, RangeBody call, const void* body) override { call(body, 0, n); }

 private:
  static constexpr size_t kBytes = 64 << 20;
  struct Free {
    void operator()(char* block) const { std::free(block); }
  };
  std::unique_ptr<char, Free> arena_{static_cast<char*>(std::aligned_alloc(64, kBytes))};
  size_t used_ = 0;
};

CountedContext context;
Random numbers(1);

template <class Call>
void count(const char* name, const Call& call) {
  const auto run = [](void* argument) {
    context.free_all();
    stop_at((*static_cast<const Call*>(argument))());
  };
  run(const_cast<Call*>(&call));
  fastvision_counted(run, const_cast<Call*>(&call));
  std::printf("%s\n", name);
}

Tensor tensor(int64_t elements) {
  return numbers.tensor(DType::f32, elements, 0.1);
}

// Square images in fp32, contiguous, with 2x2 max-pooling where `pooled`.
void count_conv(const std::string& name, int64_t in_channels, int64_t out_channels, int64_t size, int64_t kernel_size,
                bool pooled, bool winograd, bool training) {
  const ConvKernels& kernels = *fastvision_kernel_library()->conv;
  ConvPool2d p;
  p.allow_winograd = winograd;
  p.batch = 1;
  p.in_channels = in_channels;
  p.out_channels = out_channels;
  p.in_h = p.in_w = size;
  p.kernel_h = p.kernel_w = kernel_size;
  p.conv_h = p.conv_w = size - kernel_size + 1;
  p.pool = pooled ? Pool::max : Pool::none;
  if (pooled) p.pool_kernel_h = p.pool_kernel_w = p.pool_stride_h = p.pool_stride_w = 2;
  p.out_h = p.out_w = pooled ? p.conv_h / 2 : p.conv_h;
  p.input_strides = dense_strides(false, in_channels, size, size);
  p.output_strides = dense_strides(false, out_channels, p.out_h, p.out_w);
  const int64_t inputs = in_channels * size * size, outputs = out_channels * p.out_h * p.out_w;
  const int64_t weights = out_channels * in_channels * kernel_size * kernel_size;
  const Tensor input = tensor(inputs), weight = tensor(weights), bias = tensor(out_channels), output = tensor(outputs);
  std::vector<uint8_t> selection(outputs);
  const auto forward = [&] {
    return kernels.forward(
        p, {data(input), data(weight), data(bias), data(output), training ? selection.data() : nullptr}, context);
  };
  if (!training) return count(("conv " + name).c_str(), forward);
  stop_at(forward());
  const Tensor grad_output = tensor(outputs), grad_input = tensor(inputs), grad_weight = tensor(weights),
               grad_bias = tensor(out_channels);
  count(("conv " + name).c_str(), [&] {
    return kernels.backward(p,
                            {data(grad_output), selection.data(), data(input), data(weight), data(grad_input),
                             data(grad_weight), data(grad_bias)},
                            context);
  });
}

void count_rnn(const std::string& name, RnnMode mode, int64_t steps, int64_t batch, int64_t input_size,
               int64_t hidden_size) {
  const RnnKernels& kernels = *fastvision_kernel_library()->rnn;
  RnnLayer p;
  p.mode = mode;
  p.steps = steps;
  p.batch = batch;
  p.input_size = p.input_row_stride = input_size;
  p.hidden_size = hidden_size;
  p.rows = steps * batch;
  p.input_step_stride = batch * input_size;
  const bool lstm = mode == RnnMode::lstm;
  const int64_t gates = p.gates() * hidden_size, states = batch * hidden_size;
  const Tensor input = tensor(p.rows * input_size), hidden = tensor(states), cell = lstm ? tensor(states) : nullptr;
  const Tensor w = tensor(gates * input_size), u = tensor(gates * hidden_size), b = tensor(gates), d = tensor(gates);
  const RnnWeights weights{data(w), data(u), data(b), data(d)};
  const Tensor output = tensor(p.rows * hidden_size), last_hidden = tensor(states),
               last_cell = lstm ? tensor(states) : nullptr;
  const Tensor reserve = tensor(p.rows * reserve_blocks(mode) * hidden_size);
  const auto forward = [&](bool training) {
    return kernels.forward(p,
                           {data(input),
                            data(hidden),
                            data(cell),
                            {weights},
                            data(output),
                            data(last_hidden),
                            data(last_cell),
                            training ? static_cast<float*>(data(reserve)) : nullptr},
                           context);
  };
  count((name + " forward").c_str(), [&] { return forward(false); });
  if (batch == 1) return;
  stop_at(forward(true));
  const Tensor grad_output = tensor(p.rows * hidden_size), grad_input = tensor(p.rows * input_size),
               grad_hidden = tensor(states), grad_cell = lstm ? tensor(states) : nullptr;
  const Tensor grad_w = tensor(gates * input_size), grad_u = tensor(gates * hidden_size), grad_b = tensor(gates),
               grad_d = tensor(gates);
  count((name + " backward").c_str(), [&] {
    RnnBackward call{};
    call.grad_output = data(grad_output);
    call.input = data(input);
    call.hidden = data(hidden);
    call.cell = data(cell);
    call.weights[0] = weights;
    call.output = data(output);
    call.reserve = static_cast<const float*>(data(reserve));
    call.grad_input = data(grad_input);
    call.grad_hidden = data(grad_hidden);
    call.grad_cell = data(grad_cell);
    call.grad_weights[0] = {data(grad_w), data(grad_u), data(grad_b), data(grad_d)};
    return kernels.backward(p, call, context);
  });
}

void count_vae() {
  const VaeKernels& kernels = *fastvision_kernel_library()->vae;
  constexpr int64_t kElements = 8192;
  const Tensor mu = tensor(kElements), logvar = tensor(kElements), z = tensor(kElements), kl = tensor(1);
  const Tensor grad_z = tensor(kElements), grad_kl = tensor(1), grad_mu = tensor(kElements),
               grad_logvar = tensor(kElements), grad_recon = tensor(kElements);
  const int64_t state[2] = {1, 2};
  Reparameterization p;
  p.elements = kElements;
  p.kl = KlResult::total;
  count("vae sample forward",
        [&] { return kernels.forward(p, {data(mu), data(logvar), state, data(z), data(kl)}, context); });
  count("vae sample backward", [&] {
    return kernels.backward(
        p, {data(grad_z), data(grad_kl), data(mu), data(logvar), state, data(grad_mu), data(grad_logvar)}, context);
  });
  ElboLoss loss;
  loss.reconstruction = Reconstruction::bce_with_logits;
  loss.recon_elements = loss.latent_elements = kElements;
  count("vae loss forward",
        [&] { return kernels.elbo_forward(loss, {data(z), data(grad_z), data(mu), data(logvar), data(kl)}, context); });
  count("vae loss backward", [&] {
    return kernels.elbo_backward(loss,
                                 {data(grad_kl), data(z), data(grad_z), data(mu), data(logvar), data(grad_recon),
                                  data(grad_mu), data(grad_logvar)},
                                 context);
  });
}

}  // namespace
}  // namespace fastvision

int main() {
  using namespace fastvision;
  count_conv("direct 3>32", 3, 32, 34, 3, /*pooled=*/true, /*winograd=*/false, /*training=*/false);
  count_conv("direct 32>32", 32, 32, 18, 3, true, false, false);
  count_conv("winograd 32>32", 32, 32, 26, 3, true, true, false);
  count_conv("planes 3>32", 3, 32, 34, 3, true, true, false);
  count_conv("1x1 64>64", 64, 64, 14, 1, false, false, false);
  count_conv("few outputs 16>3", 16, 3, 34, 3, false, false, false);
  count_conv("backward 16>32", 16, 32, 18, 3, true, false, /*training=*/true);
  count_rnn("lstm sequence", RnnMode::lstm, 8, 16, 32, 64);
  count_rnn("gru sequence", RnnMode::gru, 8, 16, 32, 64);
  count_rnn("lstm of one", RnnMode::lstm, 8, 1, 32, 64);
  count_rnn("gru of one", RnnMode::gru, 8, 1, 32, 64);
  count_vae();
}
