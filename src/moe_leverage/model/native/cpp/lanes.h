// Several floats side by side: the widest vector that this processor computes with at once.

#pragma once

#include <cstdint>
#include <utility>

#ifdef __AVX512F__
constexpr int LANES = 16, VECTORS = 32;  // floats of a vector, vectors that the processor holds
#else
constexpr int LANES = 8, VECTORS = 16;
#endif

typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef float LanesAnywhere __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));

inline Lanes load(const float *from) { return *reinterpret_cast<const LanesAnywhere *>(from); }
inline void store(float *to, Lanes x) { *reinterpret_cast<LanesAnywhere *>(to) = x; }
inline float *numbers(Lanes *x) { return reinterpret_cast<float *>(x); }
inline const float *numbers(const Lanes *x) { return reinterpret_cast<const float *>(x); }
inline Lanes all(float x) { return x + Lanes{}; }

// Swap, between the rows i and i + S of a square, the lanes in which the bit S of their number
// differs from that of the row; for every S in turn this transposes.
template <int S, int... I>
void swap_lanes(Lanes *rows, std::integer_sequence<int, I...>) {
  for (int i = 0; i < LANES; i++)
    if (!(i & S)) {
      const Lanes upper = rows[i], lower = rows[i + S];
      rows[i] = __builtin_shufflevector(upper, lower, (I & S ? I - S + LANES : I)...);
      rows[i + S] = __builtin_shufflevector(upper, lower, (I & S ? I + LANES : I + S)...);
    }
}

// to[j][i] = from[i][j] for a square of LANES
inline void transpose(const float *from, long from_row, float *to, long to_row) {
  constexpr auto lanes = std::make_integer_sequence<int, LANES>();
  Lanes rows[LANES];
  for (int i = 0; i < LANES; i++) rows[i] = load(from + i * from_row);
  if constexpr (LANES == 16) swap_lanes<8>(rows, lanes);
  swap_lanes<4>(rows, lanes);
  swap_lanes<2>(rows, lanes);
  swap_lanes<1>(rows, lanes);
  for (int i = 0; i < LANES; i++) store(to + i * to_row, rows[i]);
}
