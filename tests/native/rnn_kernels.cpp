// Runs the rnn kernels of the library it is linked with, without torch and Python: the forward pass against plain
// loops, both passes with one thread against three, in memory of exactly the size needed. (What the gradients are worth
// is compared in Python, with those of stock.)
//
//   rnn_kernels PROBLEMS SEED   exit status 1 and a line for each random problem that differs
#include <algorithm>
#include <cstdio>

#include "core/kernel_library.h"
#include "host_context.h"
#include "random_tensor.h"
#include "rnn/kernels.h"

namespace fastvision {
namespace {

struct Problem {
  RnnLayer p;
  std::vector<int64_t> batch_sizes, offsets;
  Tensor input, hidden, cell, weights[2][4];  // of int8 the matrices that it stands for, in fp32
  Tensor noise;
  RnnMasks masks;
  Tensor scales[2][2];
  std::unique_ptr<int8_t[]> bytes[2][2];

  explicit Problem(Random& random) {
    p.mode = random.coin() ? RnnMode::lstm : RnnMode::gru;
    p.dtype = static_cast<DType>(random.between(0, 2));
    const RnnKernels& kernels = *fastvision_kernel_library()->rnn;
    if (kernels.decodes_weights && random.coin()) p.storage = random.coin() ? RnnStorage::bf16 : RnnStorage::int8;
    p.batch = random.between(1, random.coin() ? 3 : 20);
    p.steps = random.between(1, 6);
    if (p.batch == 1 && random.coin()) p.steps = random.coin() ? 20 : 64;  // enough to pack the input's weights, or all
    p.input_size = random.between(1, 40);
    p.hidden_size = random.between(1, 40);
    if (p.batch == 1 && !random.between(0, 7)) {  // enough for threads to share the steps
      p.hidden_size = random.between(210, 250);
      p.steps = random.coin() ? 12 : 64;
    }
    p.directions = random.between(1, 2);
    batch_sizes.assign(p.steps, p.batch);
    const bool packed = random.coin();
    for (int64_t t = 0; t < p.steps; ++t) {
      if (packed && t)
        batch_sizes[t] = random.between(std::max<int64_t>(1, batch_sizes[t - 1] - 6), batch_sizes[t - 1]);
      offsets.push_back(p.rows);
      p.rows += batch_sizes[t];
    }
    if (packed) p.batch_sizes = batch_sizes.data();
    const bool sequences_first = !packed && random.coin();
    const int64_t width = p.input_size + random.between(0, 3);
    p.input_row_stride = sequences_first ? p.steps * width : width;
    p.input_step_stride = sequences_first ? width : p.batch * width;
    input = random.tensor(p.dtype, (p.rows - 1) * width + p.input_size, 1);
    const int64_t states = p.directions * p.batch * p.hidden_size, gates = p.gates() * p.hidden_size;
    hidden = random.tensor(p.dtype, states, 0.7);
    if (p.mode == RnnMode::lstm) cell = random.tensor(p.dtype, states, 1);
    const bool biases = random.coin();
    for (int64_t d = 0; d < p.directions; ++d) {
      for (int i = 0; i < 2; ++i) make_matrix(random, d, i, gates, i ? p.hidden_size : p.input_size);
      for (int i = 2; biases && i < 4; ++i) weights[d][i] = random.tensor(p.dtype, gates, 0.5);
    }
    if (kernels.takes_masks && random.coin()) add_masks(random);
  }

  // Of each row, or the same for all.
  void add_masks(Random& random) {
    const int64_t row = mask_blocks(p.mode) * p.hidden_size, rows = random.coin() ? p.rows : 1;
    noise = random.tensor(DType::f32, p.directions * rows * row, 0.7);
    for (int64_t i = 0; i < noise->elements(); ++i) noise->set(i, std::clamp(noise->at(i), 0.0, 1.0));
    masks.data = static_cast<const float*>(noise->data());
    masks.direction_stride = rows * row;
    masks.row_stride = rows > 1 ? row : 0;
    masks.block_stride = p.hidden_size;
  }
  // Without masks nothing is kept and candidates are whole.
  double mask_at(int64_t d, int64_t t, int64_t b, int64_t block, int64_t unit) const {
    if (!noise) return block == mask_blocks(p.mode) - 1;
    return masks.row(d, offsets[t] + b)[block * masks.block_stride + unit];
  }

  void make_matrix(Random& random, int64_t d, int i, int64_t rows, int64_t columns) {
    // Many large weights would make the states chaotic: rounding errors would grow with each step.
    const double gain = std::sqrt(40.0 / std::max<int64_t>(40, p.hidden_size));
    if (p.storage != RnnStorage::int8) {
      weights[d][i] = random.tensor(p.storage == RnnStorage::bf16 ? DType::bf16 : p.dtype, rows * columns, 0.3 * gain);
      return;
    }
    weights[d][i] = std::make_unique<HostTensor>(DType::f32, rows * columns);
    scales[d][i] = std::make_unique<HostTensor>(DType::f32, rows);
    bytes[d][i].reset(new int8_t[rows * columns]);
    for (int64_t row = 0; row < rows; ++row) {
      scales[d][i]->set(row, 1e-3 * gain * random.between(0, 8));
      for (int64_t j = row * columns; j < (row + 1) * columns; ++j) {
        bytes[d][i][j] = static_cast<int8_t>(random.between(-128, 127));
        weights[d][i]->set(j, bytes[d][i][j] * scales[d][i]->at(row));
      }
    }
  }

