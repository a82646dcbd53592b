// Which experts a token goes to, and where each of them computes it: `select` of routing.py and
// `place` of dispatch.py.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "lanes.h"

// chosen[t] = the places of the `active` largest of scores[t], largest first, the first of equals.
// A lane is a token: every expert in turn is inserted into the ranking of each, without a branch.
extern "C" void largest(const float *scores, int64_t *chosen, long tokens, long experts,
                        long active) {
#pragma omp parallel
  {
    std::vector<Lanes> column(experts), value(active);
    std::vector<Bits> place(active);
#pragma omp for
    for (long first = 0; first < tokens; first += LANES) {
      const long count = std::min<long>(LANES, tokens - first);
      for (long i = 0; i < count; i++)
        for (long e = 0; e < experts; e++)
          numbers(column.data())[e * LANES + i] = scores[(first + i) * experts + e];
      for (long rank = 0; rank < active; rank++) {
        value[rank] = all(-INFINITY);
        place[rank] = int32_t(rank) + Bits{};  // which stands where a score is not a number
      }
      for (long e = 0; e < experts; e++) {
        Lanes score = column[e];
        Bits expert = int32_t(e) + Bits{}, moves = {};
        for (long rank = 0; rank < active; rank++) {
          moves |= score > value[rank];  // and so do all that rank below
          const Lanes next_score = moves ? value[rank] : score;
          const Bits next_expert = moves ? place[rank] : expert;
          value[rank] = moves ? score : value[rank];
          place[rank] = moves ? expert : place[rank];
          score = next_score, expert = next_expert;
        }
      }
      for (long i = 0; i < count; i++)
        for (long rank = 0; rank < active; rank++)
          chosen[(first + i) * active + rank] = place[rank][i];
    }
  }
}

// The slots of an expert follow those of the one before, in the order of the tokens.
extern "C" void place(const int64_t *chosen, const int64_t *counts, int64_t *tokens_of_slots,
                      int64_t *slots, int32_t *ends, long tokens, long active, long experts) {
  std::vector<int64_t> next(experts);
  for (long e = 0, sum = 0; e < experts; ends[e++] = sum) {
    next[e] = sum;
    sum += counts[e];
  }
  for (long i = 0; i < tokens * active; i++) {
    slots[i] = next[chosen[i]]++;
    tokens_of_slots[slots[i]] = i / active;
  }
}
