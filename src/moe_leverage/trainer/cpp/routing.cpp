// Which experts a token goes to, and where each of them computes it: `select` of routing.py and
// `place` of dispatch.py.

#include <cstdint>
#include <utility>
#include <vector>

// chosen[t] = the places of the `active` largest of scores[t], largest first, the first of equals
extern "C" void largest(const float *scores, int64_t *chosen, long tokens, long experts,
                        long active) {
#pragma omp parallel for
  for (long t = 0; t < tokens; t++) {
    const float *score = scores + t * experts;
    int64_t *best = chosen + t * active;
    for (long e = 0; e < experts; e++) {
      long rank = e < active ? e : active - 1;
      if (e >= active && !(score[e] > score[best[rank]])) continue;
      best[rank] = e;
      for (; rank > 0 && score[best[rank]] > score[best[rank - 1]]; rank--)
        std::swap(best[rank], best[rank - 1]);
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
