// The training step of the residual network for x86 processors with AVX-512, or with AVX2 and FMA.
//
// 3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2015, arXiv 1509.09308): a tile of
// 4x4 outputs costs 36 multiplications for each pair of channels instead of 144. The backward pass is the adjoint
// of the forward pass, step by step, so it costs as little:
//
//     forward   V = B' x B       M = sum over inputs V U         y  = A' M A        U = G w G'
//     backward  dM = A dy A'     dV = dM U', dU = V' dM          dx = B dV B'       dw = G' dU G
//
// Words used below:
//   picture  activations (images, height, width, channels), channels last, float32
//   tile     4x4 outputs; its input is 6x6 and overlaps its neighbours'
//   plane    one of the 36 positions of a transformed tile
//   panel    16 channels; transformed tiles are kept as [plane][panel][tile][16], so that the matrix product reads
//            and writes whole cache lines one after another
//   chunk    as many tiles as are transformed, multiplied and transformed back while they are in the cache
//
// Around the convolutions stand batch normalisation, ReLU, pooling and the 1x1 shortcut. None of them gets a pass
// of its own over memory where it can be avoided: statistics are summed while a tile is written, normalisation and
// ReLU are applied while a tile is read, and the same holds backwards.
//
// Everything is deterministic for a given number of threads: each thread has a fixed range of images, and partial
// sums are added in the order of the threads. Channels are multiples of 16; heights and widths are free.

#include "vectors.h"

constexpr long PANEL = 16;          // channels side by side in memory after a transform
constexpr long VECTORS = PANEL / LANES;
constexpr long PLANES = 36;

static INLINE vec relu(vec x) { return larger(zero(), x); }                         // a NaN stays a NaN
static INLINE Mask positive(vec x) { return greater(x, zero()); }
static INLINE double total(vec x) { double t = 0; for (int k = 0; k < LANES; k++) t += x[k]; return t; }

static thread_local Scratch private_sums;

struct Picture { long n, h, w; };   // images, height, width

// ---------------------------------------------------------------------------------------------------------------
// Matrix products on panels

// out[P panels][R tiles][16] = sum over the panels of inputs of a[panel][R tiles][16] times b[P panels][16 inputs][16]
template <int R, int P>
static INLINE void product_rows(const float* a, long a_pitch, long panels, const float* b, long b_pitch, float* out,
                                long out_pitch) {
    vec sum[R][P * VECTORS], w[P * VECTORS];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < P * VECTORS; j++) sum[r][j] = zero();
    for (long p = 0; p < panels; p++, a += a_pitch)
#pragma GCC unroll 4
        for (long k = 0; k < PANEL; k++, b += PANEL) {
            for (int j = 0; j < P * VECTORS; j++) w[j] = load(b + j / VECTORS * b_pitch + j % VECTORS * LANES);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                vec x = all(a[r * PANEL + k]);
                for (int j = 0; j < P * VECTORS; j++) sum[r][j] = fma(x, w[j], sum[r][j]);
            }
        }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < P * VECTORS; j++)
            store(out + j / VECTORS * out_pitch + r * PANEL + j % VECTORS * LANES, sum[r][j]);
}

// out[panel of outputs][tile][16] = a[panel of inputs][tile][16] times b[panel of outputs][input][16] for panels from p
// on, P at once while there are as many; tiles are a multiple of ROWS
template <int P = WIDE>
static void product(const float* a, long inputs, const float* b, float* out, long outputs, long tiles, long p = 0) {
    long pitch = tiles * PANEL, next = inputs * PANEL;
    for (; p + P <= outputs / PANEL; p += P)
        for (long t = 0; t < pitch; t += ROWS * PANEL)
            product_rows<ROWS, P>(a + t, pitch, inputs / PANEL, b + p * next, next, out + p * pitch + t, pitch);
    if constexpr (P > 1) product<P / 2>(a, inputs, b, out, outputs, tiles, p);
}

