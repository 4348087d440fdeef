// One direction of a layer: its parameters made ready, and its blocks of hidden units.
#pragma once

#include "core/integers.h"
#include "rnn/cpu/batch_lanes.h"
#include "rnn/cpu/gates.h"
#include "rnn/cpu/products.h"
#include "rnn/kernels.h"

namespace fastvision {

// Sums of gates lie in [row][block][gate][kLanes]; states are padded to whole blocks and more. All that depends on the
// dtypes of weights and biases is how they are read: kernels are compiled once, for fp32.
template <RnnMode Mode>
class Direction {
 public:
  static constexpr int kGates = Mode == RnnMode::lstm ? 4 : 3;
  static constexpr int64_t kBlock = kGates * kLanes;  // floats

  Direction(const RnnLayer& p, const RnnWeights& weights, const RnnMasks& masks, Context& context)
      : p_(p), weights_(weights), masks_(masks), hidden_(p.hidden_size), blocks_(ceil_div(hidden_, kLanes)) {
    bias_ = static_cast<float*>(context.allocate(sizeof(float) * blocks_ * (kBlock + kLanes)));
    visit_dtype(p.dtype, [&]<class T>() {
      for (int64_t block = 0; block < blocks_; ++block) prepare_bias<T>(block);
    });
  }

  int64_t blocks() const { return blocks_; }
  // Of a row of states. The odd size keeps rows from meeting in the same cache sets.
  int64_t padded_size() const { return blocks_ * kLanes + 16; }

  // Whether packed matrices hold pairs of bf16 numbers, and rows that are multiplied by them must. The products are
  // exact in both cases; the state is rounded to bf16 for them, as stock's is.
  static bool multiplies_pairs(const RnnLayer& p) {
    const auto is_even = [](int64_t size) { return size % 2 == 0; };
    return processor_multiplies_pairs() && p.dtype == DType::bf16 && p.storage == RnnStorage::same &&
           is_even(p.input_size) && is_even(p.hidden_size) && is_even(p.input_row_stride) &&
           is_even(p.input_step_stride);
  }

