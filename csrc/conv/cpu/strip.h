// Strips: the input rows that a band of outputs is computed from, as the inner loop reads them.
#pragma once

#include "conv/cpu/plan.h"
#include "conv/cpu/unpool.h"

namespace fastvision {

class StripSource {
 public:
  // Rows [first, first + rows) of the padded image, counted from the top of the padding, as a strip;
  // what lies outside the image is zero.
  virtual void pack(int64_t image, int64_t group, int64_t first, int64_t rows, float* strip) const = 0;

 protected:
  ~StripSource() = default;
};

// Strips of an image tensor.
class ImageStrips final : public StripSource {
 public:
  ImageStrips(const ConvPool2d& problem, const DirectPlan& plan, const void* images)
      : p_(problem), plan_(plan), images_(images) {}
  void pack(int64_t image, int64_t group, int64_t first, int64_t rows, float* strip) const override;

 private:
  const ConvPool2d& p_;
  const DirectPlan& plan_;
  const void* images_;
};

// Strips of the gradient of a convolution's output, made from the pooled gradient. `adjoint` is the
// problem whose input that gradient is (backward.cpp), `plan` its plan.
class GradientStrips final : public StripSource {
 public:
  GradientStrips(const ConvPool2d& problem, const ConvPool2d& adjoint, const DirectPlan& plan,
                 const PooledGradient& gradient)
      : p_(problem), adjoint_(adjoint), plan_(plan), gradient_(gradient) {}
  void pack(int64_t image, int64_t group, int64_t first, int64_t rows, float* strip) const override;

 private:
  const ConvPool2d &p_, &adjoint_;
  const DirectPlan& plan_;
  const PooledGradient gradient_;
};

}  // namespace fastvision