// u[P panels][R inputs][16] += sum over tiles of a[tile][R inputs] b[P panels][tile][16]
template <int R, int P>
static INLINE void correlate_rows(const float* a, const float* b, long b_pitch, long tiles, float* u) {
    vec sum[R][P * VECTORS], g[P * VECTORS];
    auto at = [=](int r, int j) { return u + j / VECTORS * PANEL * PANEL + r * PANEL + j % VECTORS * LANES; };
    for (int r = 0; r < R; r++)
        for (int j = 0; j < P * VECTORS; j++) {
            sum[r][j] = load(at(r, j));
            __builtin_prefetch(at(r, j) + P * PANEL * PANEL, 1, 2);     // what the next panels of outputs will add to
        }
#pragma GCC unroll 2
    for (long t = 0; t < tiles; t++, a += PANEL, b += PANEL) {
        for (int j = 0; j < P * VECTORS; j++) g[j] = load(b + j / VECTORS * b_pitch + j % VECTORS * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            vec x = all(a[r]);
            for (int j = 0; j < P * VECTORS; j++) sum[r][j] = fma(x, g[j], sum[r][j]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < P * VECTORS; j++) store(at(r, j), sum[r][j]);
}

// The same for all 16 inputs of a panel
template <int P, int FIRST = 0>
static INLINE void correlate_panels(const float* a, const float* b, long b_pitch, long tiles, float* u) {
    constexpr int R = PANEL - FIRST < TALL ? PANEL - FIRST : TALL;
    correlate_rows<R, P>(a + FIRST, b, b_pitch, tiles, u + FIRST * PANEL);
    if constexpr (FIRST + R < PANEL) correlate_panels<P, FIRST + R>(a, b, b_pitch, tiles, u);
}

// u[panel of inputs][panel of outputs][16][16] += a' b over the used tiles, for panels of outputs from `first` on;
// `rows` tiles lie between panels
template <int P = WIDE>
static void correlate(const float* a, long inputs, const float* b, long outputs, long rows, long used, float* u,
                      long first = 0) {
    long pitch = rows * PANEL, panels = outputs / PANEL;
    for (long i = 0; i < inputs / PANEL; i++)
        for (long o = first; o + P <= panels; o += P)
            correlate_panels<P>(a + i * pitch, b + o * pitch, pitch, used, u + (i * panels + o) * PANEL * PANEL);
    if constexpr (P > 1) correlate<P / 2>(a, inputs, b, outputs, rows, used, u, panels / P * P);
}

// ---------------------------------------------------------------------------------------------------------------
// The transforms in one dimension; a 6x6 or 4x4 tile is transformed along its columns, then along its rows

constexpr float A1 = 0.70710678f, B1 = 1.41421356f;       // the points 0, +-A1, +-B1 and infinity; A1 B1 = 1

static INLINE void input_transform(vec a, vec b, vec c, vec d, vec e, vec f, vec* o) {             // B'
    vec even = fnma(all(2), c, e), odd = fnma(all(B1), b, all(A1) * d);
    vec even2 = fnma(all(0.5f), c, e), odd2 = fnma(all(A1), b, all(B1) * d);
    o[0] = fnma(all(2.5f), c, a + e);
    o[1] = even + odd;
    o[2] = even - odd;
    o[3] = even2 + odd2;
    o[4] = even2 - odd2;
    o[5] = fnma(all(2.5f), d, b + f);
}

static INLINE void input_adjoint(vec a, vec b, vec c, vec d, vec e, vec f, vec* o) {               // B
    vec s = b + c, t = b - c, p = d + e, q = d - e;
    o[0] = a;
    o[1] = fnma(all(B1), t, fnma(all(A1), q, f));
    o[2] = fnma(all(2.5f), a, fnma(all(2), s, all(-0.5f) * p));
    o[3] = fma(all(A1), t, fma(all(B1), q, all(-2.5f) * f));
    o[4] = a + s + p;
    o[5] = f;
}

static INLINE void output_transform(vec a, vec b, vec c, vec d, vec e, vec f, vec* o) {            // A'
    vec s = b + c, t = b - c, p = d + e, q = d - e;
    o[0] = a + s + p;
    o[1] = fma(all(A1), t, all(B1) * q);
    o[2] = fma(all(0.5f), s, all(2) * p);
    o[3] = fma(all(A1 / 2), t, fma(all(B1 * 2), q, f));
}

static INLINE void output_adjoint(vec a, vec b, vec c, vec d, vec* o) {                          // A
    vec even = fma(all(0.5f), c, a), odd = all(A1) * fma(all(0.5f), d, b);
    vec even2 = fma(all(2), c, a), odd2 = all(B1) * fma(all(2), d, b);
    o[0] = a;
    o[1] = even + odd;
    o[2] = even - odd;
    o[3] = even2 + odd2;
    o[4] = even2 - odd2;
    o[5] = d;
}

static INLINE void weight_transform(vec a, vec b, vec c, vec* o) {                              // G
    vec even = fma(all(-2.f / 3), a, all(-1.f / 3) * c), odd = all(-A1 * 2 / 3) * b;
    vec even2 = fma(all(1.f / 6), a, all(1.f / 3) * c), odd2 = all(B1 / 6) * b;
    o[0] = a;
    o[1] = even + odd;
    o[2] = even - odd;
    o[3] = even2 + odd2;
    o[4] = even2 - odd2;
    o[5] = c;
}

static INLINE void weight_adjoint(vec a, vec b, vec c, vec d, vec e, vec f, vec* o) {              // G'
    vec s = b + c, p = d + e;
    o[0] = fma(all(-2.f / 3), s, fma(all(1.f / 6), p, a));
    o[1] = fma(all(-A1 * 2 / 3), b - c, all(B1 / 6) * (d - e));
    o[2] = fma(all(1.f / 3), p - s, f);
}

// ---------------------------------------------------------------------------------------------------------------
// Where tiles lie

struct Tiles {
    Picture size;
    long down, across;                                   // tiles in an image
    Tiles(Picture p) : size(p), down((p.h + 3) / 4), across((p.w + 3) / 4) {}
    long image() const { return down * across; }
    long total() const { return size.n * image(); }
};

struct Place {
    long n, y, x;                                        // image, and the first row and column of the 4x4 outputs
    Place(const Tiles& tiles, long t)
        : n(t / tiles.image()), y(t / tiles.across % tiles.down * 4), x(t % tiles.across * 4) {}
};

// floats from one plane to the next; the odd cache line keeps 36 planes from falling into one set of the cache
static long plane_pitch(long channels, long tiles) { return channels * tiles + PANEL; }

// Asks for what will be needed two tiles later: of `rows` rows of four pixels, the share that belongs to LANES channels
// from c on, when a loop over the channels of a tile comes past.
template <int WRITE = 0>
static INLINE void fetch_ahead(const float* tile, long line, int rows, long channels, long c) {
    const float* start = tile + 8 * channels + c * 4;
    for (int y = 0; y < rows; y++)
        for (int k = 0; k < 4 * LANES; k += 16) __builtin_prefetch(start + y * line + k, WRITE, 2);
}

// ---------------------------------------------------------------------------------------------------------------
// How pictures are read

struct Plain {                                           // as they are
    const float* x;
    INLINE vec operator()(long i, long) const { return load(x + i); }
};

struct Normalised {                                      // after batch normalisation and ReLU
    const float *x, *scale, *shift;                      // scale and shift: (channels,)
    INLINE vec operator()(long i, long c) const { return relu(fma(load(x + i), load(scale + c), load(shift + c))); }
};

// Tiles [first, first + count) transformed into planes
template <class Read>
static void transform_inputs(const Tiles& tiles, long channels, Read read, long first, long count, long rows,
                             float* planes) {
    long pitch = plane_pitch(channels, rows), line = tiles.size.w * channels;
    for (long t = 0; t < count; t++) {
        Place at(tiles, first + t);
        long start = ((at.n * tiles.size.h + at.y - 1) * tiles.size.w + at.x - 1) * channels;
        bool inside = at.y > 0 && at.x > 0 && at.y + 5 <= tiles.size.h && at.x + 5 <= tiles.size.w;
        for (long c = 0; c < channels; c += LANES) {
            vec half[6][6], d[6], o[6];
            fetch_ahead(read.x + start, line, 6, channels, c);
            if (inside)
                for (int x = 0; x < 6; x++) {
                    long i = start + x * channels + c;
                    for (int y = 0; y < 6; y++) d[y] = read(i + y * line, c);
                    input_transform(d[0], d[1], d[2], d[3], d[4], d[5], half[x]);
                }
            else
                for (int x = 0; x < 6; x++) {
                    long i = start + x * channels + c, column = at.x - 1 + x;
                    bool exists = column >= 0 && column < tiles.size.w;
                    for (int y = 0; y < 6; y++) {
                        long row = at.y - 1 + y;
                        d[y] = exists && row >= 0 && row < tiles.size.h ? read(i + y * line, c) : zero();
                    }
                    input_transform(d[0], d[1], d[2], d[3], d[4], d[5], half[x]);
                }
            float* to = planes + ((c / PANEL) * rows + t) * PANEL + c % PANEL;
            for (int y = 0; y < 6; y++) {
                input_transform(half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y], o);
                for (int x = 0; x < 6; x++) store(to + (y * 6 + x) * pitch, o[x]);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Forward convolution

// Planes back to pictures; with `sums`, the sum and the sum of squares of each channel are added to sums[2][channels]
static void transform_outputs(const Tiles& tiles, long channels, const float* planes, long first, long count,
                              long rows, float* out, float* sums) {
    long pitch = plane_pitch(channels, rows), line = tiles.size.w * channels;
    for (long t = 0; t < count; t++) {
        Place at(tiles, first + t);
        float* start = out + ((at.n * tiles.size.h + at.y) * tiles.size.w + at.x) * channels;
        int high = tiles.size.h - at.y < 4 ? tiles.size.h - at.y : 4;
        int wide = tiles.size.w - at.x < 4 ? tiles.size.w - at.x : 4;
        for (long c = 0; c < channels; c += LANES) {
            const float* from = planes + ((c / PANEL) * rows + t) * PANEL + c % PANEL;
            vec half[6][4], o[4], sum = zero(), squares = zero();
            fetch_ahead<1>(start, line, 4, channels, c);
            for (int x = 0; x < 6; x++) {
                const float* f = from + x * pitch;
                output_transform(load(f), load(f + 6 * pitch), load(f + 12 * pitch), load(f + 18 * pitch),
                                 load(f + 24 * pitch), load(f + 30 * pitch), half[x]);
            }
            if (high == 4 && wide == 4)
                for (int y = 0; y < 4; y++) {
                    output_transform(half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y], o);
                    for (int x = 0; x < 4; x++) {
                        store(start + y * line + x * channels + c, o[x]);
                        sum += o[x]; squares = fma(o[x], o[x], squares);
                    }
                }
            else
                for (int y = 0; y < high; y++) {
                    output_transform(half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y], o);
                    for (int x = 0; x < 4; x++) {
                        if (x >= wide) continue;
                        store(start + y * line + x * channels + c, o[x]);
                        sum += o[x]; squares = fma(o[x], o[x], squares);
                    }
                }
            if (sums) {
                store(sums + c, load(sums + c) + sum);
                store(sums + channels + c, load(sums + channels + c) + squares);
            }
        }
    }
}

// Adds a chunk's sums to a thread's, in double precision, and clears them
static void carry(float* sums, double* totals, long count) {
    for (long i = 0; i < count; i++) { totals[i] += sums[i]; sums[i] = 0; }
}

// Adds the threads' sums in the order of the threads
static void gather(const std::vector<double>& parts, double* totals, long count, int threads) {
    for (long i = 0; i < count; i++) {
        totals[i] = 0;
        for (int t = 0; t < threads; t++) totals[i] += parts[t * count + i];
    }
}

template <class Read>
static void forward(Picture p, long inputs, long outputs, Read read, const float* u, float* out, double* stats,
                    long rows, int threads) {
    Tiles tiles(p);
    long chunks = (tiles.total() + rows - 1) / rows;
    std::vector<double> parts(threads * 2 * outputs, 0.0);
#pragma omp parallel num_threads(threads)
    {
        FlushTiny flush;
        long v_pitch = plane_pitch(inputs, rows), m_pitch = plane_pitch(outputs, rows);
        float* v = scratch.floats(PLANES * (v_pitch + m_pitch));
        float* m = v + PLANES * v_pitch;
        std::vector<float> sums(2 * outputs, 0.f);
        Share share(chunks);
        for (long chunk = share.first; chunk < share.end; chunk++) {
            long first = chunk * rows, count = tiles.total() - first < rows ? tiles.total() - first : rows;
            transform_inputs(tiles, inputs, read, first, count, rows, v);
            for (long i = 0; i < PLANES; i++)
                product(v + i * v_pitch, inputs, u + i * inputs * outputs, m + i * m_pitch, outputs, rows);
            transform_outputs(tiles, outputs, m, first, count, rows, out, stats ? sums.data() : nullptr);
            if (stats) carry(sums.data(), &parts[share.me * 2 * outputs], 2 * outputs);
        }
    }
    if (stats) gather(parts, stats, 2 * outputs, threads);
}

// ---------------------------------------------------------------------------------------------------------------
// Backward convolution
//
// What comes from behind is never stored as the gradient of the convolution's output; it is computed where it is
// read. With y the convolution's output, batch normalisation's own backward pass is linear in each channel:
//     dy = a * (gradient after normalisation) + b * y + d

struct Affine {
    const float *a, *b, *d;                              // (channels,)
    INLINE vec operator()(vec gradient, vec y, long c) const {
        return fma(load(a + c), gradient, fma(load(b + c), y, load(d + c)));
    }
};

// Each kind of gradient can be asked for one pixel, or for a whole tile of 4x4 that lies inside the picture, [x][y].

struct BehindPool {                                      // the gradient of max-pooling, which knows its winners
    const float *y, *pooled;                             // pooled: (n, h/2, w/2, channels)
    const uint8_t* winner;                               // 0 to 3 in a 2x2 window, 4: none, since ReLU cut it off
    Affine normalisation;
    Picture p;
    long channels;
    INLINE long output(long n, long row, long column) const { return ((n * p.h + row) * p.w + column) * channels; }
    INLINE long window(long n, long row, long column) const {
        return ((n * (p.h / 2) + row / 2) * (p.w / 2) + column / 2) * channels;
    }
    INLINE vec pixel(long n, long row, long column, long c) const {
        long j = window(n, row, column) + c;
        vec gradient = row / 2 < p.h / 2 && column / 2 < p.w / 2
                    ? only(equal(load_bytes(winner + j), (row & 1) * 2 + (column & 1)), load(pooled + j)) : zero();
        return normalisation(gradient, load(y + output(n, row, column) + c), c);
    }
    INLINE void tile(long n, long row, long column, long c, vec (*d)[4]) const {
        long line = p.w * channels, i = output(n, row, column) + c, j = window(n, row, column) + c;
        fetch_ahead(y + i - c, line, 4, channels, c);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            long at = j + k / 2 * (p.w / 2) * channels + k % 2 * channels;
            ints best = load_bytes(winner + at);
            vec gradient = load(pooled + at);
            __builtin_prefetch(pooled + at + 4 * channels, 0, 2);
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) {
                int down = k / 2 * 2 + q / 2, right = k % 2 * 2 + q % 2;
                vec before = load(y + i + down * line + right * channels);
                d[right][down] = normalisation(only(equal(best, q), gradient), before, c);
            }
        }
    }
};

struct BehindMean {                                      // the gradient of the mean over all positions, and of ReLU
    const float *y, *mean;                               // mean: (n, channels), already divided by the positions
    const uint8_t* alive;                                // 0xff where ReLU let the value through
    Affine normalisation;
    Picture p;
    long channels;
    INLINE vec value(long i, long n, long c) const {
        Mask through = equal(load_bytes(alive + i), 0xff);
        return normalisation(only(through, load(mean + n * channels + c)), load(y + i), c);
    }
    INLINE vec pixel(long n, long row, long column, long c) const {
        return value(((n * p.h + row) * p.w + column) * channels + c, n, c);
    }
    INLINE void tile(long n, long row, long column, long c, vec (*d)[4]) const {
        long line = p.w * channels, i = ((n * p.h + row) * p.w + column) * channels + c;
        fetch_ahead(y + i - c, line, 4, channels, c);
        for (int x = 0; x < 4; x++)
            for (int y = 0; y < 4; y++) d[x][y] = value(i + y * line + x * channels, n, c);
    }
};

struct BehindReLU {                                      // the gradient behind normalisation and ReLU
    const float *y, *gradient, *scale, *shift;           // gradient: like y
    Affine normalisation;
    Picture p;
    long channels;
    INLINE vec value(long i, long c) const {
        vec before = load(y + i);
        Mask alive = positive(fma(before, load(scale + c), load(shift + c)));
        return normalisation(only(alive, load(gradient + i)), before, c);
    }
    INLINE vec pixel(long n, long row, long column, long c) const {
        return value(((n * p.h + row) * p.w + column) * channels + c, c);
    }
    INLINE void tile(long n, long row, long column, long c, vec (*d)[4]) const {
        long line = p.w * channels, i = ((n * p.h + row) * p.w + column) * channels + c;
        fetch_ahead(y + i - c, line, 4, channels, c);
        fetch_ahead(gradient + i - c, line, 4, channels, c);
        for (int x = 0; x < 4; x++)
            for (int y = 0; y < 4; y++) d[x][y] = value(i + y * line + x * channels, c);
    }
};

// Gradients of 4x4 outputs transformed into planes
template <class Behind>
static void transform_gradients(const Tiles& tiles, long channels, Behind behind, long first, long count, long rows,
                                float* planes) {
    long pitch = plane_pitch(channels, rows);
    for (long t = 0; t < count; t++) {
        Place at(tiles, first + t);
        bool inside = at.y + 4 <= tiles.size.h && at.x + 4 <= tiles.size.w;
        for (long c = 0; c < channels; c += LANES) {
            vec half[4][6], d[4][4], o[6];
            if (inside) behind.tile(at.n, at.y, at.x, c, d);
            else
                for (int x = 0; x < 4; x++)
                    for (int y = 0; y < 4; y++)
                        d[x][y] = at.y + y < tiles.size.h && at.x + x < tiles.size.w
                                ? behind.pixel(at.n, at.y + y, at.x + x, c) : zero();
            for (int x = 0; x < 4; x++) output_adjoint(d[x][0], d[x][1], d[x][2], d[x][3], half[x]);
            float* to = planes + ((c / PANEL) * rows + t) * PANEL + c % PANEL;
            for (int y = 0; y < 6; y++) {
                output_adjoint(half[0][y], half[1][y], half[2][y], half[3][y], o);
                for (int x = 0; x < 6; x++) store(to + (y * 6 + x) * pitch, o[x]);
            }
        }
    }
}

// Planes back to the gradient of the input. The 6x6 tiles overlap by two, so they are added; `fresh` says that the
// picture holds nothing yet, and what a tile is the first to touch is stored. Tiles come in reading order.
static void add_inputs(const Tiles& tiles, long channels, const float* planes, long first, long count, long rows,
                       bool fresh, float* out) {
    long pitch = plane_pitch(channels, rows), line = tiles.size.w * channels;
    for (long t = 0; t < count; t++) {
        Place at(tiles, first + t);
        float* start = out + ((at.n * tiles.size.h + at.y - 1) * tiles.size.w + at.x - 1) * channels;
        bool inside = at.y > 0 && at.x > 0 && at.y + 5 <= tiles.size.h && at.x + 5 <= tiles.size.w;
        for (long c = 0; c < channels; c += LANES) {
            const float* from = planes + ((c / PANEL) * rows + t) * PANEL + c % PANEL;
            vec half[6][6], o[6];
            fetch_ahead<1>(start, line, 6, channels, c);
            for (int x = 0; x < 6; x++) {
                const float* f = from + x * pitch;
                input_adjoint(load(f), load(f + 6 * pitch), load(f + 12 * pitch), load(f + 18 * pitch),
                              load(f + 24 * pitch), load(f + 30 * pitch), half[x]);
            }
            if (inside)
                for (int y = 0; y < 6; y++) {
                    input_adjoint(half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y], o);
                    float* to = start + y * line + c;
                    for (int x = 0; x < 6; x++, to += channels)
                        store(to, fresh && y >= 2 && x >= 2 ? o[x] : o[x] + load(to));
                }
            else
                for (int y = 0; y < 6; y++) {
                    if (at.y - 1 + y < 0 || at.y - 1 + y >= tiles.size.h) continue;
                    input_adjoint(half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y], o);
                    float* to = start + y * line + c;
                    bool row_is_new = fresh && (y >= 2 || at.y == 0);
                    for (int x = 0; x < 6; x++, to += channels) {
                        if (at.x - 1 + x < 0 || at.x - 1 + x >= tiles.size.w) continue;
                        store(to, row_is_new && (x >= 2 || at.x == 0) ? o[x] : o[x] + load(to));
                    }
                }
        }
    }
}

