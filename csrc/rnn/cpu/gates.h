// From the sums of gates to the next state, kLanes hidden units of several rows, or of several blocks, at a time. Each
// function is taken of all of them before the next: of one it is a chain of operations that wait for each other
// (Zen 3, 1 and 32 rows of 128 units: 2 to 4 % of a layer's time).
#pragma once

#include <array>

#include "core/sigmoid.h"
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
  int64_t mask_stride;    // of blocks
  const float* n_inputs;  // a GRU's n gate's products with the input, of these units

  FASTVISION_INLINE void keep(int block, const Vec& values) const {
    store_units(reserve + block * size + unit, values, units);
  }
  FASTVISION_INLINE Vec mask(int block) const { return load_units(masks + block * mask_stride + unit, units); }
  FASTVISION_INLINE Vec old_hidden() const { return Vec::loadu(hidden + unit); }
  FASTVISION_INLINE Vec old_cell() const { return Vec::loadu(cell + unit); }
};

template <int N>
using Vecs = std::array<Vec, N>;

// f of 0 to N - 1.
template <int N, class F>
inline FASTVISION_INLINE Vecs<N> each(const F& f) {
  return [&]<int... I>(std::integer_sequence<int, I...>) FASTVISION_INLINE {
    return Vecs<N>{f(std::integral_constant<int, I>{})...};
  }(std::make_integer_sequence<int, N>{});
}

// Exact where k is 0 or 1.
inline FASTVISION_INLINE Vec zoneout(const Vec& k, const Vec& old, const Vec& fresh) {
  return at::vec::fmadd(k, old, (Vec(1.f) - k) * fresh);
}

// sums: i, f, g, o.
template <bool Masked, int N>
inline FASTVISION_INLINE void lstm_update(const Vec (&sums)[N][4], const RowState (&rows)[N]) {
  const Vecs<N> i = each<N>([&](auto n) FASTVISION_INLINE { return sigmoid(sums[n][0]); });
  const Vecs<N> g = each<N>([&](auto n) FASTVISION_INLINE { return tanh(sums[n][2]); });
  const Vecs<N> f = each<N>([&](auto n) FASTVISION_INLINE { return sigmoid(sums[n][1]); });
  const Vecs<N> c = each<N>([&](auto n) FASTVISION_INLINE {
    const Vec candidate = Masked ? g[n] * rows[n].mask(2) : g[n];
    return at::vec::fmadd(f[n], rows[n].old_cell(), i[n] * candidate);
  });
  const Vecs<N> o = each<N>([&](auto n) FASTVISION_INLINE { return sigmoid(sums[n][3]); });
  const Vecs<N> h = each<N>([&](auto n) FASTVISION_INLINE { return o[n] * tanh(c[n]); });
  unroll<N>([&](auto n) FASTVISION_INLINE {
    const RowState& row = rows[n];
    Vec next_c = c[n], next_h = h[n];
    if constexpr (Masked) {
      next_h = zoneout(row.mask(0), row.old_hidden(), next_h);
      next_c = zoneout(row.mask(1), row.old_cell(), next_c);
    }
    next_c.store(row.cell + row.unit);
    next_h.store(row.next_hidden + row.unit);
    if (!row.reserve) return;
    row.keep(0, i[n]);
    row.keep(1, f[n]);
    row.keep(2, g[n]);
    row.keep(3, o[n]);
    row.keep(4, c[n]);
    if constexpr (Masked) row.keep(5, next_c);
  });
}

// sums: r, z, and the n gate's product with the hidden state; its product with the input is apart.
template <bool Masked, int N>
inline FASTVISION_INLINE void gru_update(const Vec (&sums)[N][3], const RowState (&rows)[N]) {
  const Vecs<N> r = each<N>([&](auto i) FASTVISION_INLINE { return sigmoid(sums[i][0]); });
  const Vecs<N> n = each<N>(
      [&](auto i) FASTVISION_INLINE { return tanh(at::vec::fmadd(r[i], sums[i][2], Vec::loadu(rows[i].n_inputs))); });
  const Vecs<N> z = each<N>([&](auto i) FASTVISION_INLINE { return sigmoid(sums[i][1]); });
  unroll<N>([&](auto i) FASTVISION_INLINE {
    const RowState& row = rows[i];
    const Vec old_h = row.old_hidden(), candidate = Masked ? n[i] * row.mask(1) : n[i];
    Vec next_h = at::vec::fmadd(z[i], old_h - candidate, candidate);
    if constexpr (Masked) next_h = zoneout(row.mask(0), old_h, next_h);
    next_h.store(row.next_hidden + row.unit);
    if (!row.reserve) return;
    row.keep(0, r[i]);
    row.keep(1, z[i]);
    row.keep(2, n[i]);
    row.keep(3, sums[i][2]);
  });
}

}  // namespace fastvision
