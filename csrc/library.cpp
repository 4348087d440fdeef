// Every operator's schema: the table of contents of the native side.
#include <torch/library.h>

#include "conv/options.h"

namespace fastvision {

TORCH_LIBRARY(fastvision, m) {
  const auto def = [&m](const std::string& schema) { m.def(schema.c_str()); };
  const std::string& conv_options = kConvPool2dOptionsSchema;

  // 2-D convolution + bias + activation + pooling.
  def("conv2d_pool2d(Tensor input, Tensor weight, Tensor? bias=None, " + conv_options + ") -> Tensor");
  // With batch normalisation by given statistics before the activation.
  const std::string norm = "Tensor mean, Tensor var, Tensor? gamma, Tensor? beta, float eps=1e-05, ";
  def("conv2d_batch_norm_pool2d(Tensor input, Tensor weight, Tensor? bias, " + norm + conv_options + ") -> Tensor");
  // The same for training: the second result tells where each output's gradient goes (conv/conv.h).
  def("conv2d_pool2d_with_selection(Tensor input, Tensor weight, Tensor? bias=None, " + conv_options +
      ") -> (Tensor, Tensor)");
  // Gradients of input, weight and bias; those not in output_mask are empty tensors.
  def("conv2d_pool2d_backward(Tensor grad_output, Tensor selection, Tensor input, Tensor weight, "
      "bool[3] output_mask, " +
      conv_options + ") -> (Tensor, Tensor, Tensor)");
  // The same computation in stock PyTorch calls.
  def("conv2d_pool2d_reference(Tensor input, Tensor weight, Tensor? bias=None, " + conv_options + ") -> Tensor");
  def("conv2d_batch_norm_pool2d_reference(Tensor input, Tensor weight, Tensor? bias, " + norm + conv_options +
      ") -> Tensor");

  // One step of an LSTM or GRU: hidden state, and the cell's state where there is one.
  const std::string cell_parameters = "Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None";
  def("lstm_cell(Tensor input, Tensor hx, Tensor cx, " + cell_parameters + ") -> (Tensor, Tensor)");
  def("gru_cell(Tensor input, Tensor hx, " + cell_parameters + ") -> Tensor");
  // All layers over whole sequences; with batch_sizes the input is packed. Arguments as torch.lstm and torch.gru.
  const std::string sequence_options =
      "Tensor[] params, bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, "
      "bool batch_first, Tensor? batch_sizes=None";
  def("lstm(Tensor input, Tensor[] hx, " + sequence_options + ") -> (Tensor, Tensor, Tensor)");
  def("gru(Tensor input, Tensor hx, " + sequence_options + ") -> (Tensor, Tensor)");
  def("lstm_reference(Tensor input, Tensor[] hx, " + sequence_options + ") -> (Tensor, Tensor, Tensor)");
  def("gru_reference(Tensor input, Tensor hx, " + sequence_options + ") -> (Tensor, Tensor)");
  // Both with zoneout, one rate for each state, and recurrent dropout: LSTM with two states, GRU with one (cy is
  // empty).
  def("regularized_rnn(Tensor input, Tensor[] hx, " + sequence_options +
      ", *, float[] zoneout, float recurrent_dropout) -> (Tensor, Tensor, Tensor)");
  // One layer, what the kernels compute: LSTM with cx, GRU without. hx is (directions, batch, hidden_size), input
  // (steps, batch, input_size), or (rows, input_size) with batch_sizes; params are w_ih, w_hh and, where there are
  // biases, b_ih, b_hh of each direction. Results: output, hy, cy (empty for GRU).
  // With masks it is a layer with noise (rnn/rnn.h).
  const std::string layer = "Tensor input, Tensor hx, Tensor? cx, Tensor[] params, Tensor? batch_sizes";
  def("rnn_layer(" + layer + ", Tensor? masks=None) -> (Tensor, Tensor, Tensor)");
  // The same for training: the last result is what backward needs (rnn/rnn.h).
  def("rnn_layer_with_reserve(" + layer + ", Tensor? masks=None) -> (Tensor, Tensor, Tensor, Tensor)");
  // One layer in inference, from weights in bfloat16 or int8, whatever the input's dtype is: w_ih, w_hh of each
  // direction. scales: a float32 factor for each row of an int8 matrix; none for bfloat16. biases: b_ih, b_hh of each
  // direction in the input's dtype, or none. A cell's input is (batch, input_size), its states (batch, hidden_size).
  def("rnn_layer_quantized(Tensor input, Tensor hx, Tensor? cx, Tensor[] weights, Tensor[] scales, Tensor[] biases, "
      "Tensor? batch_sizes) -> (Tensor, Tensor, Tensor)");
  // Gradients of input, hx, cx and params; those not in output_mask are empty tensors. An absent gradient is zero.
  def("rnn_layer_backward(Tensor? grad_output, Tensor? grad_hy, Tensor? grad_cy, " + layer +
      ", Tensor output, Tensor reserve, bool[4] output_mask, Tensor? masks=None) -> (Tensor, Tensor, Tensor, "
      "Tensor[])");

  // A sample z = mu + eps exp(logvar / 2) of the normal distribution, and its Kullback-Leibler divergence from N(0, 1).
  const std::vector<at::Tag> random{at::Tag::nondeterministic_seeded};
  const auto def_random = [&](const std::string& schema) { m.def(schema.c_str(), random); };
  const std::string latents = "Tensor mu, Tensor logvar";
  def_random("reparameterize(" + latents + ", *, Generator? generator=None) -> Tensor");
  def_random("reparameterize_kl(" + latents +
             ", *, str reduction='sum', Generator? generator=None) -> (Tensor, Tensor)");
  // Negative evidence lower bound: reconstruction + beta * sum of max(KL, free_bits).
  const std::string elbo_tensors = "Tensor recon, Tensor target, " + latents;
  const std::string elbo_options = "str reconstruction='mse', float beta=1.0, float free_bits=0.0, str reduction='sum'";
  def("elbo_loss(" + elbo_tensors + ", *, " + elbo_options + ") -> Tensor");
  // The same in stock PyTorch calls, from noise as an argument. Without a reduction KL is an empty tensor, here and
  // below.
  def("reparameterize_reference(" + latents + ", Tensor noise, str? reduction=None) -> (Tensor, Tensor)");
  def("elbo_loss_reference(" + elbo_tensors + ", " + elbo_options + ") -> Tensor");
  // Where the noise comes from: two int64, a seed and an offset (core/philox.h), on the device of `like`, in one draw
  // from the generator. All below is a function of it.
  def_random("philox_state(Tensor like, *, Generator? generator=None) -> Tensor");
  // The noise as a tensor: of float64 the same numbers in another format.
  def("standard_normal(SymInt[] size, Tensor state, *, ScalarType? dtype=None) -> Tensor");
  // What the kernels compute: mu and logvar of one shape and dtype; for the loss, recon and target likewise.
  def("reparameterize_forward(" + latents + ", Tensor state, str? reduction=None) -> (Tensor, Tensor)");
  def("elbo_loss_forward(" + elbo_tensors + ", " + elbo_options + ") -> Tensor");
  // Gradients of mu and logvar; of recon, mu and logvar. Those not in output_mask are empty tensors. An absent gradient
  // is zero.
  def("reparameterize_backward(Tensor? grad_z, Tensor? grad_kl, " + latents +
      ", Tensor state, str? reduction, bool[2] output_mask) -> (Tensor, Tensor)");
  def("elbo_loss_backward(Tensor grad_loss, " + elbo_tensors +
      ", str reconstruction, float beta, float free_bits, str reduction, bool[3] output_mask) -> (Tensor, Tensor, "
      "Tensor)");

  // Images (batch, channels, height, width) read through an affine map each, (batch, 2, 3) from the result's rows and
  // columns to theirs, times a scale, plus an offset: one number, or one for each channel.
  const std::string resampling =
      "Tensor images, Tensor matrices, *, float[] scale, float[] offset, str interpolation='bilinear', "
      "str fill_mode='nearest', float cval=0.0, MemoryFormat memory_format=contiguous_format";
  def("affine_resample(" + resampling + ") -> Tensor");
  // The same in stock PyTorch calls.
  def("affine_resample_reference(" + resampling + ") -> Tensor");

  // As torch.cat, torch.add and torch.mul, in kept memory.
  def("cat(Tensor[] tensors, int dim=0) -> Tensor");
  def("add(Tensor input, Tensor other) -> Tensor");
  def("mul(Tensor input, Tensor other) -> Tensor");

  // A fully connected layer, arguments as torch.nn.functional.linear, and its activation: none or relu.
  const std::string linear = "Tensor? bias=None, *, str activation='none') -> Tensor";
  def("linear(Tensor input, Tensor weight, " + linear);
  // Gradients of input, weight and bias; those not in output_mask are empty tensors. With ReLU, output is the result.
  def("linear_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor? output, bool[3] output_mask) -> "
      "(Tensor, Tensor, Tensor)");
  // In inference, from weights in bfloat16 or int8; scale: a float32 factor for each row of an int8 matrix.
  def("linear_quantized(Tensor input, Tensor weight, Tensor? scale, " + linear);
  // Both in stock PyTorch calls.
  def("linear_reference(Tensor input, Tensor weight, " + linear);
  def("linear_quantized_reference(Tensor input, Tensor weight, Tensor? scale, " + linear);

  // Max-pooling, arguments as torch.max_pool2d, and the same with the places of the maxima in their planes.
  const std::string pooling =
      "(Tensor input, int[2] kernel_size, int[2] stride=[], int[2] padding=0, int[2] dilation=1, bool ceil_mode=False)";
  def("max_pool2d" + pooling + " -> Tensor");
  def("max_pool2d_with_indices" + pooling + " -> (Tensor, Tensor)");
  // Average pooling, arguments as torch.nn.functional.avg_pool2d.
  const std::string averaging =
      "(Tensor input, int[2] kernel_size, int[2] stride=[], int[2] padding=0, bool ceil_mode=False, "
      "bool count_include_pad=True, int? divisor_override=None) -> Tensor";
  def("avg_pool2d" + averaging);
  // All in stock PyTorch calls.
  def("max_pool2d_reference" + pooling + " -> Tensor");
  def("max_pool2d_with_indices_reference" + pooling + " -> (Tensor, Tensor)");
  def("avg_pool2d_reference" + averaging);
}

}  // namespace fastvision