// For the batch normalisation in front: sums of the gradient behind ReLU and of its product with what came in,
// over rows [from, to) of one image
static void sum_rows(Picture p, long channels, Normalised in, const float* gradient, long n, long from, long to,
                     float* sums) {
    for (long c = 0; c < channels; c += LANES) {
        vec sum = zero(), product = zero(), scale = load(in.scale + c), shift = load(in.shift + c);
        for (long i = (n * p.h + from) * p.w * channels + c; i < (n * p.h + to) * p.w * channels; i += channels) {
            vec x = load(in.x + i), g = only(positive(fma(x, scale, shift)), load(gradient + i));
            sum += g; product = fma(g, x, product);
        }
        store(sums + c, load(sums + c) + sum);
        store(sums + channels + c, load(sums + channels + c) + product);
    }
}
static void sum_rows(Picture, long, Plain, const float*, long, long, long, float*) {}

// Gradient of the weights from the threads' sums
static void finish_weights(const std::vector<float*>& parts, long inputs, long outputs, long pitch, float* dw,
                           long s_out, long s_in, long s_row, long s_column, int threads) {
    long panels = outputs / PANEL;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long i = 0; i < inputs; i++) {
        FlushTiny flush;
        for (long o = 0; o < outputs; o += LANES) {
            long at = ((i / PANEL * panels + o / PANEL) * PANEL + i % PANEL) * PANEL + o % PANEL;
            vec half[6][3], sum[6], w[3];
            for (int x = 0; x < 6; x++) {
                for (int y = 0; y < 6; y++) {
                    sum[y] = load(parts[0] + (y * 6 + x) * pitch + at);
                    for (size_t t = 1; t < parts.size() && parts[t]; t++)
                        sum[y] += load(parts[t] + (y * 6 + x) * pitch + at);
                }
                weight_adjoint(sum[0], sum[1], sum[2], sum[3], sum[4], sum[5], half[x]);
            }
            for (int y = 0; y < 3; y++) {
                weight_adjoint(half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y], w);
                for (int x = 0; x < 3; x++)
                    for (int k = 0; k < LANES; k++) dw[(o + k) * s_out + i * s_in + y * s_row + x * s_column] = w[x][k];
            }
        }
    }
}

