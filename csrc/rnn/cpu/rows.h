#pragma once

#include "core/context.h"
#include "rnn/rnn.h"

namespace fastvision {

// The number of each step's first row.
inline const int64_t* row_offsets(const RnnLayer& p, Context& context) {
  auto* offsets = static_cast<int64_t*>(context.allocate(sizeof(int64_t) * p.steps));
  for (int64_t t = 0, row = 0; t < p.steps; row += p.batch_at(t++)) offsets[t] = row;
  return offsets;
}

}  // namespace fastvision
