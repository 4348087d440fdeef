#include "conv/cpu/winograd_kept.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <numeric>
#include <vector>

#include "conv/cpu/winograd_weights.h"

namespace fastvision::winograd {
namespace {

// Larger weights take as long to compare and to read as to transform (Zen 5, time of a call: 2.4 MB, 14x14 pixels 0.8;
// 4.7 MB, 28x28 pixels 0.93; 9.4 MB, 14x14 pixels 1.0).
constexpr int64_t kMaxBytes = 5 << 20;
// The oldest ones make room.
constexpr int64_t kMaxBytesOfAll = 48 << 20;

constexpr std::align_val_t kAlignment{64};
struct Delete {
  void operator()(float* floats) const { ::operator delete(floats, kAlignment); }
};

// Where weights were and how they were cut into blocks.
struct Place {
  const void* weight;
  DType dtype;
  bool channels_last, is_scaled;
  int64_t in_channels, out_channels, blocks, block_channels;

  bool operator==(const Place&) const = default;
};

struct Kept {
  Place place;
  std::vector<char> weight, scale;  // what was there
  std::unique_ptr<float[], Delete> transformed;
  int64_t bytes;  // of all
};

// The last layers, the latest first.
class Layers {
 public:
  std::shared_ptr<const Kept> find(const Place& place) {
    const std::lock_guard lock(mutex_);
    const auto found = position(place);
    return found == layers_.end() ? nullptr : *found;
  }

  void put(std::shared_ptr<const Kept> kept) {
    const std::lock_guard lock(mutex_);
    if (const auto old = position(kept->place); old != layers_.end()) layers_.erase(old);
    layers_.insert(layers_.begin(), std::move(kept));
    const auto add = [](int64_t sum, const auto& layer) { return sum + layer->bytes; };
    while (std::accumulate(layers_.begin(), layers_.end(), int64_t{0}, add) > kMaxBytesOfAll) layers_.pop_back();
  }

 private:
  std::vector<std::shared_ptr<const Kept>>::iterator position(const Place& place) {
    return std::find_if(layers_.begin(), layers_.end(), [&](const auto& kept) { return kept->place == place; });
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<const Kept>> layers_;
};

Layers& layers() {
  static auto* const layers = new Layers;  // threads may still run when the process ends
  return *layers;
}

bool equal(const std::vector<char>& kept, const void* bytes) {
  return kept.empty() || std::memcmp(kept.data(), bytes, kept.size()) == 0;
}

std::vector<char> copy(const void* bytes, int64_t size) {
  const auto* begin = static_cast<const char*>(bytes);
  return begin ? std::vector<char>(begin, begin + size) : std::vector<char>();
}

}  // namespace

// The second call with the same weights keeps them: weights in training never see one.
std::shared_ptr<const float> kept_weights(const ConvPool2d& p, const DirectPlan& plan, const Layer& layer,
                                          Context& context) {
  const int64_t bytes = sizeof(float) * weight_size(p, plan);
  if (bytes > kMaxBytes) return nullptr;
  const Place place{layer.weight,           p.dtype,        p.channels_last_weight, layer.scale != nullptr,
                    plan.group_in_channels, p.out_channels, p.groups * plan.blocks, plan.block_channels};
  std::shared_ptr<const Kept> kept = layers().find(place);
  const bool is_same = kept && equal(kept->weight, layer.weight) && equal(kept->scale, layer.scale);
  if (!is_same || !kept->transformed) {
    const auto fresh = std::make_shared<Kept>();
    fresh->place = place;
    fresh->weight = copy(layer.weight, p.out_channels * plan.tap_count * size_of(p.dtype));
    fresh->scale = copy(layer.scale, p.out_channels * sizeof(float));
    fresh->bytes = fresh->weight.size() + fresh->scale.size() + (is_same ? bytes : 0);
    if (is_same) {
      fresh->transformed.reset(static_cast<float*>(::operator new(bytes, kAlignment)));
      // Of the copy: the weights themselves may be changing.
      const auto* scale = layer.scale ? reinterpret_cast<const float*>(fresh->scale.data()) : nullptr;
      const Layer copied{fresh->weight.data(), layer.bias, scale};
      transform_all_weights(p, plan, copied, fresh->transformed.get(), context);
    }
    layers().put(fresh);
    kept = fresh;
  }
  return {kept, kept->transformed.get()};
}

}  // namespace fastvision::winograd