template <class Read, class Behind>
static void backward(Picture p, long inputs, long outputs, Read read, Behind behind, const float* u_back,
                     bool fresh, float* dx, double* stats, float* dw, const long* strides, long rows, int threads) {
    Tiles tiles(p);
    long u_pitch = inputs * outputs + PANEL;
    std::vector<double> parts(threads * 2 * inputs, 0.0);
    std::vector<float*> weights(threads);
#pragma omp parallel num_threads(threads)
    {
        FlushTiny flush;
        long v_pitch = plane_pitch(inputs, rows), m_pitch = plane_pitch(outputs, rows);
        float* v = scratch.floats(PLANES * (v_pitch + m_pitch));
        float* m = v + PLANES * v_pitch;
        Share share(p.n);
        float* du = weights[share.me] = private_sums.floats(PLANES * u_pitch);
        memset(du, 0, PLANES * u_pitch * sizeof(float));
        std::vector<float> sums(2 * inputs, 0.f);
        long end = share.end * tiles.image(), image = share.first, row = 0;
        for (long first = image * tiles.image(); first < end; first += rows) {
            long count = end - first < rows ? end - first : rows;
            transform_gradients(tiles, outputs, behind, first, count, rows, m);
            transform_inputs(tiles, inputs, read, first, count, rows, v);
            for (long i = 0; i < PLANES; i++) {
                correlate(v + i * v_pitch, inputs, m + i * m_pitch, outputs, rows, count, du + i * u_pitch);
                product(m + i * m_pitch, outputs, u_back + i * inputs * outputs, v + i * v_pitch, inputs, rows);
            }
            add_inputs(tiles, inputs, v, first, count, rows, fresh, dx);
            if (!stats) continue;
            // rows to which no later tile will add
            Place next(tiles, first + count);
            for (; image < next.n; image++, row = 0) sum_rows(p, inputs, read, dx, image, row, p.h, sums.data());
            if (next.y - 1 > row) {
                sum_rows(p, inputs, read, dx, image, row, next.y - 1, sums.data());
                row = next.y - 1;
            }
            carry(sums.data(), &parts[share.me * 2 * inputs], 2 * inputs);
        }
    }
    if (stats) gather(parts, stats, 2 * inputs, threads);
    finish_weights(weights, inputs, outputs, u_pitch, dw, strides[0], strides[1], strides[2], strides[3], threads);
}

// ---------------------------------------------------------------------------------------------------------------
// The 1x1 shortcut: the same with pixels for tiles, one plane, and no transform

