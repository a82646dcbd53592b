// Causal grouped-query attention with rotary positions, and its gradient; HEAD_WIDTH is given.
//
//     packed  [batch, length, query heads, then key heads, then value heads, WIDTH]
//     turns   [length, pairs, 2], cosine and sine that turn the leading pairs of a query or key
//     out     [batch, length, query heads, WIDTH]
//     norms   [batch, query heads, length], log sum_j exp(q_i k_j / sqrt(WIDTH))
//
// A lane is a query: scores of BLOCK queries stand side by side, so that maxima, sums and masks
// need no exchange between lanes, and a key or a value enters as one number for all. The scores of
// a block stay in the nearest cache and are never stored; the gradient computes them again. A key
// head and the query heads that read it are one piece of work, which no two threads share.

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "lanes.h"

namespace {

constexpr int WIDTH = HEAD_WIDTH;     // of a head
constexpr int PARTS = WIDTH / LANES;  // vectors of a head
constexpr int WIDE = VECTORS / 16;    // vectors of queries at once
constexpr int BLOCK = LANES * WIDE;   // queries at once
constexpr int KEYS = 8;               // keys at once: KEYS * WIDE sums fill half the registers
static_assert(WIDTH % LANES == 0 && WIDTH % KEYS == 0, "whole vectors");

typedef Lanes Row[WIDE];  // one number for each query of a block

Lanes query_numbers(long first) {
  Lanes x;
  for (int i = 0; i < LANES; i++) x[i] = first + i;
  return x;
}

// exp(x) for x <= 0: 2^n times Cephes' polynomial of what the whole power of 2 leaves.
Lanes exponential(Lanes x) {
  const Lanes least = all(-87.0f);  // below, the result would be subnormal
  const Lanes within = x < least ? least : x;
  const Lanes shifted = within * 1.44269504f + 12582912.0f;  // whole part in the lowest bits
  const Lanes whole = shifted - 12582912.0f;
  const Lanes rest = within - whole * 0.693359375f + whole * 2.12194440e-4f;
  Lanes sum = all(1.9875691500e-4f);
  for (float coefficient :
       {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    sum = sum * rest + coefficient;
  sum = sum * rest * rest + rest + 1.0f;
  const Bits power = ((Bits)shifted << 23) + 0x3f800000;
  return x < least ? Lanes{} : sum * (Lanes)power;
}

// columns[d][i] = scale * rows[i][d]
void read_columns(const float *rows, long row, float scale, Row *columns) {
  for (int w = 0; w < WIDE; w++)
    for (int p = 0; p < PARTS; p++)
      transpose(rows + w * LANES * row + p * LANES, row, numbers(&columns[p * LANES][w]), BLOCK);
  for (int d = 0; d < WIDTH; d++)
    for (int w = 0; w < WIDE; w++) columns[d][w] *= scale;
}

void write_columns(const Row *columns, float *rows, long row) {
  for (int w = 0; w < WIDE; w++)
    for (int p = 0; p < PARTS; p++)
      transpose(numbers(&columns[p * LANES][w]), BLOCK, rows + w * LANES * row + p * LANES, row);
}

// products[k][i] = sum_d columns[d][i] rows[k][d], for KEYS rows
inline void dot_products(const Row *columns, const float *rows, Row *products) {
  for (int k = 0; k < KEYS; k++)
    for (int w = 0; w < WIDE; w++) products[k][w] = Lanes{};
  for (int d = 0; d < WIDTH; d++)
    for (int k = 0; k < KEYS; k++)
      for (int w = 0; w < WIDE; w++) products[k][w] += columns[d][w] * rows[k * WIDTH + d];
}

// mixed[d][i] = sum_j weights[j][i] rows[j][d], over `count` rows
void mix(const Row *weights, const float *rows, long count, Row *mixed) {
  for (int first = 0; first < WIDTH; first += KEYS) {
    Row sum[KEYS] = {};
    for (long j = 0; j < count; j++)
      for (int d = 0; d < KEYS; d++)
        for (int w = 0; w < WIDE; w++) sum[d][w] += weights[j][w] * rows[j * WIDTH + first + d];
    for (int d = 0; d < KEYS; d++)
      for (int w = 0; w < WIDE; w++) mixed[first + d][w] = sum[d][w];
  }
}

// to[j] += sum_i weights[j][i] rows[i], over the BLOCK queries i; here a lane is a coordinate
void add_spread(const Row *weights, const float *rows, long stride, long count, float *to) {
  for (long j = 0; j < count; j += KEYS) {
    const float *weight = numbers(weights[j]);
    Lanes sum[KEYS][PARTS];
    for (int k = 0; k < KEYS; k++)
      for (int p = 0; p < PARTS; p++) sum[k][p] = load(to + (j + k) * WIDTH + p * LANES);
    for (int i = 0; i < BLOCK; i++)
      for (int k = 0; k < KEYS; k++)
        for (int p = 0; p < PARTS; p++)
          sum[k][p] += weight[k * BLOCK + i] * load(rows + i * stride + p * LANES);
    for (int k = 0; k < KEYS; k++)
      for (int p = 0; p < PARTS; p++) store(to + (j + k) * WIDTH + p * LANES, sum[k][p]);
  }
}

const float SCALE = 1 / std::sqrt(static_cast<float>(WIDTH));

template <int... I>
Lanes partners(Lanes x, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(x, x, (I ^ 1)...);
}

// What turns the head at each position: x cosine + partner(x) sine, the sine negated in first
// coordinates and zero beyond the pairs that are turned.
struct Turns {
  std::vector<Lanes> cosine, sine;

  Turns(const float *turns, long length, long pairs)
      : cosine(length * PARTS, all(1)), sine(length * PARTS) {
    for (long i = 0; i < length; i++)
      for (long d = 0; d < 2 * pairs; d++) {
        const long part = i * PARTS + d / LANES, pair = (i * pairs + d / 2) * 2;
        cosine[part][d % LANES] = turns[pair];
        sine[part][d % LANES] = d % 2 ? turns[pair + 1] : -turns[pair + 1];
      }
  }

  // `count` rows at the positions from `first` on; direction -1 turns back
  void turn(const float *from, long from_row, long first, long count, float direction, float *to,
            long to_row) const {
    for (long i = 0; i < count; i++)
      for (int p = 0; p < PARTS; p++) {
        const Lanes x = load(from + i * from_row + p * LANES);
        const Lanes partner = partners(x, std::make_integer_sequence<int, LANES>());
        const long part = (first + i) * PARTS + p;
        store(to + i * to_row + p * LANES, x * cosine[part] + partner * (direction * sine[part]));
      }
  }
};

void copy(const float *from, long from_row, long count, float *to, long to_row) {
  for (long i = 0; i < count; i++) std::copy_n(from + i * from_row, WIDTH, to + i * to_row);
}

// Room for `count` rows of a head, aligned for vectors.
struct Rows : std::vector<Lanes> {
  explicit Rows(long count) : std::vector<Lanes>(count * PARTS) {}
  float *data() { return numbers(std::vector<Lanes>::data()); }
};

// Room for one number of each key and each query of a block.
struct Columns : std::vector<Lanes> {
  explicit Columns(long count) : std::vector<Lanes>(count * WIDE) {}
  Row *data() { return reinterpret_cast<Row *>(std::vector<Lanes>::data()); }
};

}  // namespace

extern "C" void forward(const float *packed, const float *turns, float *out, float *norms,
                        long batch, long num_heads, long num_kv_heads, long length, long pairs) {
  const Turns rotary(turns, length, pairs);
  const long shared = num_heads / num_kv_heads;
  const long row = (num_heads + 2 * num_kv_heads) * WIDTH, out_row = num_heads * WIDTH;
#pragma omp parallel
  {
    Rows keys(length), values(length), queries(BLOCK);
    Columns room(length);
    float *key = keys.data(), *value = values.data(), *query = queries.data();
    Row *chances = room.data();
#pragma omp for collapse(2) schedule(dynamic)
    for (long b = 0; b < batch; b++)
      for (long n = 0; n < num_kv_heads; n++) {
        const float *heads = packed + b * length * row;
        rotary.turn(heads + (num_heads + n) * WIDTH, row, 0, length, 1, key, WIDTH);
        copy(heads + (num_heads + num_kv_heads + n) * WIDTH, row, length, value, WIDTH);
        for (long h = n * shared; h < (n + 1) * shared; h++)
          for (long first = 0; first < length; first += BLOCK) {
            const long stop = first + BLOCK;
            Row columns[WIDTH], largest, sum = {};
            for (int w = 0; w < WIDE; w++) largest[w] = all(-INFINITY);
            rotary.turn(heads + first * row + h * WIDTH, row, first, BLOCK, 1, query, WIDTH);
            read_columns(query, WIDTH, SCALE, columns);
            for (long j = 0; j < stop; j += KEYS) {
              Row scores[KEYS];
              dot_products(columns, key + j * WIDTH, scores);
              for (int k = 0; k < KEYS; k++)
                for (int w = 0; w < WIDE; w++) {
                  Lanes score = scores[k][w];
                  if (j >= first)
                    score =
                        query_numbers(first + w * LANES) < float(j + k) ? all(-INFINITY) : score;
                  largest[w] = score > largest[w] ? score : largest[w];
                  chances[j + k][w] = score;
                }
            }
            for (long j = 0; j < stop; j++)
              for (int w = 0; w < WIDE; w++)
                sum[w] += chances[j][w] = exponential(chances[j][w] - largest[w]);
            mix(chances, value, stop, columns);
            for (int d = 0; d < WIDTH; d++)
              for (int w = 0; w < WIDE; w++) columns[d][w] /= sum[w];
            write_columns(columns, out + (b * length + first) * out_row + h * WIDTH, out_row);
            float *norm = norms + (b * num_heads + h) * length + first;
            for (int w = 0; w < WIDE; w++)
              for (int i = 0; i < LANES; i++)
                norm[w * LANES + i] = largest[w][i] + std::log(sum[w][i]);
          }
      }
  }
}

extern "C" void backward(const float *grad_out, const float *packed, const float *turns,
                         const float *out, const float *norms, float *grad_packed, long batch,
                         long num_heads, long num_kv_heads, long length, long pairs) {
  const Turns rotary(turns, length, pairs);
  const long shared = num_heads / num_kv_heads;
  const long row = (num_heads + 2 * num_kv_heads) * WIDTH, out_row = num_heads * WIDTH;
#pragma omp parallel
  {
    Rows keys(length), values(length), grad_keys(length), grad_values(length), queries(BLOCK);
    Columns room(length), other_room(length);
    float *key = keys.data(), *value = values.data(), *query = queries.data();
    Row *chances = room.data(), *slopes = other_room.data();
#pragma omp for collapse(2) schedule(dynamic)
    for (long b = 0; b < batch; b++)
      for (long n = 0; n < num_kv_heads; n++) {
        const float *heads = packed + b * length * row;
        float *grad_heads = grad_packed + b * length * row;
        const long at_key = (num_heads + n) * WIDTH, at_value = at_key + num_kv_heads * WIDTH;
        rotary.turn(heads + at_key, row, 0, length, 1, key, WIDTH);
        copy(heads + at_value, row, length, value, WIDTH);
        std::fill(grad_keys.begin(), grad_keys.end(), Lanes{});
        std::fill(grad_values.begin(), grad_values.end(), Lanes{});
        for (long h = n * shared; h < (n + 1) * shared; h++)
          for (long first = 0; first < length; first += BLOCK) {
            const long stop = first + BLOCK, at_query = first * row + h * WIDTH;
            const long at_out = (b * length + first) * out_row + h * WIDTH;
            const float *norm = norms + (b * num_heads + h) * length + first;
            Row turned[WIDTH], grad[WIDTH], columns[WIDTH], along = {};
            rotary.turn(heads + at_query, row, first, BLOCK, 1, query, WIDTH);
            read_columns(query, WIDTH, SCALE, turned);
            read_columns(grad_out + at_out, out_row, 1, grad);
            read_columns(out + at_out, out_row, 1, columns);
            for (int d = 0; d < WIDTH; d++)
              for (int w = 0; w < WIDE; w++) along[w] += grad[d][w] * columns[d][w];
            for (long j = 0; j < stop; j += KEYS) {
              Row products[KEYS];
              dot_products(turned, key + j * WIDTH, products);
              for (int k = 0; k < KEYS; k++)
                for (int w = 0; w < WIDE; w++) {
                  Lanes chance = exponential(products[k][w] - load(norm + w * LANES));
                  if (j >= first)
                    chance = query_numbers(first + w * LANES) < float(j + k) ? Lanes{} : chance;
                  chances[j + k][w] = chance;
                }
              dot_products(grad, value + j * WIDTH, products);
              for (int k = 0; k < KEYS; k++)
                for (int w = 0; w < WIDE; w++)
                  slopes[j + k][w] = chances[j + k][w] * (products[k][w] - along[w]) * SCALE;
            }
            add_spread(chances, grad_out + at_out, out_row, stop, grad_values.data());
            add_spread(slopes, query, WIDTH, stop, grad_keys.data());
            mix(slopes, key, stop, columns);
            write_columns(columns, query, WIDTH);
            rotary.turn(query, WIDTH, first, BLOCK, -1, grad_heads + at_query, row);
          }
        rotary.turn(grad_keys.data(), WIDTH, 0, length, -1, grad_heads + at_key, row);
        copy(grad_values.data(), WIDTH, length, grad_heads + at_value, row);
      }
  }
}
