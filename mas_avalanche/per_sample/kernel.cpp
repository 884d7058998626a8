// Sums of per-sample gradient magnitudes, taken before the gradients leave the registers.
//
// For each sample n the gradient of a weight is a sum of outer products over positions l,
//     G[n](i, r, j) = sum_l delta[n](l, i) * x[n](position[l] + run[r] + j),
// and total(i, r, j) += sum_n |G[n](i, r, j)|^p. Columns come in runs that are contiguous in x: the
// features of a linear map, or a row of a convolution's window when channels are stored last.
// A tile of rows and columns of G[n] lives in registers while l runs.

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64, most_rows = 8;
#elif defined(__AVX__)
constexpr int vector_bytes = 32, most_rows = 4;
#else
constexpr int vector_bytes = 16, most_rows = 4;
#endif
constexpr int most_vectors = 3;
constexpr int64_t block = 128;  // positions whose columns stay in the first cache
constexpr int64_t rows_of_a_task = 64;
constexpr int64_t group_bytes = 524288;
constexpr int64_t group_positions = 1024;
constexpr int64_t parallel_from = 32768;

template <typename T>
struct Lanes {
  typedef T type __attribute__((vector_size(vector_bytes)));
  static constexpr int count = vector_bytes / sizeof(T);
};

template <typename T>
struct Problem {
  T* total;
  const T* x;
  const T* delta;
  const int64_t* position;
  const int64_t* run;
  int64_t samples, positions, rows, runs, run_length;
  int64_t x_stride, delta_stride, delta_row, total_row;
  int64_t power, sample_bytes;
};

// Adds one block of positions to R x V vectors of a gradient; the last block adds the magnitudes.
template <typename T, int R, int V, bool first, bool last>
inline void tile(const Problem<T>& p, const T* x, const T* delta, int64_t from, int64_t to, T* part,
                 T* total) {
  using Vec = typename Lanes<T>::type;
  constexpr int lanes = Lanes<T>::count;
  Vec sum[R][V];
#pragma GCC unroll 24
  for (int i = 0; i < R * V; ++i)
    if constexpr (first)
      sum[i / V][i % V] = Vec{};
    else
      std::memcpy(&sum[i / V][i % V], part + i * lanes, sizeof(Vec));
  for (int64_t l = from; l < to; ++l) {
    const T* a = x + p.position[l];
    const T* d = delta + l * p.delta_row;
    Vec column[V];
#pragma GCC unroll 24
    for (int v = 0; v < V; ++v) std::memcpy(&column[v], a + v * lanes, sizeof(Vec));
#pragma GCC unroll 24
    for (int i = 0; i < R * V; ++i) sum[i / V][i % V] += d[i / V] * column[i % V];
  }
  const bool absolute = p.power == 1;
#pragma GCC unroll 24
  for (int i = 0; i < R * V; ++i) {
    const Vec value = sum[i / V][i % V];
    if constexpr (last) {
      Vec old;
      std::memcpy(&old, total + i * lanes, sizeof(Vec));
      old += absolute ? (value < 0 ? -value : value) : value * value;
      std::memcpy(total + i * lanes, &old, sizeof(Vec));
    } else {
      std::memcpy(part + i * lanes, &value, sizeof(Vec));
    }
  }
}

template <typename T, int R, int V>
inline void any_tile(const Problem<T>& p, const T* x, const T* delta, int64_t from, int64_t to,
                     T* part, T* total) {
  const bool first = from == 0, last = to == p.positions;
  if (first && last)
    tile<T, R, V, true, true>(p, x, delta, from, to, part, total);
  else if (first)
    tile<T, R, V, true, false>(p, x, delta, from, to, part, total);
  else if (last)
    tile<T, R, V, false, true>(p, x, delta, from, to, part, total);
  else
    tile<T, R, V, false, false>(p, x, delta, from, to, part, total);
}

// Sums of a tile are kept together until all samples are in: rows of the result are far apart.
template <typename T, int V>
void rows_by_columns(const Problem<T>& p, int64_t first_row, int64_t end_row, int64_t run,
                     int64_t column, int64_t columns) {
  constexpr int width = V * Lanes<T>::count;
  alignas(64) T part[rows_of_a_task * width];
  alignas(64) T total[rows_of_a_task * width] = {};
  for (int64_t n = 0; n < p.samples; ++n) {
    const T* x = p.x + n * p.x_stride + p.run[run] + column;
    const T* delta = p.delta + n * p.delta_stride;
    for (int64_t from = 0; from < p.positions; from += block) {
      const int64_t to = from + block < p.positions ? from + block : p.positions;
      for (int64_t row = first_row; row < end_row;) {
        const int64_t own = (row - first_row) * width;
        if (end_row - row >= most_rows) {
          any_tile<T, most_rows, V>(p, x, delta + row, from, to, part + own, total + own);
          row += most_rows;
        } else if (end_row - row >= 4) {
          any_tile<T, 4, V>(p, x, delta + row, from, to, part + own, total + own);
          row += 4;
        } else {
          any_tile<T, 1, V>(p, x, delta + row, from, to, part + own, total + own);
          row += 1;
        }
      }
    }
  }
  for (int64_t row = first_row; row < end_row; ++row) {
    T* target = p.total + row * p.total_row + run * p.run_length + column;
    for (int64_t c = 0; c < columns; ++c) target[c] += total[(row - first_row) * width + c];
  }
}