static void shortcut_forward(long pixels, long inputs, long outputs, const float* x, const float* w, float* out,
                             double* stats, long rows, int threads) {
    long chunks = (pixels + rows - 1) / rows;
    std::vector<double> parts(threads * 2 * outputs, 0.0);
#pragma omp parallel num_threads(threads)
    {
        FlushTiny flush;
        float* v = scratch.floats(rows * (inputs + outputs));
        float* m = v + rows * inputs;
        std::vector<float> sums(2 * outputs, 0.f);
        Share share(chunks);
        for (long chunk = share.first; chunk < share.end; chunk++) {
            long first = chunk * rows, count = pixels - first < rows ? pixels - first : rows;
            for (long t = 0; t < count; t++)
                for (long c = 0; c < inputs; c += LANES)
                    store(v + ((c / PANEL) * rows + t) * PANEL + c % PANEL, load(x + (first + t) * inputs + c));
            product(v, inputs, w, m, outputs, rows);
            for (long c = 0; c < outputs; c += LANES) {
                vec sum = zero(), squares = zero();
                for (long t = 0; t < count; t++) {
                    vec y = load(m + ((c / PANEL) * rows + t) * PANEL + c % PANEL);
                    store(out + (first + t) * outputs + c, y);
                    sum += y; squares = fma(y, y, squares);
                }
                store(&sums[c], sum); store(&sums[outputs + c], squares);
            }
            if (stats) carry(sums.data(), &parts[share.me * 2 * outputs], 2 * outputs);
        }
    }
    if (stats) gather(parts, stats, 2 * outputs, threads);
}

template <class Behind>
static void shortcut_backward(Picture p, long inputs, long outputs, const float* x, Behind behind,
                              const float* w_back, float* dx, float* dw, long s_out, long s_in, long rows,
                              int threads) {
    std::vector<float*> weights(threads);
#pragma omp parallel num_threads(threads)
    {
        FlushTiny flush;
        float* v = scratch.floats(rows * (inputs + outputs));
        float* m = v + rows * inputs;
        Share share(p.n);
        float* sums = weights[share.me] = private_sums.floats(inputs * outputs);
        memset(sums, 0, inputs * outputs * sizeof(float));
        long end = share.end * p.h * p.w;
        for (long first = share.first * p.h * p.w; first < end; first += rows) {
            long count = end - first < rows ? end - first : rows;
            for (long t = 0; t < count; t++) {
                long n = (first + t) / (p.h * p.w), row = (first + t) / p.w % p.h, column = (first + t) % p.w;
                for (long c = 0; c < outputs; c += LANES)
                    store(m + ((c / PANEL) * rows + t) * PANEL + c % PANEL, behind.pixel(n, row, column, c));
                for (long c = 0; c < inputs; c += LANES)
                    store(v + ((c / PANEL) * rows + t) * PANEL + c % PANEL, load(x + (first + t) * inputs + c));
            }
            correlate(v, inputs, m, outputs, rows, count, sums);
            product(m, outputs, w_back, v, inputs, rows);
            for (long t = 0; t < count; t++)
                for (long c = 0; c < inputs; c += LANES)
                    store(dx + (first + t) * inputs + c, load(v + ((c / PANEL) * rows + t) * PANEL + c % PANEL));
        }
    }
    for (long i = 0; i < inputs; i++)
        for (long o = 0; o < outputs; o++) {
            long at = ((i / PANEL * (outputs / PANEL) + o / PANEL) * PANEL + i % PANEL) * PANEL + o % PANEL;
            float sum = 0;
            for (size_t t = 0; t < weights.size() && weights[t]; t++) sum += weights[t][at];
            dw[o * s_out + i * s_in] = sum;
        }
}

// ---------------------------------------------------------------------------------------------------------------
// Sum of the two ways, ReLU, and pooling or mean

// The winner of each 2x2 window: which of four, or 4 where ReLU cuts all of them off
static INLINE vec pool(vec a, vec b, vec c, vec d, uint8_t* winner) {
    vec most = larger(larger(a, b), larger(c, d)), sum = a + b + c + d;
    ints who = choose(equal(c, most), number(2), number(3));
    who = choose(equal(a, most), number(0), choose(equal(b, most), number(1), who));
    store_bytes(winner, choose(positive(most), who, number(4)));
    return choose(broken(sum), sum, relu(most));         // a NaN anywhere must show
}

// The value at the winner
static INLINE vec won(vec a, vec b, vec c, vec d, const uint8_t* winner) {
    ints who = load_bytes(winner);
    Mask right = has_bit(who, 1), below = has_bit(who, 2);
    return choose(below, choose(right, d, c), choose(right, b, a));
}

static void join_pool(Picture p, long channels, const float* y, const float* s, const float* y_scale,
                      const float* s_scale, const float* shift, float* out, uint8_t* winner, float* y_won,
                      float* s_won, int threads) {
    long down = p.h / 2, across = p.w / 2, line = p.w * channels;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long nr = 0; nr < p.n * down; nr++) {
        FlushTiny flush;
        long n = nr / down, row = nr % down;
        for (long column = 0; column < across; column++)
            for (long c = 0; c < channels; c += LANES) {
                long i = ((n * p.h + 2 * row) * p.w + 2 * column) * channels + c;
                long j = (nr * across + column) * channels + c;
                long at[4] = {i, i + channels, i + line, i + line + channels};
                vec ys[4], ss[4], z[4];
                for (int k = 0; k < 4; k++) {
                    ys[k] = load(y + at[k]); ss[k] = load(s + at[k]);
                    z[k] = fma(ys[k], load(y_scale + c), fma(ss[k], load(s_scale + c), load(shift + c)));
                }
                uint8_t here[LANES];
                store(out + j, pool(z[0], z[1], z[2], z[3], here));
                if (!winner) continue;
                memcpy(winner + j, here, LANES);
                store(y_won + j, won(ys[0], ys[1], ys[2], ys[3], here));
                store(s_won + j, won(ss[0], ss[1], ss[2], ss[3], here));
            }
    }
}

// Mean over all positions; counts[3][n][channels] holds how many are alive, and the sums of y and s over them
static void join_mean(Picture p, long channels, const float* y, const float* s, const float* y_scale,
                      const float* s_scale, const float* shift, float* out, uint8_t* alive, float* counts,
                      int threads) {
    long positions = p.h * p.w;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long n = 0; n < p.n; n++) {
        FlushTiny flush;
        for (long c = 0; c < channels; c += LANES) {
            vec sum = zero(), living = zero(), y_sum = zero(), s_sum = zero();
            vec ys = load(y_scale + c), ss = load(s_scale + c), h = load(shift + c);
            for (long k = 0; k < positions; k++) {
                long i = (n * positions + k) * channels + c;
                vec a = load(y + i), b = load(s + i), z = fma(a, ys, fma(b, ss, h));
                Mask mask = positive(z);
                sum += relu(z);
                if (!alive) continue;
                living += only(mask, all(1)); y_sum += only(mask, a); s_sum += only(mask, b);
                store_bytes(alive + i, choose(mask, number(-1), number(0)));
            }
            store(out + n * channels + c, sum * all(1.f / positions));
            if (!alive) continue;
            store(counts + n * channels + c, living);
            store(counts + (p.n + n) * channels + c, y_sum);
            store(counts + (2 * p.n + n) * channels + c, s_sum);
        }
    }
}

