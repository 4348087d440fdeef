// From the sums of a row's gates to its next state, kLanes hidden units at a time.
#pragma once

#include "rnn/cpu/activations.h"
#include "rnn/rnn.h"

namespace fastvision {

inline FASTVISION_INLINE void store_units(float* target, const Vec& values, int64_t units) {
  units >= kLanes ? values.store(target) : values.store(target, units);
}

// States are padded to whole vectors; the reserve of a row, if any, is not: [block][hidden].
struct RowState {
  const float* hidden;
  float *next_hidden, *cell, *reserve;
  int64_t unit, units, size;  // of the hidden state

  FASTVISION_INLINE void keep(int block, const Vec& values) const {
    store_units(reserve + block * size + unit, values, units);
  }
};

// sums: i, f, g, o.
inline FASTVISION_INLINE void lstm_update(const Vec (&sums)[4], const RowState& row) {
  const Vec i = sigmoid(sums[0]), f = sigmoid(sums[1]), g = tanh(sums[2]), o = sigmoid(sums[3]);
  const Vec c = at::vec::fmadd(f, Vec::loadu(row.cell + row.unit), i * g);
  c.store(row.cell + row.unit);
  (o * tanh(c)).store(row.next_hidden + row.unit);
  if (!row.reserve) return;
  row.keep(0, i);
  row.keep(1, f);
  row.keep(2, g);
  row.keep(3, o);
  row.keep(4, c);
}

// sums: r, z, and the n gate's product with the hidden state; its product with the input is apart.
inline FASTVISION_INLINE void gru_update(const Vec (&sums)[3], const Vec& n_input, const RowState& row) {
  const Vec r = sigmoid(sums[0]), z = sigmoid(sums[1]), n = tanh(at::vec::fmadd(r, sums[2], n_input));
  at::vec::fmadd(z, Vec::loadu(row.hidden + row.unit) - n, n).store(row.next_hidden + row.unit);
  if (!row.reserve) return;
  row.keep(0, r);
  row.keep(1, z);
  row.keep(2, n);
  row.keep(3, sums[2]);
}

}  // namespace fastvision