  void set_weights(RnnWeights (&target)[2]) const {
    for (int64_t d = 0; d < p.directions; ++d) {
      const auto& w = weights[d];
      target[d] = {data(w[0]), data(w[1]), data(w[2]), data(w[3])};
      if (p.storage != RnnStorage::int8) continue;
      target[d].input = bytes[d][0].get();
      target[d].hidden = bytes[d][1].get();
      target[d].input_scale = static_cast<const float*>(data(scales[d][0]));
      target[d].hidden_scale = static_cast<const float*>(data(scales[d][1]));
    }
  }
  double input_at(int64_t t, int64_t b, int64_t i) const {
    const int64_t row =
        p.batch_sizes ? (offsets[t] + b) * p.input_row_stride : t * p.input_step_stride + b * p.input_row_stride;
    return input->at(row + i);
  }
};

// output, final_hidden, final_cell and the reserve.
using Results = std::vector<Tensor>;

Results forward(const Problem& problem, int threads, bool training) {
  const RnnLayer& p = problem.p;
  const int64_t states = p.directions * p.batch * p.hidden_size;
  Results results(4);
  results[0] = std::make_unique<HostTensor>(p.dtype, p.rows * p.directions * p.hidden_size);
  results[1] = std::make_unique<HostTensor>(p.dtype, states);
  if (problem.cell) results[2] = std::make_unique<HostTensor>(p.dtype, states);
  if (training) {
    const int64_t blocks = reserve_blocks(p.mode, problem.masks.data);
    results[3] = std::make_unique<HostTensor>(DType::f32, p.directions * p.rows * blocks * p.hidden_size);
  }
  RnnForward arrays{};
  arrays.input = data(problem.input);
  arrays.hidden = data(problem.hidden);
  arrays.cell = data(problem.cell);
  problem.set_weights(arrays.weights);
  arrays.output = data(results[0]);
  arrays.final_hidden = data(results[1]);
  arrays.final_cell = data(results[2]);
  arrays.reserve = static_cast<float*>(data(results[3]));
  arrays.masks = problem.masks;
  HostContext context(threads);
  stop_at(fastvision_kernel_library()->rnn->forward(p, arrays, context));
  return results;
}

// Gradients of input, hidden, cell and of the weights of each direction, those in `wanted`.
Results backward(const Problem& problem, const Results& results, const Results& incoming, uint64_t wanted,
                 int threads) {
  const RnnLayer& p = problem.p;
  Results gradients(11);
  const auto make = [&](size_t i, const Tensor& like, int64_t elements) {
    if (like && wanted >> i & 1) gradients[i] = std::make_unique<HostTensor>(p.dtype, elements);
    return data(gradients[i]);
  };
  RnnBackward arrays{};
  arrays.grad_output = data(incoming[0]);
  arrays.grad_final_hidden = data(incoming[1]);
  arrays.grad_final_cell = data(incoming[2]);
  arrays.input = data(problem.input);
  arrays.hidden = data(problem.hidden);
  arrays.cell = data(problem.cell);
  problem.set_weights(arrays.weights);
  arrays.output = data(results[0]);
  arrays.reserve = static_cast<const float*>(data(results[3]));
  arrays.masks = problem.masks;
  arrays.grad_input = make(0, problem.input, p.rows * p.input_size);
  arrays.grad_hidden = make(1, problem.hidden, problem.hidden->elements());
  arrays.grad_cell = make(2, problem.cell, problem.hidden->elements());
  for (int64_t d = 0; d < p.directions; ++d) {
    void* made[4];
    for (int i = 0; i < 4; ++i) {
      const Tensor& weight = problem.weights[d][i];
      made[i] = make(3 + 4 * d + i, weight, weight ? weight->elements() : 0);
    }
    arrays.grad_weights[d] = {made[0], made[1], made[2], made[3]};
  }
  HostContext context(threads);
  stop_at(fastvision_kernel_library()->rnn->backward(p, arrays, context));
  return gradients;
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

// The next state of one sequence, in place.
void plain_step(const Problem& problem, int64_t d, int64_t t, int64_t b, std::vector<double>& h,
                std::vector<double>& c) {
  const RnnLayer& p = problem.p;
  const int64_t size = p.hidden_size;
  const auto& w = problem.weights[d];
  std::vector<double> x(p.gates() * size), u(p.gates() * size);
  for (int64_t gate = 0; gate < p.gates() * size; ++gate) {
    x[gate] = w[2] ? w[2]->at(gate) : 0;
    u[gate] = w[3] ? w[3]->at(gate) : 0;
    for (int64_t i = 0; i < p.input_size; ++i) {
      x[gate] += w[0]->at(gate * p.input_size + i) * problem.input_at(t, b, i);
    }
    for (int64_t i = 0; i < size; ++i) u[gate] += w[1]->at(gate * size + i) * h[i];
  }
  const auto mask = [&](int64_t block, int64_t unit) { return problem.mask_at(d, t, b, block, unit); };
  const auto zoneout = [](double k, double old, double fresh) { return k * old + (1 - k) * fresh; };
  for (int64_t j = 0; j < size; ++j) {
    const double first = sigmoid(x[j] + u[j]), second = sigmoid(x[size + j] + u[size + j]);
    if (p.mode == RnnMode::lstm) {
      const double g = std::tanh(x[2 * size + j] + u[2 * size + j]), o = sigmoid(x[3 * size + j] + u[3 * size + j]);
      const double next = second * c[j] + first * g * mask(2, j);
      c[j] = zoneout(mask(1, j), c[j], next);
      h[j] = zoneout(mask(0, j), h[j], o * std::tanh(next));
    } else {
      const double n = std::tanh(x[2 * size + j] + first * u[2 * size + j]) * mask(1, j);
      h[j] = zoneout(mask(0, j), h[j], (1 - second) * n + second * h[j]);
    }
  }
}

bool close(const char* what, const Tensor& tensor, int64_t i, double expected, DType dtype) {
  const double tolerance = dtype == DType::f32 ? 1e-5 : dtype == DType::f16 ? 2e-3 : 2e-2;
  const double got = tensor->at(i);
  if (std::fabs(got - expected) <= tolerance * (1 + std::fabs(expected))) return true;
  std::printf("%s[%lld] = %.9g, expected %.9g: ", what, static_cast<long long>(i), got, expected);
  return false;
}

bool agrees_with_plain_loops(const Problem& problem, const Results& results) {
  const RnnLayer& p = problem.p;
  const int64_t size = p.hidden_size;
  for (int64_t d = 0; d < p.directions; ++d) {
    for (int64_t b = 0; b < p.batch; ++b) {
      const int64_t state = (d * p.batch + b) * size;
      std::vector<double> h(size), c(size);
      for (int64_t j = 0; j < size; ++j) {
        h[j] = problem.hidden->at(state + j);
        c[j] = problem.cell ? problem.cell->at(state + j) : 0;
      }
      for (int64_t i = 0; i < p.steps; ++i) {
        const int64_t t = d ? p.steps - 1 - i : i;
        if (b >= p.batch_at(t)) continue;
        plain_step(problem, d, t, b, h, c);
        const int64_t row = ((problem.offsets[t] + b) * p.directions + d) * size;
        for (int64_t j = 0; j < size; ++j) {
          if (!close("output", results[0], row + j, h[j], p.dtype)) return false;
        }
      }
      for (int64_t j = 0; j < size; ++j) {
        if (!close("final_hidden", results[1], state + j, h[j], p.dtype)) return false;
        if (problem.cell && !close("final_cell", results[2], state + j, c[j], p.dtype)) return false;
      }
    }
  }
  return true;
}

bool same_bits(const char* what, const Results& one, const Results& other) {
  for (size_t i = 0; i < one.size(); ++i) {
    if (!one[i] || !other[i] || one[i]->has_same_bits(*other[i])) continue;
    std::printf("%s %zu depends on the number of threads: ", what, i);
    return false;
  }
  return true;
}

bool check(Random& random) {
  const Problem problem(random);
  const RnnLayer& p = problem.p;
  const bool trains = p.storage == RnnStorage::same;
  const Results inference = forward(problem, 1, false), training = forward(problem, 3, trains);
  Results incoming;
  for (const int i : {0, 1, 2}) {
    const bool exists = training[i] && random.between(0, 3);
    incoming.push_back(exists ? random.tensor(p.dtype, training[i]->elements(), 1) : nullptr);
  }
  const uint64_t wanted = random.coin() ? ~uint64_t{0} : random.between(0, 1 << 11);
  if (agrees_with_plain_loops(problem, inference) && same_bits("result", inference, training) &&
      (!trains || same_bits("gradient", backward(problem, training, incoming, wanted, 1),
                            backward(problem, training, incoming, wanted, 3)))) {
    return true;
  }
  std::printf("%s%s, dtype %d, storage %d, %lld steps of %lld%s, %lld > %lld, %lld directions\n",
              p.mode == RnnMode::lstm ? "LSTM" : "GRU", problem.noise ? " with masks" : "", static_cast<int>(p.dtype),
              static_cast<int>(p.storage), static_cast<long long>(p.steps), static_cast<long long>(p.batch),
              p.batch_sizes ? " packed" : "", static_cast<long long>(p.input_size),
              static_cast<long long>(p.hidden_size), static_cast<long long>(p.directions));
  return false;
}

}  // namespace
}  // namespace fastvision

int main(int argc, char** argv) {
  return fastvision::run_problems(argc, argv, fastvision::check);
}