template <typename T>
void add_group(const Problem<T>& p, int threads) {
  constexpr int lanes = Lanes<T>::count;
  constexpr int64_t width = most_vectors * lanes;
  const int64_t strips = (p.run_length + width - 1) / width;
  int64_t rows = rows_of_a_task;
  while (rows > most_rows && p.runs * strips * ((p.rows + rows - 1) / rows) < 4 * threads) rows /= 2;
  const int64_t row_blocks = (p.rows + rows - 1) / rows;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
  for (int64_t task = 0; task < p.runs * strips * row_blocks; ++task) {
    const int64_t first_row = task % row_blocks * rows;
    const int64_t end_row = first_row + rows < p.rows ? first_row + rows : p.rows;
    const int64_t strip = task / row_blocks % strips;
    const int64_t run = task / row_blocks / strips;
    const int64_t column = strip * width;
    const int64_t columns = p.run_length - column < width ? p.run_length - column : width;
    if (columns > 2 * lanes)
      rows_by_columns<T, 3>(p, first_row, end_row, run, column, columns);
    else if (columns > lanes)
      rows_by_columns<T, 2>(p, first_row, end_row, run, column, columns);
    else
      rows_by_columns<T, 1>(p, first_row, end_row, run, column, columns);
  }
}

// Works on groups of samples that stay in the second cache, but not on so few that reading and
// writing the result outweighs the products.
template <typename T>
void add(Problem<T> p, int threads) {
  const int64_t cached = group_bytes / p.sample_bytes;
  const int64_t enough = (group_positions + p.positions - 1) / p.positions;
  const int64_t group = cached > enough ? cached : enough;
  for (int64_t left = p.samples; left > 0; left -= group) {
    p.samples = left < group ? left : group;
    add_group(p, threads);
    p.x += group * p.x_stride;
    p.delta += group * p.delta_stride;
  }
}

// Copies images (n, channels, pixels) to (n, rows, columns, channels) with a border left alone.
template <typename T>
void channels_last(T* out, const T* in, int64_t images, int64_t channels, int64_t height,
                   int64_t width, int64_t image_stride, int64_t row_stride, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t image = 0; image < images; ++image)
    for (int64_t y = 0; y < height; ++y) {
      const T* from = in + (image * channels * height + y) * width;
      T* to = out + image * image_stride + y * row_stride;
      for (int64_t c0 = 0; c0 < channels; c0 += 16) {
        const int64_t c1 = c0 + 16 < channels ? c0 + 16 : channels;
        for (int64_t x = 0; x < width; ++x)
          for (int64_t c = c0; c < c1; ++c) to[x * channels + c] = from[c * height * width + x];
      }
    }
}

// Adds factor * omega * (theta - star) to gradients: what a quadratic penalty pulls with, in one
// pass over memory, which is all that it costs.
template <typename T>
void add_pull(T* __restrict gradient, const T* __restrict omega, const T* __restrict theta,
              const T* __restrict star, int64_t count, T factor, int threads) {
#pragma omp parallel for simd schedule(static) num_threads(threads) if (count > parallel_from)
  for (int64_t i = 0; i < count; ++i) gradient[i] += factor * omega[i] * (theta[i] - star[i]);
}

}  // namespace

#define EXPORT(T, NAME)                                                                          \
  extern "C" void add_##NAME(T* total, const T* x, const T* delta, const int64_t* position,      \
                             const int64_t* run, const int64_t* sizes, int64_t threads) {        \
    add<T>({total, x, delta, position, run, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4],    \
            sizes[5], sizes[6], sizes[7], sizes[8], sizes[9], sizes[10]},                        \
           static_cast<int>(threads));                                                           \
  }                                                                                              \
  extern "C" void channels_last_##NAME(T* out, const T* in, const int64_t* sizes,                \
                                       int64_t threads) {                                        \
    channels_last<T>(out, in, sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5],        \
                     static_cast<int>(threads));                                                 \
  }                                                                                              \
  extern "C" void add_pulls_##NAME(T* const* gradients, const T* const* omegas,                  \
                                   const T* const* thetas, const T* const* stars,                \
                                   const int64_t* counts, int64_t tensors, double factor,        \
                                   int64_t threads) {                                            \
    for (int64_t t = 0; t < tensors; ++t)                                                        \
      add_pull<T>(gradients[t], omegas[t], thetas[t], stars[t], counts[t],                       \
                  static_cast<T>(factor), static_cast<int>(threads));                            \
  }

EXPORT(float, float)
EXPORT(double, double)

extern "C" int64_t lanes_float() { return Lanes<float>::count; }
extern "C" int64_t lanes_double() { return Lanes<double>::count; }
