#include "conv/options.h"

#include <c10/util/Exception.h>

#include <limits>

#include "core/symbolic.h"

namespace fastvision {
namespace {

constexpr const char* kOp = "fastvision::conv2d_pool2d: ";

// Stock's limit for pools, and here for all options: the product of two fits 64 bits.
constexpr int64_t kMaxOption = std::numeric_limits<int32_t>::max();

void check_range(const char* name, at::IntArrayRef values, int64_t minimum) {
  for (const int64_t value : values) {
    TORCH_CHECK(value >= minimum && value <= kMaxOption, kOp, name, ": expected integers from ", minimum, " to ",
                kMaxOption, ", got ", values);
  }
}

Pair pair_of(at::IntArrayRef values, const char* name, int64_t minimum) {
  TORCH_CHECK(values.size() == 1 || values.size() == 2, kOp, name, ": expected 1 or 2 integers, got ", values);
  const Pair pair{values[0], values[values.size() - 1]};
  check_range(name, values, minimum);
  return pair;
}

std::array<int64_t, 4> padding_of(at::IntArrayRef values) {
  if (values.size() == 4) {
    check_range("padding", values, 0);
    return {values[0], values[1], values[2], values[3]};
  }
  const Pair pair = pair_of(values, "padding", 0);
  return {pair[0], pair[0], pair[1], pair[1]};
}

Activation activation_of(std::string_view name) {
  const auto activation = activation_named(name);
  TORCH_CHECK(activation, kOp, "activation: expected 'none', 'relu', 'relu6', 'silu' or 'hardswish', got '", name, "'");
  return *activation;
}

Pool pool_of(std::string_view name) {
  TORCH_CHECK(name == "none" || name == "max" || name == "avg", kOp, "pool: expected 'none', 'max' or 'avg', got '",
              name, "'");
  return name == "none" ? Pool::none : name == "max" ? Pool::max : Pool::avg;
}

}  // namespace

ConvPool2dOptions::ConvPool2dOptions(at::IntArrayRef stride_, at::IntArrayRef padding_, at::IntArrayRef dilation_,
                                     int64_t groups_, std::string_view activation_, std::string_view pool_,
                                     at::IntArrayRef pool_kernel_size_, at::IntArrayRef pool_stride_,
                                     at::IntArrayRef pool_padding_, bool ceil_mode_, bool count_include_pad_)
    : stride(pair_of(stride_, "stride", 1)),
      dilation(pair_of(dilation_, "dilation", 1)),
      padding(padding_of(padding_)),
      groups(groups_),
      activation(activation_of(activation_)),
      pool(pool_of(pool_)),
      pool_kernel_size{1, 1},
      pool_stride{1, 1},
      pool_padding{0, 0},
      ceil_mode(ceil_mode_),
      count_include_pad(count_include_pad_) {
  check_range("groups", groups, 1);
  if (pool == Pool::none) return;
  pool_kernel_size = pair_of(pool_kernel_size_, "pool_kernel_size", 1);
  pool_stride = pool_stride_.empty() ? pool_kernel_size : pair_of(pool_stride_, "pool_stride", 1);
  pool_padding = pair_of(pool_padding_, "pool_padding", 0);
  TORCH_CHECK(pool_padding[0] <= pool_kernel_size[0] / 2 && pool_padding[1] <= pool_kernel_size[1] / 2, kOp,
              "pool_padding: expected at most half of pool_kernel_size ", pool_kernel_size_, ", got ", pool_padding_);
}

ConvPool2dOptions ConvPool2dOptions::from(at::ArrayRef<c10::IValue> a) {
  const auto integers = [&](size_t i) { return a.at(i).toIntVector(); };
  return {integers(0), integers(1), integers(2), a.at(3).toInt(),  a.at(4).toStringView(), a.at(5).toStringView(),
          integers(6), integers(7), integers(8), a.at(9).toBool(), a.at(10).toBool()};
}

ConvPool2dOptions ConvPool2dOptions::without_epilogue() const {
  ConvPool2dOptions o = *this;
  o.activation = Activation::none;
  o.pool = Pool::none;
  o.pool_kernel_size = o.pool_stride = {1, 1};
  o.pool_padding = {0, 0};
  return o;
}

std::vector<int64_t> ConvPool2dOptions::pack() const {
  return {stride[0],
          stride[1],
          dilation[0],
          dilation[1],
          padding[0],
          padding[1],
          padding[2],
          padding[3],
          groups,
          static_cast<int64_t>(activation),
          static_cast<int64_t>(pool),
          pool_kernel_size[0],
          pool_kernel_size[1],
          pool_stride[0],
          pool_stride[1],
          pool_padding[0],
          pool_padding[1],
          ceil_mode,
          count_include_pad};
}

ConvPool2dOptions ConvPool2dOptions::unpack(const std::vector<int64_t>& v) {
  ConvPool2dOptions o;
  o.stride = {v[0], v[1]};
  o.dilation = {v[2], v[3]};
  o.padding = {v[4], v[5], v[6], v[7]};
  o.groups = v[8];
  o.activation = static_cast<Activation>(v[9]);
  o.pool = static_cast<Pool>(v[10]);
  o.pool_kernel_size = {v[11], v[12]};
  o.pool_stride = {v[13], v[14]};
  o.pool_padding = {v[15], v[16]};
  o.ceil_mode = v[17] != 0;
  o.count_include_pad = v[18] != 0;
  return o;
}

namespace {

// What check_tensors asks of sizes: symbolic ones (torch.compile) take four times as long.
template <class Int>
void check_sizes(const ConvPool2dOptions& o, c10::ArrayRef<Int> input, c10::ArrayRef<Int> weight,
                 const at::Tensor* bias) {
  const size_t dim = input.size();
  const Int &channels = input[dim - 3], &height = input[dim - 2], &width = input[dim - 1];
  TORCH_CHECK(channels == weight[1] * o.groups, kOp, "input: expected ", weight[1] * o.groups, " channels (weight ",
              weight, ", groups ", o.groups, "), got ", channels, " (input ", input, ")");
  TORCH_CHECK(weight[0] % o.groups == 0, kOp, "weight: expected out_channels divisible by groups ", o.groups, ", got ",
              weight);
  TORCH_CHECK(!bias || (bias->dim() == 1 && bias->sym_size(0) == weight[0]), kOp, "bias: expected shape (", weight[0],
              "), got ", bias->sym_sizes());
  const std::array<Int, 2> padded{height + o.padding[0] + o.padding[1], width + o.padding[2] + o.padding[3]};
  for (const int axis : {0, 1}) {
    const Int reach = (weight[2 + axis] - 1) * o.dilation[axis] + 1;
    TORCH_CHECK(weight[2 + axis] > 0 && padded[axis] >= reach, kOp,
                "weight: expected a kernel that fits the padded input (", padded[0], ", ", padded[1],
                "), got a dilated kernel of ", reach, " along dimension ", axis);
  }
  const auto shape = output_shape<Int>(o, height, width, weight[2], weight[3]);
  TORCH_CHECK(shape.out_h >= 1 && shape.out_w >= 1, kOp,
              "pool_kernel_size: expected a window that fits the convolution's output (", shape.conv_h, ", ",
              shape.conv_w, "), got ", at::IntArrayRef(o.pool_kernel_size));
}

}  // namespace

void check_tensors(const ConvPool2dOptions& o, const at::Tensor& input, const at::Tensor& weight,
                   const std::optional<at::Tensor>& optional_bias) {
  TORCH_CHECK(weight.dim() == 4, kOp,
              "weight: expected shape (out_channels, in_channels / groups, kernel_h, kernel_w), got ",
              weight.sym_sizes());
  TORCH_CHECK(input.dim() == 3 || input.dim() == 4, kOp,
              "input: expected shape (batch, channels, height, width) or (channels, height, width), got ",
              input.sym_sizes());
  const at::Tensor* bias = optional_bias && optional_bias->defined() ? &*optional_bias : nullptr;
  const auto check_like_input = [&](const char* name, const at::Tensor& tensor) {
    TORCH_CHECK(tensor.scalar_type() == input.scalar_type(), kOp, name, ": expected the dtype of input, ",
                input.scalar_type(), ", got ", tensor.scalar_type());
    TORCH_CHECK(tensor.device() == input.device(), kOp, name, ": expected the device of input, ", input.device(),
                ", got ", tensor.device());
  };
  check_like_input("weight", weight);
  if (is_symbolic(input) || is_symbolic(weight)) {
    check_sizes<c10::SymInt>(o, input.sym_sizes(), weight.sym_sizes(), bias);
  } else {
    check_sizes<int64_t>(o, input.sizes(), weight.sizes(), bias);
  }
  if (bias) check_like_input("bias", *bias);
}

at::MemoryFormat output_memory_format(const at::Tensor& input, const at::Tensor& weight) {
  const bool channels_last = input.suggest_memory_format() == at::MemoryFormat::ChannelsLast ||
                             weight.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  return channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
}

at::Tensor without_batch(const ConvPool2dOptions& o, const at::Tensor& output) {
  const at::Tensor image = output.squeeze(0);
  return o.pool == Pool::none ? image : image.contiguous();
}

}  // namespace fastvision
