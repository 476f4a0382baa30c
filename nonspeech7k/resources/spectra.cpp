// Mel spectra of waveforms for x86 processors with AVX-512, or with AVX2 and FMA.
//
// A short-time Fourier transform is thousands of small transforms of the same size. Here each lane of a vector has a
// frame of its own: 16 frames (or 8) go through one transform side by side, no number ever changes its lane, and
// every multiplication is one of whole vectors.
//
//   frames   window and transposition: from 16 stretches of sound to vectors of 16 frames
//   halves   a frame of n real numbers is taken for n / 2 complex ones, even samples real and odd samples imaginary
//   forward  Cooley and Tukey's transform (1965), decimation in time, four parts at a time. Depth first, as Frigo and
//            Johnson (2005) do: a part is done while it is in the cache, whatever the size of the whole
//   powers   the real frame's spectrum from the complex one's, and its squares, two frequencies at a time
//   bands    sums over the few frequencies that a filter touches
//
// Everything is deterministic, and a clip's numbers depend on nothing but the clip.

#include "vectors.h"

#include <cmath>

struct Complex { vec re, im; };

static INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
static INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
static INLINE Complex times(Complex a, float re, float im) {
    return {fnma(a.im, all(im), a.re * all(re)), fma(a.re, all(im), a.im * all(re))};
}
static INLINE Complex times_i(Complex a) { return {zero() - a.im, a.re}; }

// Where the numbers of a transform have to stand before it, and the roots of one that it multiplies by.
struct Plan {
    long n;                             // complex numbers, a power of two
    std::vector<long> place;            // of input k
    std::vector<float> turns;           // w^k, w^2k and w^3k (w = exp(-2 pi i / 4q)) for k < q; from 2 q on for each q
    std::vector<float> halves;          // exp(-pi i k / n), for k <= n / 2

    Plan(long n) : n(n), place(n), turns(2 * n + 2), halves(n + 2) {
        order(0, 1, n, 0);
        for (long q = n / 4; q >= 1; q /= 4)
            for (long k = 0; k < q; k++)
                for (long power = 1; power <= 3; power++) turn(&turns[2 * q + 6 * k + 2 * power - 2], power * k, 4 * q);
        for (long k = 0; k <= n / 2; k++) turn(&halves[2 * k], k, 2 * n);
    }

    static void turn(float* out, long part, long whole) {
        double angle = -2 * M_PI * part / whole;
        out[0] = std::cos(angle), out[1] = std::sin(angle);
    }

    // Inputs first, first + step, ... of a part of `count` numbers go to `to` and what follows
    void order(long first, long step, long count, long to) {
        if (count == 1) { place[first] = to; return; }
        long parts = count == 2 ? 2 : 4;
        for (long p = 0; p < parts; p++) order(first + p * step, parts * step, count / parts, to + p * count / parts);
    }
};

template <bool TURNED>
static INLINE void butterfly(Complex* z, long q, const float* w) {
    Complex a = z[0], b = z[q], c = z[2 * q], d = z[3 * q];
    if (TURNED) b = times(b, w[0], w[1]), c = times(c, w[2], w[3]), d = times(d, w[4], w[5]);
    Complex even = a + c, odd = b + d, half = a - c, other = times_i(b - d);
    z[0] = even + odd, z[q] = half - other, z[2 * q] = even - odd, z[3 * q] = half + other;
}

static void forward(Complex* z, long n, const float* turns) {
    if (n == 2) { Complex a = z[0], b = z[1]; z[0] = a + b, z[1] = a - b; }
    if (n < 4) return;
    long q = n / 4;
    if (q == 1) return butterfly<false>(z, 1, nullptr);
    for (long part = 0; part < 4; part++) forward(z + part * q, q, turns);
    const float* w = turns + 2 * q;
    for (long k = 0; k < q; k++, w += 6) butterfly<true>(z + k, q, w);
}

// LANES frames `hop` apart, under the window, as complex numbers in the order that the transform wants
static INLINE void frames(const float* const* sound, const float* window, const Plan& plan, Complex* z) {
    for (long j = 0; j < 2 * plan.n; j += LANES) {
        vec rows[LANES], w = load(window + j);
        for (long lane = 0; lane < LANES; lane++) rows[lane] = load(sound[lane] + j) * w;
        transpose(rows);
        for (long k = 0; k < LANES / 2; k++) z[plan.place[j / 2 + k]] = {rows[2 * k], rows[2 * k + 1]};
    }
}

