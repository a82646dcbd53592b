// Products of rows, sorted by expert, with the matrix of their expert: `multiply` and `outer` of
// grouped.py.
//
//     ends   [experts], the row after an expert's last
//
// Routers are uneven, so work is handed out piece by piece, the largest first: up to CHUNK rows of
// an expert, or TALL rows of its matrix. A piece is computed in tiles whose sums stay in registers.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "lanes.h"

namespace {

constexpr int ROWS = 6, PARTS = VECTORS / 8;  // of a tile: 6 x 4 vectors of 32, or 6 x 2 of 16
constexpr int WIDTH = PARTS * LANES;
constexpr long CHUNK = 192, TALL = 48;

// to[i][n] = sum_k left(i, k) right(k)[n], for M rows from `first` on and N vectors
template <int M, int N, class Left, class Right>
void tile(Left left, Right right, long first, long count, float *to, long to_row) {
  Lanes sum[M][N] = {};
  for (long k = 0; k < count; k++)
    for (int m = 0; m < M; m++)
      for (int n = 0; n < N; n++) sum[m][n] += left(first + m, k) * load(right(k) + n * LANES);
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) store(to + (first + m) * to_row + n * LANES, sum[m][n]);
}

template <int N, int M = ROWS, class Left, class Right>
void rows_from(long first, long rows, Left left, Right right, long count, float *to, long to_row) {
  for (; first + M <= rows; first += M) tile<M, N>(left, right, first, count, to, to_row);
  if constexpr (M > 1)
    if (first < rows) rows_from<N, M - 1>(first, rows, left, right, count, to, to_row);
}

template <int N = PARTS, class Left, class Right>
void product(int parts, long rows, Left left, Right right, long count, float *to, long to_row) {
  if (parts == N)
    rows_from<N>(0, rows, left, right, count, to, to_row);
  else if constexpr (N > 1)
    product<N - 1>(parts, rows, left, right, count, to, to_row);
}

int parts_from(long n, long width) { return std::min<long>(PARTS, (width - n) / LANES); }

struct Piece {
  long expert, first, rows;
};

void largest_first(std::vector<Piece> &pieces) {
  std::stable_sort(pieces.begin(), pieces.end(),
                   [](const Piece &one, const Piece &other) { return one.rows > other.rows; });
}

// Where the rows of a piece lie: data[which[r]], or data[r] if there is no `which`.
void find_rows(const float *data, const int64_t *which, long width, Piece piece,
               std::vector<const float *> &found) {
  found.resize(piece.rows);
  for (long r = 0; r < piece.rows; r++)
    found[r] = data + width * (which ? which[piece.first + r] : piece.first + r);
}

}  // namespace

// out[r] = rows[which[r]] weights[e]; weights[e] lies as [in][wide], or as [wide][in] if transposed
extern "C" void multiply(const float *rows, const int64_t *which, const float *weights,
                         const int32_t *ends, float *out, long experts, long in, long wide,
                         long is_transposed) {
  std::vector<Piece> pieces;
  for (long e = 0, first = 0; e < experts; first = ends[e++])
    for (long at = first; at < ends[e]; at += CHUNK)
      pieces.push_back({e, at, std::min(CHUNK, ends[e] - at)});
  largest_first(pieces);
#pragma omp parallel
  {
    std::vector<const float *> found;
    std::vector<Lanes> space(is_transposed ? in * PARTS : 0);
    float *turned = numbers(space.data());
#pragma omp for schedule(dynamic)
    for (size_t i = 0; i < pieces.size(); i++) {
      const Piece piece = pieces[i];
      const float *matrix = weights + piece.expert * in * wide;
      find_rows(rows, which, in, piece, found);
      const auto left = [row = found.data()](long r, long k) { return row[r][k]; };
      for (long n = 0; n < wide; n += WIDTH) {
        const int parts = parts_from(n, wide);
        const float *right = matrix + n;
        if (is_transposed) {
          right = turned;
          for (long k = 0; k < in; k += LANES)
            for (int p = 0; p < parts; p++)
              transpose(matrix + (n + p * LANES) * in + k, in, turned + k * WIDTH + p * LANES,
                        WIDTH);
        }
        const long right_row = is_transposed ? WIDTH : wide;
        product(
            parts, piece.rows, left, [=](long k) { return right + k * right_row; }, in,
            out + piece.first * wide + n, wide);
      }
    }
  }
}

// out[e] = sum over the rows r of e of rows[which[r]]^T others[which_others[r]]
extern "C" void outer(const float *rows, const int64_t *which, const float *others,
                      const int64_t *which_others, const int32_t *ends, float *out, long experts,
                      long in, long wide) {
  std::vector<Piece> pieces;
  for (long e = 0, first = 0; e < experts; first = ends[e++])
    pieces.push_back({e, first, ends[e] - first});
  largest_first(pieces);
  const long tiers = (in + TALL - 1) / TALL;
#pragma omp parallel
  {
    std::vector<const float *> found, found_others;
#pragma omp for schedule(dynamic)
    for (long i = 0; i < experts * tiers; i++) {
      const Piece piece = pieces[i / tiers];
      const long top = i % tiers * TALL;
      find_rows(rows + top, which, in, piece, found);
      find_rows(others, which_others, wide, piece, found_others);
      const auto left = [row = found.data()](long m, long k) { return row[k][m]; };
      for (long n = 0; n < wide; n += WIDTH)
        product(
            parts_from(n, wide), std::min(TALL, in - top), left,
            [n, row = found_others.data()](long k) { return row[k] + n; }, piece.rows,
            out + (piece.expert * in + top) * wide + n, wide);
    }
  }
}