// totals[3][channels]: sums of the gradient that passes the pooling, and of its products with y and s there
static void pool_sums(long pixels, long channels, const float* gradient, const uint8_t* winner, const float* y_won,
                      const float* s_won, double* totals, int threads) {
    std::vector<double> parts(threads * 3 * channels, 0.0);
#pragma omp parallel num_threads(threads)
    {
        FlushTiny flush;
        std::vector<float> sums(3 * channels, 0.f);
        Share share(pixels);
        for (long first = share.first, block = 256; first < share.end; first += block) {
            long last = first + block < share.end ? first + block : share.end;
            for (long c = 0; c < channels; c += LANES) {
                vec sum = zero(), y = zero(), s = zero();
                for (long i = first * channels + c; i < last * channels; i += channels) {
                    vec g = only(below(load_bytes(winner + i), 4), load(gradient + i));
                    sum += g; y = fma(g, load(y_won + i), y); s = fma(g, load(s_won + i), s);
                }
                store(&sums[c], sum); store(&sums[channels + c], y); store(&sums[2 * channels + c], s);
            }
            carry(sums.data(), &parts[share.me * 3 * channels], 3 * channels);
        }
    }
    gather(parts, totals, 3 * channels, threads);
}

// ---------------------------------------------------------------------------------------------------------------
// The first convolution: one input channel, so nine numbers around each position are all there is to know

// A copy of an image with a border of zeros, `width` floats a line
static void bordered(const float* image, long h, long w, long width, float* out) {
    memset(out, 0, (h + 3) * width * sizeof(float));
    for (long y = 0; y < h; y++) memcpy(out + (y + 1) * width + 1, image + y * w, w * sizeof(float));
}

// totals[9 + 81]: sums of the nine neighbours and of their products, over all positions. The mean and the variance
// of any 3x3 convolution follow from these, so the convolution's output need not be stored for its statistics.
static void stem_moments(Picture p, const float* x, double* totals, int threads) {
    long width = p.w + 2 * LANES;
    std::vector<double> parts(threads * 90, 0.0);
#pragma omp parallel num_threads(threads)
    {
        FlushTiny flush;
        Share share(p.n);
        double* mine = &parts[share.me * 90];
        float* image = scratch.floats((p.h + 3) * width);
        for (long n = share.first; n < share.end; n++) {
            bordered(x + n * p.h * p.w, p.h, p.w, width, image);
            for (long row = 0; row < p.h; row++)
                for (int i = 0; i < 9; i++) {
                    vec sum[10] = {};
                    for (long column = 0; column < p.w; column += LANES) {
                        const float* at = image + row * width + column;
                        // positions right of the picture must not count
                        vec a = only(below(steps(1), (int)(p.w - column)), load(at + i / 3 * width + i % 3));
                        sum[9] += a;
                        for (int j = 0; j < 9; j++)
                            if (j >= i) sum[j] = fma(a, load(at + j / 3 * width + j % 3), sum[j]);
                    }
                    mine[i] += total(sum[9]);
                    for (int j = i; j < 9; j++) mine[9 + i * 9 + j] += total(sum[j]);
                }
        }
    }
    gather(parts, totals, 90, threads);
    for (int i = 0; i < 9; i++)
        for (int j = 0; j < i; j++) totals[9 + i * 9 + j] = totals[9 + j * 9 + i];
}

// Convolution (its batch normalisation folded into w[9][channels] and shift[channels]), ReLU and pooling at once
static void stem_forward(Picture p, long channels, const float* x, const float* w, const float* shift, float* out,
                         uint8_t* winner, int threads) {
    long width = p.w + 2 * LANES, down = p.h / 2, across = p.w / 2;
#pragma omp parallel num_threads(threads)
    {
        FlushTiny flush;
        float* image = scratch.floats((p.h + 3) * width);
        Share share(p.n);
        for (long n = share.first; n < share.end; n++) {
            bordered(x + n * p.h * p.w, p.h, p.w, width, image);
            for (long row = 0; row < down; row++)
                for (long c = 0; c < channels; c += LANES) {
                    vec k[9], h = load(shift + c);
                    for (int i = 0; i < 9; i++) k[i] = load(w + i * channels + c);
                    for (long column = 0; column < across; column++) {
                        const float* at = image + 2 * row * width + 2 * column;
                        vec z[4] = {h, h, h, h};
                        for (int y = 0; y < 4; y++)
                            for (int i = 0; i < 4; i++) {
                                vec value = all(at[y * width + i]);
                                for (int q = 0; q < 4; q++) {
                                    int dy = y - q / 2, dx = i - q % 2;
                                    if (dy >= 0 && dy < 3 && dx >= 0 && dx < 3) z[q] = fma(value, k[dy * 3 + dx], z[q]);
                                }
                            }
                        long j = ((n * down + row) * across + column) * channels + c;
                        uint8_t here[LANES];
                        store(out + j, pool(z[0], z[1], z[2], z[3], here));
                        if (winner) memcpy(winner + j, here, LANES);
                    }
                }
        }
    }
}

// totals[10][channels]: sums of the gradient that passes the pooling times each of the nine neighbours, and alone
static void stem_backward(Picture p, long channels, const float* x, const float* gradient, const uint8_t* winner,
                          double* totals, int threads) {
    long width = p.w + 2 * LANES, down = p.h / 2, across = p.w / 2;
    std::vector<double> parts(threads * 10 * channels, 0.0);
#pragma omp parallel num_threads(threads)
    {
        FlushTiny flush;
        float* image = scratch.floats((p.h + 3) * width);
        std::vector<float> sums(10 * channels, 0.f);
        Share share(p.n);
        for (long n = share.first; n < share.end; n++) {
            bordered(x + n * p.h * p.w, p.h, p.w, width, image);
            for (long row = 0; row < down; row++) {
                for (long c = 0; c < channels; c += LANES) {
                    vec sum[10] = {};
                    for (long column = 0; column < across; column++) {
                        const float* at = image + 2 * row * width + 2 * column;
                        long j = ((n * down + row) * across + column) * channels + c;
                        ints who = load_bytes(winner + j);
                        vec g = load(gradient + j);
                        for (int q = 0; q < 4; q++) {
                            vec mine = only(equal(who, q), g);
                            const float* window = at + q / 2 * width + q % 2;
                            for (int i = 0; i < 9; i++)
                                sum[i] = fma(mine, all(window[i / 3 * width + i % 3]), sum[i]);
                            sum[9] += mine;
                        }
                    }
                    for (int i = 0; i < 10; i++) store(&sums[i * channels + c], sum[i]);
                }
                carry(sums.data(), &parts[share.me * 10 * channels], 10 * channels);
            }
        }
    }
    gather(parts, totals, 10 * channels, threads);
}

// ---------------------------------------------------------------------------------------------------------------
// Weights into planes: u[plane][panel of columns][row][16], where a product sums over the rows

static void weight_planes(const float* w, long n_rows, long n_columns, long s_row, long s_column, long s_y, long s_x,
                          float* u, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long panel = 0; panel < n_columns / PANEL; panel++) {
        FlushTiny flush;
        ints lanes = steps((int)s_column);
        for (long r = 0; r < n_rows; r++)
            for (long c = panel * PANEL; c < (panel + 1) * PANEL; c += LANES) {
                const float* from = w + r * s_row + c * s_column;
                auto take = [&](int y, int x) { return gather_lanes(from + y * s_y + x * s_x, lanes); };
                vec half[3][6], o[6];
                for (int x = 0; x < 3; x++) weight_transform(take(0, x), take(1, x), take(2, x), half[x]);
                for (int y = 0; y < 6; y++) {
                    weight_transform(half[0][y], half[1][y], half[2][y], o);
                    for (int x = 0; x < 6; x++)
                        store(u + (((y * 6 + x) * (n_columns / PANEL) + panel) * n_rows + r) * PANEL + c % PANEL, o[x]);
                }
            }
    }
}

// ---------------------------------------------------------------------------------------------------------------
// What Python calls. Pointers may be null where a comment above says so.