// Four times the power at the frequencies 0 to n of the real frames
static INLINE void powers(const Complex* z, const Plan& plan, vec* power) {
    for (long k = 0; k <= plan.n / 2; k++) {
        Complex a = z[k], b = z[k ? plan.n - k : 0];
        Complex even{a.re + b.re, a.im - b.im}, odd{a.im + b.im, b.re - a.re};
        odd = times(odd, plan.halves[2 * k], plan.halves[2 * k + 1]);
        Complex low = even + odd, high = even - odd;
        power[k] = fma(low.re, low.re, low.im * low.im);
        power[plan.n - k] = fma(high.re, high.re, high.im * high.im);
    }
}

// The frequencies that each filter touches, and a quarter of their weights
struct Filters {
    std::vector<long> first, end;
    std::vector<float> weights;
    Filters(const float* filters, long bands, long frequencies) : weights(filters, filters + bands * frequencies) {
        for (long band = 0; band < bands; band++) {
            long a = 0, b = frequencies;
            const float* row = filters + band * frequencies;
            while (a < b && !row[a]) a++;
            while (b > a && !row[b - 1]) b--;
            first.push_back(a), end.push_back(b);
        }
        for (float& weight : weights) weight *= 0.25f;
    }
};

// A frame from `first` on: where it lies, or a copy with the clip's mirror images where it reaches beyond an end
static INLINE const float* frame(const float* sound, long samples, long first, long length, float* copy) {
    if (first >= 0 && first + length <= samples) return sound + first;
    for (long k = 0; k < length; k++) {
        long at = std::abs(first + k);
        copy[k] = sound[at < samples ? at : 2 * (samples - 1) - at];
    }
    return copy;
}

static void powers_of_clips(long clips, long samples, long n_fft, long hop, long bands, const float* sounds,
                            const float* window, const float* filters, float* out, long threads) {
    Plan plan(n_fft / 2);
    Filters sums(filters, bands, plan.n + 1);
    long count = 1 + samples / hop, groups = (count + LANES - 1) / LANES;
#pragma omp parallel num_threads(std::max(1L, std::min(threads, clips * groups)))
    {
        FlushTiny flush;
        Share share(clips * groups);
        Complex* z = (Complex*)scratch.floats((3 * plan.n + 1 + n_fft) * LANES);
        vec* power = (vec*)(z + plan.n);
        float* copies = (float*)(power + plan.n + 1);
        const float* starts[LANES];
        for (long g = share.first; g < share.end; g++) {
            long clip = g / groups, first = g % groups * LANES, used = std::min(LANES, count - first);
            for (long lane = 0; lane < LANES; lane++) {
                long from = (first + std::min(lane, used - 1)) * hop - n_fft / 2;
                starts[lane] = frame(sounds + clip * samples, samples, from, n_fft, copies + lane * n_fft);
            }
            frames(starts, window, plan, z);
            forward(z, plan.n, plan.turns.data());
            powers(z, plan, power);
            for (long band = 0; band < bands; band++) {
                vec sum = zero();
                for (long k = sums.first[band]; k < sums.end[band]; k++)
                    sum = fma(all(sums.weights[band * (plan.n + 1) + k]), power[k], sum);
                memcpy(out + (clip * bands + band) * count + first, &sum, used * sizeof(float));
            }
        }
    }
}

extern "C" {

long lanes() { return LANES; }

// out (clips, bands, frames): powers in the bands of centred frames. n_fft is a power of two, at least 2 LANES;
// samples are more than n_fft / 2; filters (bands, n_fft / 2 + 1)
Refusal band_powers(long clips, long samples, long n_fft, long hop, long bands, Floats sounds, Floats window,
                    Floats filters, Floats out, long threads) {
    WANT(within(n_fft, 2 * LANES, 1 << 20) && !(n_fft & (n_fft - 1)), "n_fft must be a power of two, from 64 to 2^20");
    WANT(within(hop, 1, 1 << 20), "hop must be from 1 to 2^20");
    WANT(samples > n_fft / 2, "samples must be more than half of n_fft");
    WANT(within(bands, 1, 1 << 16), "bands must be from 1 to 65536");
    WANT(within(threads, 1, 4096), "threads must be from 1 to 4096");
    WANT(holds(window, {n_fft}), "window must have n_fft numbers");
    WANT(holds(filters, {bands, n_fft / 2 + 1}), "filters must have bands times n_fft / 2 + 1 numbers");
    if (clips == 0) return nullptr;
    WANT(holds(sounds, {clips, samples}), "sounds must have clips times samples numbers");
    WANT(holds(out, {clips, bands, 1 + samples / hop}), "out must have clips times bands times 1 + samples / hop numbers");
    return guarded([&] {
        powers_of_clips(clips, samples, n_fft, hop, bands, sounds.at, window.at, filters.at, out.at, threads);
    });
}

}
