// A problem's options as template arguments.
#pragma once

#include "vae/vae.h"

namespace fastvision {

template <class F>
decltype(auto) visit_kl(KlResult kl, const F& f) {
  switch (kl) {
    case KlResult::total:
      return f.template operator()<KlResult::total>();
    case KlResult::elements:
      return f.template operator()<KlResult::elements>();
    default:
      return f.template operator()<KlResult::absent>();
  }
}

template <class F>
decltype(auto) visit_reconstruction(Reconstruction reconstruction, const F& f) {
  switch (reconstruction) {
    case Reconstruction::bce:
      return f.template operator()<Reconstruction::bce>();
    case Reconstruction::bce_with_logits:
      return f.template operator()<Reconstruction::bce_with_logits>();
    default:
      return f.template operator()<Reconstruction::mse>();
  }
}

}  // namespace fastvision
