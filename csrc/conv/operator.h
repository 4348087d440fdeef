#pragma once

#include "conv/options.h"
#include "core/operator_handle.h"

namespace fastvision {

// A registered operator of the family, called with its options first; in its schema they follow the tensors one by one.
template <class Result, class... Tensors>
class Operator {
 public:
  explicit Operator(const char* name) : handle_(find_operator<Signature>(name)) {}

  Result operator()(const ConvPool2dOptions& options, Tensors... tensors) const {
    return with_flat_options(options, [&](auto&&... arguments) { return handle_.call(arguments...); }, tensors...);
  }

 private:
  using Signature = Result(Tensors..., at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, std::string_view,
                           std::string_view, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, bool, bool);
  c10::TypedOperatorHandle<Signature> handle_;
};

}  // namespace fastvision
