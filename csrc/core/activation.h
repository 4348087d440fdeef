// Activations by name, and those that are a clamp without a branch for each vector.
#pragma once

#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "core/types.h"

namespace fastvision {

inline constexpr std::pair<std::string_view, Activation> kActivations[] = {
    {"none", Activation::none}, {"relu", Activation::relu},           {"relu6", Activation::relu6},
    {"silu", Activation::silu}, {"hardswish", Activation::hardswish},
};

inline std::optional<Activation> activation_named(std::string_view name) {
  for (const auto& [known, activation] : kActivations) {
    if (known == name) return activation;
  }
  return std::nullopt;
}

inline std::string_view name_of(Activation activation) {
  return kActivations[static_cast<int>(activation)].first;
}

// What max_keeping_second takes as its first argument for ReLU, or for none.
inline float activation_floor(bool relu) {
  return relu ? 0.f : -std::numeric_limits<float>::infinity();
}

// What min_keeping_second takes after that for ReLU6, or for none.
inline float activation_ceiling(bool relu6) {
  return relu6 ? 6.f : std::numeric_limits<float>::infinity();
}

}  // namespace fastvision