  // Packs the input's matrix, or both, for which there must be packed_floats() floats.
  int64_t packed_floats(bool both) const {
    return blocks_ * (floats(p_.input_size) + (both ? floats(hidden_) : 0)) * kBlock;
  }
  void pack(float* packed, bool both, Context& context) {
    packed_ = packed;
    context.parallel_for(blocks_, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        pack_input(block, packed_input(block));
        if (both) pack_hidden(block, packed_hidden(block));
      }
    });
  }
  float* packed_input(int64_t block) const { return packed_ + block * floats(p_.input_size) * kBlock; }
  float* packed_hidden(int64_t block) const {
    return packed_ + blocks_ * floats(p_.input_size) * kBlock + block * floats(hidden_) * kBlock;
  }
  void pack_input(int64_t block, float* target) const {
    pack(weights_.input, weights_.input_scale, p_.input_size, block, target);
  }
  void pack_hidden(int64_t block, float* target) const {
    pack(weights_.hidden, weights_.hidden_scale, hidden_, block, target);
  }

  // The sums of `count` rows of input, `stride` floats apart, in a packed block, biases included.
  void project(int64_t block, const float* packed, const float* input, int64_t stride, int64_t count,
               float* sums) const {
    const float* bias = bias_ + block * kBlock;
    const int64_t depth = floats(p_.input_size);
    visit_arithmetic([&]<class Arithmetic>() {
      by_tiles<max_tile_rows<kGates>()>(count, [&]<int Rows>(int64_t row) {
        Vec sum[Rows][kGates];
        unroll<Rows * kGates>(
            [&](auto i) FASTVISION_INLINE { sum[i / kGates][i % kGates] = Vec::loadu(bias + i % kGates * kLanes); });
        prefetch_next(packed, depth, row, Rows, count);
        add_products<Arithmetic>(sum, input + row * stride, stride, packed, depth);
        unroll<Rows * kGates>([&](auto i) FASTVISION_INLINE {
          sum[i / kGates][i % kGates].store(sums + ((row + i / kGates) * blocks_ + block) * kBlock +
                                            i % kGates * kLanes);
        });
      });
    });
  }

  // One gate's products of a row of input, or of the hidden state, with a block of the weights as they are.
  Vec input_products(int64_t gate, int64_t block, const float* input) const {
    return products(weights_.input, weights_.input_scale, p_.input_size, gate, block, input);
  }
  Vec hidden_products(int64_t gate, int64_t block, const float* hidden) const {
    return products(weights_.hidden, weights_.hidden_scale, hidden_, gate, block, hidden);
  }

  // To the sums that `project` gives, from products of the input.
  void add_bias(int64_t block, float* sums) const {
    unroll<kGates>([&](auto gate) FASTVISION_INLINE {
      const int64_t at = block * kBlock + gate * kLanes;
      (Vec::loadu(sums + at) + Vec::loadu(bias_ + at)).store(sums + at);
    });
  }

  // Rows of a step, `reserve_stride` floats apart in the reserve.
  struct Step {
    const float* sums;
    const float* hidden;
    float *next_hidden, *cell, *reserve;
    int64_t reserve_stride;
    const float* masks;
  };

  // `rows` are the states that are multiplied, `stride` floats apart: s.hidden, or pairs.
  void step(int64_t block, const float* packed, const float* rows, int64_t stride, const Step& s, int64_t count) const {
    const int64_t depth = floats(hidden_);
    visit_arithmetic([&]<class Arithmetic>() {
      by_tiles<max_tile_rows<kGates>()>(count, [&]<int Rows>(int64_t row) {
        Vec sum[Rows][kGates];
        unroll<Rows * kGates>([&](auto i) FASTVISION_INLINE {
          sum[i / kGates][i % kGates] = Vec::loadu(initial_sum(s, row + i / kGates, block, i % kGates));
        });
        prefetch_next(packed, depth, row, Rows, count);
        add_products<Arithmetic>(sum, rows + row * stride, stride, packed, depth);
        RowState states[Rows];
        unroll<Rows>([&](auto i) FASTVISION_INLINE { states[i] = row_state(s, row + i, block); });
        update(sum, states);
      });
    });
  }

  // The products of the only row's hidden state with a packed block.
  void packed_products(int64_t block, const float* packed, const float* hidden, float* products) const {
    Vec sum[kGates];
    unroll<kGates>([&](auto gate) FASTVISION_INLINE { sum[gate] = Vec(0.f); });
    add_products_of_only_row(sum, hidden, packed, hidden_);
    unroll<kGates>([&](auto gate) FASTVISION_INLINE { sum[gate].store(products + block * kBlock + gate * kLanes); });
  }

  // A row's step in blocks [first, last), where all its products with the hidden state have been taken.
  void step_from_products(int64_t first, int64_t last, const float* products, const Step& s, int64_t row) const {
    by_tiles<kBlocksTogether>(last - first, [&]<int Blocks>(int64_t begin) {
      const int64_t block = first + begin;
      Vec sum[Blocks][kGates];
      RowState states[Blocks];
      unroll<Blocks>([&](auto i) FASTVISION_INLINE {
        unroll<kGates>([&](auto gate) FASTVISION_INLINE {
          sum[i][gate] = Vec::loadu(initial_sum(s, row, block + i, gate)) +
                         Vec::loadu(products + (block + i) * kBlock + gate * kLanes);
        });
        states[i] = row_state(s, row, block + i);
      });
      update(sum, states);
    });
  }

  // A step of `count` rows from the weights as they are and rows in lanes (batch_lanes.h), `width` of them. It works in
  // lane_floats(width) floats.
  static int64_t lane_floats(int64_t width) { return 2 * kLanes * kSlots * width; }
  void step_in_lanes(int64_t block, const float* input, const float* hidden, int64_t width, const Step& s,
                     int64_t count, float* memory) const {
    // [unit][slot][row], and turned round [row][slot][unit].
    float *sums = memory, *turned = memory + kLanes * kSlots * width;
    std::fill_n(sums, kLanes * kSlots * width, 0.f);
    const auto sums_of = [&](int last_slot) {
      return [=](int64_t unit) {
        GateSums<kGates> gates;
        for (int gate = 0; gate < kGates; ++gate) {
          gates[gate] = sums + (unit * kSlots + (gate == kGates - 1 ? last_slot : gate)) * width;
        }
        return gates;
      };
    };
    const int64_t unit = block * kLanes;
    add_products_in_lanes<kGates>(static_cast<const float*>(weights_.input) + unit * p_.input_size, hidden_,
                                  p_.input_size, units(block), input, width, sums_of(kGates - 1));
    add_products_in_lanes<kGates>(static_cast<const float*>(weights_.hidden) + unit * hidden_, hidden_, hidden_,
                                  units(block), hidden, width, sums_of(kSlots - 1));
    for (int slot = 0; slot < kSlots; ++slot) {
      for (int64_t row = 0; row < width; row += kLanes) {
        transpose(sums + slot * width + row, kSlots * width, kLanes, kLanes, turned + (row * kSlots + slot) * kLanes,
                  kSlots * kLanes);
      }
    }
    const float *bias = bias_ + block * kBlock, *n_hidden = bias_ + blocks_ * kBlock + block * kLanes;
    by_tiles<max_tile_rows<kGates>()>(count, [&]<int Rows>(int64_t row) {
      Vec sum[Rows][kGates];
      RowState states[Rows];
      unroll<Rows>([&](auto i) FASTVISION_INLINE {
        float* own = turned + (row + i) * kSlots * kLanes;
        unroll<kGates>([&](auto gate) FASTVISION_INLINE {
          const bool is_apart = Mode == RnnMode::gru && gate == 2;
          sum[i][gate] = is_apart ? Vec::loadu(own + 3 * kLanes) + Vec::loadu(n_hidden)
                                  : Vec::loadu(own + gate * kLanes) + Vec::loadu(bias + gate * kLanes);
        });
        states[i] = row_state(s, row + i, block);
        if (Mode == RnnMode::gru) {
          float* n_inputs = own + 2 * kLanes;
          (Vec::loadu(n_inputs) + Vec::loadu(bias + 2 * kLanes)).store(n_inputs);
          states[i].n_inputs = n_inputs;
        }
      });
      update(sum, states);
    });
  }

 private:
  // Sums of a row and unit: of the gates, with the two shares of a GRU's n gate apart.
  static constexpr int kSlots = 4;
  static constexpr int kBlocksTogether = 4;
  static constexpr int64_t kMinRowsToPrefetch = 32, kMinUnitsToPrefetch = 256;

  // Calls f.template operator()<W>() with the type that the weights are stored as. A call for each block would cost a
  // small cell 5 % of its instructions, so fp32 is inlined.
  template <class F>
  FASTVISION_INLINE decltype(auto) visit_storage(const F& f) const {
    if (p_.storage == RnnStorage::same && p_.dtype == DType::f32) return f.template operator()<float>();
    switch (p_.storage) {
      case RnnStorage::bf16:
        return f.template operator()<c10::BFloat16>();
      case RnnStorage::int8:
        return f.template operator()<int8_t>();
      default:
        return visit_dtype(p_.dtype, f);
    }
  }

  // Of a packed column, or of a row that is multiplied by one.
  int64_t floats(int64_t size) const { return in_pairs_ ? size / 2 : size; }

  // Calls f.template operator()<Arithmetic>().
  template <class F>
  void visit_arithmetic(const F& f) const {
    in_pairs_ ? f.template operator()<Pairs>() : f.template operator()<Singles>();
  }

  void pack(const void* weights, const float* scale, int64_t depth, int64_t block, float* target) const {
    if (in_pairs_) {
      pack_pairs<kGates>(static_cast<const c10::BFloat16*>(weights), hidden_, depth, block * kLanes, target);
      return;
    }
    visit_storage([&]<class W>() {
      pack_block<kGates>(static_cast<const W*>(weights), scale, hidden_, depth, block * kLanes, target);
    });
  }

  // The next block, a part with each tile of this one's rows: its first tile would wait for all of it. Weights that the
  // L2 cache holds, or few tiles, wait for nothing (Zen 3, 64 rows of 512 units: 5 to 8 %).
  FASTVISION_INLINE void prefetch_next(const float* packed, int64_t depth, int64_t row, int64_t rows,
                                       int64_t count) const {
    if (!kPrefetches || count < kMinRowsToPrefetch || hidden_ < kMinUnitsToPrefetch) return;
    const int64_t size = depth * kBlock, begin = row * size / count;
    prefetch(packed + size + begin, (row + rows) * size / count - begin);
  }

  // A row's scale is a factor of its sum.
  Vec products(const void* weights, const float* scale, int64_t depth, int64_t gate, int64_t block,
               const float* x) const {
    const int64_t row = gate * hidden_ + block * kLanes;
    return visit_storage([&]<class W>() FASTVISION_INLINE {
      const Vec sums = dot_products(static_cast<const W*>(weights) + row * depth, depth, units(block), x);
      return std::is_same_v<W, int8_t> ? sums * load_as_float(scale + row, units(block)) : sums;
    });
  }

  int64_t units(int64_t block) const { return std::min(kLanes, hidden_ - block * kLanes); }

  // What the input and the biases give; a GRU's n gate keeps the input's share apart.
  FASTVISION_INLINE const float* initial_sum(const Step& s, int64_t row, int64_t block, int gate) const {
    if (Mode == RnnMode::gru && gate == 2) return bias_ + blocks_ * kBlock + block * kLanes;
    return s.sums + (row * blocks_ + block) * kBlock + gate * kLanes;
  }

  FASTVISION_INLINE RowState row_state(const Step& s, int64_t row, int64_t block) const {
    const int64_t state = row * padded_size();
    return {s.hidden + state,
            s.next_hidden + state,
            Mode == RnnMode::lstm ? s.cell + state : nullptr,
            s.reserve ? s.reserve + row * s.reserve_stride : nullptr,
            block * kLanes,
            units(block),
            hidden_,
            s.masks ? s.masks + row * masks_.row_stride : nullptr,
            masks_.block_stride,
            Mode == RnnMode::gru ? s.sums + (row * blocks_ + block) * kBlock + 2 * kLanes : nullptr};
  }

  template <int N>
  FASTVISION_INLINE void update(const Vec (&sum)[N][kGates], const RowState (&states)[N]) const {
    const bool masked = states[0].masks;
    if constexpr (Mode == RnnMode::lstm) {
      masked ? lstm_update<true>(sum, states) : lstm_update<false>(sum, states);
    } else {
      masked ? gru_update<true>(sum, states) : gru_update<false>(sum, states);
    }
  }

  // Both biases together where they are only ever added; a GRU's second one of n in a block of its own.
  template <class T>
  void prepare_bias(int64_t block) {
    float* target = bias_ + block * kBlock;
    float* n_hidden = bias_ + blocks_ * kBlock + block * kLanes;
    for (int64_t gate = 0; gate < kGates; ++gate) {
      const Vec input = load_bias<T>(weights_.input_bias, gate, block),
                other = load_bias<T>(weights_.hidden_bias, gate, block);
      const bool apart = Mode == RnnMode::gru && gate == 2;
      (apart ? input : input + other).store(target + gate * kLanes);
      if (apart) other.store(n_hidden);
    }
  }

  template <class T>
  Vec load_bias(const void* bias, int64_t gate, int64_t block) const {
    if (!bias) return Vec(0.f);
    return load_as_float(static_cast<const T*>(bias) + gate * hidden_ + block * kLanes, units(block));
  }

  const RnnLayer& p_;
  const RnnWeights& weights_;
  const RnnMasks& masks_;
  const int64_t hidden_, blocks_;
  const bool in_pairs_ = multiplies_pairs(p_);
  float* bias_;
  float* packed_ = nullptr;
};

}  // namespace fastvision