// What all have in common: a picture, channels in whole panels, rows that a product takes at once, threads
static Refusal refused(Picture p, long inputs, long outputs, long rows, long threads) {
    WANT(p.n >= 1 && p.h >= 1 && p.w >= 1, "a picture must have images, height and width");
    WANT(within(inputs, PANEL, 1 << 20) && inputs % PANEL == 0, "inputs must be a multiple of 16");
    WANT(within(outputs, PANEL, 1 << 20) && outputs % PANEL == 0, "outputs must be a multiple of 16");
    WANT(within(rows, ROWS, 1 << 16) && rows % ROWS == 0, "rows must be a multiple of what a product takes at once");
    WANT(within(threads, 1, 4096), "threads must be from 1 to 4096");
    return nullptr;
}

static bool reaches(Floats weights, long outputs, long inputs, long s_out, long s_in, long s_y, long s_x) { // 3 x 3, with strides
    for (long stride : {s_out, s_in, s_y, s_x}) if (!within(stride, 0, 1L << 40)) return false;
    return weights.at && (outputs - 1) * s_out + (inputs - 1) * s_in + 2 * s_y + 2 * s_x < weights.count;
}

static bool is_behind(Picture p, long channels, Floats gradient, Bytes winner, Bytes alive) { // pooling or mean, not both
    if (winner.at) return !alive.at && holds(winner, {p.n, p.h / 2, p.w / 2, channels})
                       && holds(gradient, {p.n, p.h / 2, p.w / 2, channels});
    return holds(alive, {p.n, p.h, p.w, channels}) && holds(gradient, {p.n, channels});
}

static Refusal refused_weights(Floats w, long outputs, long inputs, long s_out, long s_in, long s_y, long s_x, Floats u,
                               long threads) {
    if (Refusal why = refused({1, 1, 1}, inputs, outputs, ROWS, threads)) return why;
    WANT(reaches(w, outputs, inputs, s_out, s_in, s_y, s_x), "the strides lead out of the weights");
    WANT(holds(u, {PLANES, inputs, outputs}), "u must have 36 times inputs times outputs numbers");
    return nullptr;
}

