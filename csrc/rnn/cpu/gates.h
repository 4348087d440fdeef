// From the sums of a row's gates to its next state, kLanes hidden units at a time.
#pragma once

#include "rnn/cpu/activations.h"
#include "rnn/rnn.h"

namespace fastvision {

inline FASTVISION_INLINE void store_units(float* target, const Vec& values, int64_t units) {
  units >= kLanes ? values.store(target) : values.store(target, units);
}

inline FASTVISION_INLINE Vec load_units(const float* source, int64_t units) {
  return units >= kLanes ? Vec::loadu(source) : load_first(source, units);
}

// States are padded to whole vectors; the reserve of a row, if any, is not: [block][hidden]. Masks lie as they please.
struct RowState {
  const float* hidden;
  float *next_hidden, *cell, *reserve;
  int64_t unit, units, size;  // of the hidden state
  const float* masks;
  int64_t mask_stride;  // of blocks

  FASTVISION_INLINE void keep(int block, const Vec& values) const {
    store_units(reserve + block * size + unit, values, units);
  }
  FASTVISION_INLINE Vec mask(int block) const { return load_units(masks + block * mask_stride + unit, units); }
};

// Exact where k is 0 or 1.
inline FASTVISION_INLINE Vec zoneout(const Vec& k, const Vec& old, const Vec& fresh) {
  return at::vec::fmadd(k, old, (Vec(1.f) - k) * fresh);
}

// sums: i, f, g, o.
template <bool Masked>
inline FASTVISION_INLINE void lstm_update(const Vec (&sums)[4], const RowState& row) {
  const Vec i = sigmoid(sums[0]), f = sigmoid(sums[1]), g = tanh(sums[2]), o = sigmoid(sums[3]);
  const Vec old_c = Vec::loadu(row.cell + row.unit);
  Vec candidate = g;
  if constexpr (Masked) candidate = candidate * row.mask(2);
  const Vec c = at::vec::fmadd(f, old_c, i * candidate);
  Vec next_c = c, next_h = o * tanh(c);
  if constexpr (Masked) {
    next_h = zoneout(row.mask(0), Vec::loadu(row.hidden + row.unit), next_h);
    next_c = zoneout(row.mask(1), old_c, c);
  }
  next_c.store(row.cell + row.unit);
  next_h.store(row.next_hidden + row.unit);
  if (!row.reserve) return;
  row.keep(0, i);
  row.keep(1, f);
  row.keep(2, g);
  row.keep(3, o);
  row.keep(4, c);
  if constexpr (Masked) row.keep(5, next_c);
}

// sums: r, z, and the n gate's product with the hidden state; its product with the input is apart.
template <bool Masked>
inline FASTVISION_INLINE void gru_update(const Vec (&sums)[3], const Vec& n_input, const RowState& row) {
  const Vec r = sigmoid(sums[0]), z = sigmoid(sums[1]), n = tanh(at::vec::fmadd(r, sums[2], n_input));
  const Vec old_h = Vec::loadu(row.hidden + row.unit);
  Vec candidate = n;
  if constexpr (Masked) candidate = candidate * row.mask(1);
  Vec next_h = at::vec::fmadd(z, old_h - candidate, candidate);
  if constexpr (Masked) next_h = zoneout(row.mask(0), old_h, next_h);
  next_h.store(row.next_hidden + row.unit);
  if (!row.reserve) return;
  row.keep(0, r);
  row.keep(1, z);
  row.keep(2, n);
  row.keep(3, sums[2]);
}

}  // namespace fastvision