extern "C" {

void* take_memory(long bytes) {
    if (!within(bytes, 0, 1L << 46)) return nullptr;
    long whole = std::max(1L, (bytes + (2 << 20) - 1) >> 21) << 21;
    void* memory = aligned_alloc(2 << 20, whole);
    if (memory) madvise(memory, whole, MADV_HUGEPAGE);
    return memory;
}

void give_memory(void* memory) { free(memory); }

Refusal weights_forward(Floats w, long outputs, long inputs, long s_out, long s_in, long s_y, long s_x, Floats u,
                        long threads) {
    if (Refusal why = refused_weights(w, outputs, inputs, s_out, s_in, s_y, s_x, u, threads)) return why;
    return guarded([&] { weight_planes(w.at, inputs, outputs, s_in, s_out, s_y, s_x, u.at, threads); });
}

Refusal weights_backward(Floats w, long outputs, long inputs, long s_out, long s_in, long s_y, long s_x, Floats u,
                         long threads) {
    if (Refusal why = refused_weights(w, outputs, inputs, s_out, s_in, s_y, s_x, u, threads)) return why;
    return guarded([&] { weight_planes(w.at, outputs, inputs, s_out, s_in, s_y, s_x, u.at, threads); });
}

Refusal convolve(long n, long h, long w, long inputs, long outputs, Floats x, Floats scale, Floats shift, Floats u,
                 Floats out, Doubles stats, long rows, long threads) {
    Picture p{n, h, w};
    if (Refusal why = refused(p, inputs, outputs, rows, threads)) return why;
    WANT(holds(x, {n, h, w, inputs}) && holds(out, {n, h, w, outputs}), "x or out has another size than the picture");
    WANT(!scale.at == !shift.at && holds_if_given(scale, {inputs}) && holds_if_given(shift, {inputs}),
         "scale and shift must have a number for each input");
    WANT(holds(u, {PLANES, inputs, outputs}), "u must have 36 times inputs times outputs numbers");
    WANT(holds_if_given(stats, {2, outputs}), "stats must have two numbers for each output");
    return guarded([&] {
        if (scale.at) forward(p, inputs, outputs, Normalised{x.at, scale.at, shift.at}, u.at, out.at, stats.at, rows, threads);
        else forward(p, inputs, outputs, Plain{x.at}, u.at, out.at, stats.at, rows, threads);
    });
}

// The second convolution of a block, behind pooling (winner) or mean (alive)
Refusal convolve_back_second(long n, long h, long w, long channels, Floats x, Floats scale, Floats shift, Floats y,
                             Floats gradient, Bytes winner, Bytes alive, Floats a, Floats b, Floats d, Floats u_back,
                             Floats dx, Doubles stats, Floats dw, long s_out, long s_in, long s_y, long s_x, long rows,
                             long threads) {
    Picture p{n, h, w};
    if (Refusal why = refused(p, channels, channels, rows, threads)) return why;
    for (Floats picture : {x, y, dx}) WANT(holds(picture, {n, h, w, channels}), "x, y or dx has another size than the picture");
    for (Floats numbers : {scale, shift, a, b, d}) WANT(holds(numbers, {channels}), "scale, shift, a, b and d must have a number for each channel");
    WANT(is_behind(p, channels, gradient, winner, alive), "gradient, winner or alive has another size than the picture");
    WANT(holds(u_back, {PLANES, channels, channels}), "u_back must have 36 times channels times channels numbers");
    WANT(holds(stats, {2, channels}), "stats must have two numbers for each channel");
    WANT(reaches(dw, channels, channels, s_out, s_in, s_y, s_x), "the strides lead out of dw");
    long strides[4] = {s_out, s_in, s_y, s_x};
    Normalised read{x.at, scale.at, shift.at};
    return guarded([&] {
        if (winner.at) backward(p, channels, channels, read, BehindPool{y.at, gradient.at, winner.at, {a.at, b.at, d.at}, p, channels},
                                u_back.at, true, dx.at, stats.at, dw.at, strides, rows, threads);
        else backward(p, channels, channels, read, BehindMean{y.at, gradient.at, alive.at, {a.at, b.at, d.at}, p, channels},
                      u_back.at, true, dx.at, stats.at, dw.at, strides, rows, threads);
    });
}

// The first convolution of a block, behind normalisation and ReLU; adds to dx
Refusal convolve_back_first(long n, long h, long w, long inputs, long outputs, Floats x, Floats y, Floats gradient,
                            Floats scale, Floats shift, Floats a, Floats b, Floats d, Floats u_back, Floats dx,
                            Floats dw, long s_out, long s_in, long s_y, long s_x, long rows, long threads) {
    Picture p{n, h, w};
    if (Refusal why = refused(p, inputs, outputs, rows, threads)) return why;
    for (Floats picture : {x, dx}) WANT(holds(picture, {n, h, w, inputs}), "x or dx has another size than the picture");
    for (Floats picture : {y, gradient}) WANT(holds(picture, {n, h, w, outputs}), "y or gradient has another size than the picture");
    for (Floats numbers : {scale, shift, a, b, d}) WANT(holds(numbers, {outputs}), "scale, shift, a, b and d must have a number for each output");
    WANT(holds(u_back, {PLANES, inputs, outputs}), "u_back must have 36 times inputs times outputs numbers");
    WANT(reaches(dw, outputs, inputs, s_out, s_in, s_y, s_x), "the strides lead out of dw");
    long strides[4] = {s_out, s_in, s_y, s_x};
    return guarded([&] {
        backward(p, inputs, outputs, Plain{x.at}, BehindReLU{y.at, gradient.at, scale.at, shift.at, {a.at, b.at, d.at}, p, outputs},
                 u_back.at, false, dx.at, nullptr, dw.at, strides, rows, threads);
    });
}

Refusal shortcut(long pixels, long inputs, long outputs, Floats x, Floats w, Floats out, Doubles stats, long rows,
                 long threads) {
    if (Refusal why = refused({pixels, 1, 1}, inputs, outputs, rows, threads)) return why;
    WANT(holds(x, {pixels, inputs}) && holds(out, {pixels, outputs}), "x or out has another size than the picture");
    WANT(holds(w, {inputs, outputs}), "w must have inputs times outputs numbers");
    WANT(holds_if_given(stats, {2, outputs}), "stats must have two numbers for each output");
    return guarded([&] { shortcut_forward(pixels, inputs, outputs, x.at, w.at, out.at, stats.at, rows, threads); });
}

Refusal shortcut_back(long n, long h, long w, long inputs, long outputs, Floats x, Floats y, Floats gradient,
                      Bytes winner, Bytes alive, Floats a, Floats b, Floats d, Floats w_back, Floats dx, Floats dw,
                      long s_out, long s_in, long rows, long threads) {
    Picture p{n, h, w};
    if (Refusal why = refused(p, inputs, outputs, rows, threads)) return why;
    for (Floats picture : {x, dx}) WANT(holds(picture, {n, h, w, inputs}), "x or dx has another size than the picture");
    WANT(holds(y, {n, h, w, outputs}), "y has another size than the picture");
    WANT(is_behind(p, outputs, gradient, winner, alive), "gradient, winner or alive has another size than the picture");
    for (Floats numbers : {a, b, d}) WANT(holds(numbers, {outputs}), "a, b and d must have a number for each output");
    WANT(holds(w_back, {inputs, outputs}), "w_back must have inputs times outputs numbers");
    WANT(reaches(dw, outputs, inputs, s_out, s_in, 0, 0), "the strides lead out of dw");
    return guarded([&] {
        if (winner.at) shortcut_backward(p, inputs, outputs, x.at, BehindPool{y.at, gradient.at, winner.at, {a.at, b.at, d.at}, p, outputs},
                                         w_back.at, dx.at, dw.at, s_out, s_in, rows, threads);
        else shortcut_backward(p, inputs, outputs, x.at, BehindMean{y.at, gradient.at, alive.at, {a.at, b.at, d.at}, p, outputs},
                               w_back.at, dx.at, dw.at, s_out, s_in, rows, threads);
    });
}

Refusal join_and_pool(long n, long h, long w, long channels, Floats y, Floats s, Floats y_scale, Floats s_scale,
                      Floats shift, Floats out, Bytes winner, Floats y_won, Floats s_won, long threads) {
    if (Refusal why = refused({n, h / 2, w / 2}, channels, channels, ROWS, threads)) return why;
    for (Floats picture : {y, s}) WANT(holds(picture, {n, h, w, channels}), "y or s has another size than the picture");
    for (Floats numbers : {y_scale, s_scale, shift}) WANT(holds(numbers, {channels}), "the scales and the shift must have a number for each channel");
    WANT(holds(out, {n, h / 2, w / 2, channels}), "out must be half as high and wide");
    WANT(!winner.at == !y_won.at && !winner.at == !s_won.at, "winner, y_won and s_won go together");
    WANT(holds_if_given(winner, {n, h / 2, w / 2, channels}), "winner must be half as high and wide");
    for (Floats won : {y_won, s_won}) WANT(holds_if_given(won, {n, h / 2, w / 2, channels}), "y_won and s_won must be half as high and wide");
    return guarded([&] {
        join_pool({n, h, w}, channels, y.at, s.at, y_scale.at, s_scale.at, shift.at, out.at, winner.at, y_won.at, s_won.at, threads);
    });
}

Refusal join_and_mean(long n, long h, long w, long channels, Floats y, Floats s, Floats y_scale, Floats s_scale,
                      Floats shift, Floats out, Bytes alive, Floats counts, long threads) {
    if (Refusal why = refused({n, h, w}, channels, channels, ROWS, threads)) return why;
    for (Floats picture : {y, s}) WANT(holds(picture, {n, h, w, channels}), "y or s has another size than the picture");
    for (Floats numbers : {y_scale, s_scale, shift}) WANT(holds(numbers, {channels}), "the scales and the shift must have a number for each channel");
    WANT(holds(out, {n, channels}), "out must have a number for each image and channel");
    WANT(!alive.at == !counts.at && holds_if_given(alive, {n, h, w, channels}) && holds_if_given(counts, {3, n, channels}),
         "alive and counts go together, and have the picture's size");
    return guarded([&] {
        join_mean({n, h, w}, channels, y.at, s.at, y_scale.at, s_scale.at, shift.at, out.at, alive.at, counts.at, threads);
    });
}

Refusal pooled_sums(long pixels, long channels, Floats gradient, Bytes winner, Floats y_won, Floats s_won,
                    Doubles totals, long threads) {
    if (Refusal why = refused({pixels, 1, 1}, channels, channels, ROWS, threads)) return why;
    for (Floats values : {gradient, y_won, s_won}) WANT(holds(values, {pixels, channels}), "gradient, y_won or s_won has another size");
    WANT(holds(winner, {pixels, channels}), "winner must have a byte for each pixel and channel");
    WANT(holds(totals, {3, channels}), "totals must have three numbers for each channel");
    return guarded([&] { pool_sums(pixels, channels, gradient.at, winner.at, y_won.at, s_won.at, totals.at, threads); });
}

Refusal first_moments(long n, long h, long w, Floats x, Doubles totals, long threads) {
    if (Refusal why = refused({n, h, w}, PANEL, PANEL, ROWS, threads)) return why;
    WANT(holds(x, {n, h, w}), "x has another size than the picture");
    WANT(holds(totals, {90}), "totals must have 90 numbers");
    return guarded([&] { stem_moments({n, h, w}, x.at, totals.at, threads); });
}

Refusal first_forward(long n, long h, long w, long channels, Floats x, Floats weights, Floats shift, Floats out,
                      Bytes winner, long threads) {
    if (Refusal why = refused({n, h / 2, w / 2}, PANEL, channels, ROWS, threads)) return why;
    WANT(holds(x, {n, h, w}), "x has another size than the picture");
    WANT(holds(weights, {9, channels}) && holds(shift, {channels}), "weights and shift must have 9 and 1 numbers for each channel");
    WANT(holds(out, {n, h / 2, w / 2, channels}), "out must be half as high and wide");
    WANT(holds_if_given(winner, {n, h / 2, w / 2, channels}), "winner must be half as high and wide");
    return guarded([&] { stem_forward({n, h, w}, channels, x.at, weights.at, shift.at, out.at, winner.at, threads); });
}

Refusal first_backward(long n, long h, long w, long channels, Floats x, Floats gradient, Bytes winner, Doubles totals,
                       long threads) {
    if (Refusal why = refused({n, h / 2, w / 2}, PANEL, channels, ROWS, threads)) return why;
    WANT(holds(x, {n, h, w}), "x has another size than the picture");
    WANT(holds(gradient, {n, h / 2, w / 2, channels}) && holds(winner, {n, h / 2, w / 2, channels}),
         "gradient and winner must be half as high and wide");
    WANT(holds(totals, {10, channels}), "totals must have ten numbers for each channel");
    return guarded([&] { stem_backward({n, h, w}, channels, x.at, gradient.at, winner.at, totals.at, threads); });
}

}  // extern "C"
