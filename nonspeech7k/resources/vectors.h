// What the kernels are written in: vectors of LANES numbers, shares of the work, and memory that stays.
#pragma once

#include <immintrin.h>
#include <omp.h>
#include <sys/mman.h>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#include <vector>

#define INLINE inline __attribute__((always_inline))

// One source for two widths: AVX-512 where the processor has it (__AVX512F__), else AVX2.
#ifdef __AVX512F__

typedef __m512 vec;                 // a number in each lane
typedef __m512i ints;               // a whole number in each lane
typedef __mmask16 Mask;             // yes or no in each lane
constexpr long LANES = 16;
constexpr int WIDE = 2;             // panels that an inner product handles at once,
constexpr int ROWS = 12;            // with 12 tiles: 24 sums, 2 rows of weights and 1 number fill 27 of 32 registers,
constexpr int TALL = 8;             // or with 8 inputs, where the sums come from memory and go back

static INLINE vec load(const float* p) { return _mm512_loadu_ps(p); }
static INLINE void store(float* p, vec x) { _mm512_storeu_ps(p, x); }
static INLINE vec all(float x) { return _mm512_set1_ps(x); }
static INLINE vec fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }     // a b + c
static INLINE vec fnma(vec a, vec b, vec c) { return _mm512_fnmadd_ps(a, b, c); }   // c - a b
static INLINE vec larger(vec a, vec b) { return _mm512_max_ps(a, b); }              // b where one is a NaN
static INLINE vec gather_lanes(const float* p, ints at) { return _mm512_i32gather_ps(at, p, 4); }

static INLINE Mask greater(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static INLINE Mask equal(vec a, vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
static INLINE Mask broken(vec x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q); } // where it is a NaN
static INLINE vec only(Mask mask, vec x) { return _mm512_maskz_mov_ps(mask, x); }
static INLINE vec choose(Mask mask, vec yes, vec no) { return _mm512_mask_mov_ps(no, mask, yes); }

static INLINE ints number(int x) { return _mm512_set1_epi32(x); }
static INLINE ints steps(int x) {                                                   // 0, x, 2x, ...
    return _mm512_mullo_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), number(x));
}
static INLINE Mask equal(ints a, int b) { return _mm512_cmpeq_epi32_mask(a, number(b)); }
static INLINE Mask below(ints a, int b) { return _mm512_cmplt_epi32_mask(a, number(b)); }
static INLINE Mask has_bit(ints a, int bit) { return _mm512_test_epi32_mask(a, number(bit)); }
static INLINE ints choose(Mask mask, ints yes, ints no) { return _mm512_mask_mov_epi32(no, mask, yes); }
static INLINE ints load_bytes(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
static INLINE void store_bytes(uint8_t* p, ints x) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(x)); }

static INLINE void transpose(vec* rows) {                                           // row j becomes column j
    __m512d pairs[16];
    vec fours[16];
    for (int j = 0; j < 16; j += 2) {
        pairs[j] = _mm512_castps_pd(_mm512_unpacklo_ps(rows[j], rows[j + 1]));
        pairs[j + 1] = _mm512_castps_pd(_mm512_unpackhi_ps(rows[j], rows[j + 1]));
    }
    for (int j = 0; j < 16; j += 4)
        for (int k = 0; k < 2; k++) {
            fours[j + 2 * k] = _mm512_castpd_ps(_mm512_unpacklo_pd(pairs[j + k], pairs[j + 2 + k]));
            fours[j + 2 * k + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pairs[j + k], pairs[j + 2 + k]));
        }
    auto even = [](vec a, vec b) { return _mm512_shuffle_f32x4(a, b, 0x88); };      // quarters 0 and 2 of both
    auto odd = [](vec a, vec b) { return _mm512_shuffle_f32x4(a, b, 0xdd); };
    for (int k = 0; k < 4; k++) {
        vec a = even(fours[k], fours[4 + k]), b = even(fours[8 + k], fours[12 + k]);
        vec c = odd(fours[k], fours[4 + k]), d = odd(fours[8 + k], fours[12 + k]);
        rows[k] = even(a, b), rows[4 + k] = even(c, d), rows[8 + k] = odd(a, b), rows[12 + k] = odd(c, d);
    }
}

#else

typedef __m256 vec;
typedef __m256i ints;
typedef __m256 Mask;                // all bits of a lane, or none
constexpr long LANES = 8;
constexpr int WIDE = 1;             // a panel is two registers here,
constexpr int ROWS = 6;             // so 6 tiles and 6 inputs are 12 sums in 16 registers
constexpr int TALL = 6;

static INLINE vec load(const float* p) { return _mm256_loadu_ps(p); }
static INLINE void store(float* p, vec x) { _mm256_storeu_ps(p, x); }
static INLINE vec all(float x) { return _mm256_set1_ps(x); }
static INLINE vec fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
static INLINE vec fnma(vec a, vec b, vec c) { return _mm256_fnmadd_ps(a, b, c); }
static INLINE vec larger(vec a, vec b) { return _mm256_max_ps(a, b); }
static INLINE vec gather_lanes(const float* p, ints at) { return _mm256_i32gather_ps(p, at, 4); }

static INLINE Mask greater(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
static INLINE Mask equal(vec a, vec b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
static INLINE Mask broken(vec x) { return _mm256_cmp_ps(x, x, _CMP_UNORD_Q); }
static INLINE vec only(Mask mask, vec x) { return _mm256_and_ps(mask, x); }
static INLINE vec choose(Mask mask, vec yes, vec no) { return _mm256_blendv_ps(no, yes, mask); }

static INLINE ints number(int x) { return _mm256_set1_epi32(x); }
static INLINE ints steps(int x) {
    return _mm256_mullo_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), number(x));
}
static INLINE Mask equal(ints a, int b) { return _mm256_castsi256_ps(_mm256_cmpeq_epi32(a, number(b))); }
static INLINE Mask below(ints a, int b) { return _mm256_castsi256_ps(_mm256_cmpgt_epi32(number(b), a)); }
static INLINE Mask has_bit(ints a, int bit) { return equal(_mm256_and_si256(a, number(bit)), bit); }
static INLINE ints choose(Mask mask, ints yes, ints no) {
    return _mm256_blendv_epi8(no, yes, _mm256_castps_si256(mask));
}
static INLINE ints load_bytes(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
static INLINE void store_bytes(uint8_t* p, ints x) {                                // from -128 to 127
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(words, words));
}

static INLINE void transpose(vec* rows) {                                           // row j becomes column j
    vec pairs[8], fours[8];
    for (int j = 0; j < 8; j += 2) {
        pairs[j] = _mm256_unpacklo_ps(rows[j], rows[j + 1]);
        pairs[j + 1] = _mm256_unpackhi_ps(rows[j], rows[j + 1]);
    }
    for (int j = 0; j < 8; j += 4)
        for (int k = 0; k < 2; k++) {
            fours[j + 2 * k] = _mm256_shuffle_ps(pairs[j + k], pairs[j + 2 + k], 0x44);
            fours[j + 2 * k + 1] = _mm256_shuffle_ps(pairs[j + k], pairs[j + 2 + k], 0xee);
        }
    for (int k = 0; k < 4; k++) {
        rows[k] = _mm256_permute2f128_ps(fours[k], fours[4 + k], 0x20);
        rows[4 + k] = _mm256_permute2f128_ps(fours[k], fours[4 + k], 0x31);
    }
}

#endif

static INLINE vec zero() { return all(0); }

// Numbers below 1e-38 count as zero while this lives: they would cost a hundred times as much and mean nothing here.
struct FlushTiny {
    unsigned before = _mm_getcsr();
    FlushTiny() { _mm_setcsr(before | 0x8040); }
    ~FlushTiny() { _mm_setcsr(before); }
};

// Memory in large pages that stays for the next call; one for each thread.
struct Scratch {
    char* memory = nullptr;
    size_t size = 0;
    ~Scratch() { free(memory); }
    float* floats(size_t count) {
        size_t bytes = (count * 4 + (2u << 20) - 1) >> 21 << 21;
        if (bytes > size) {
            free(memory);
            memory = (char*)aligned_alloc(2u << 20, bytes);
            madvise(memory, bytes, MADV_HUGEPAGE);
            memset(memory, 0, bytes);
            size = bytes;
        }
        return (float*)memory;
    }
};
static thread_local Scratch scratch;

// What falls to this thread of `count` things in a row. The team may be smaller than what was asked for.
struct Share {
    int me = omp_get_thread_num(), team = omp_get_num_threads();
    long first, end;
    Share(long count) : first(count * me / team), end(count * (me + 1) / team) {}
};

// What a caller hands over: where numbers lie, and how many. A function that can be called from outside looks at its
// arguments before it touches any of them, and answers with a sentence where they do not fit together, or with nullptr.
template <class T> struct Memory { T* at; long count; };
typedef Memory<float> Floats;
typedef Memory<double> Doubles;
typedef Memory<uint8_t> Bytes;
typedef const char* Refusal;

#define WANT(condition, sentence) if (!(condition)) return sentence

static inline long product(std::initializer_list<long> sizes) {     // -1 where one is negative, or all are too many
    long all = 1;
    for (long size : sizes) if (size < 0 || __builtin_mul_overflow(all, size, &all)) return -1;
    return all;
}

template <class T> static inline bool holds(Memory<T> memory, std::initializer_list<long> sizes) {
    return memory.at && memory.count == product(sizes);
}
template <class T> static inline bool holds_if_given(Memory<T> memory, std::initializer_list<long> sizes) {
    return !memory.at || holds(memory, sizes);
}
static inline bool within(long value, long least, long most) { return least <= value && value <= most; }

template <class Work> static inline Refusal guarded(Work work) {
    try { work(); } catch (const std::bad_alloc&) { return "there is not enough memory"; }
    return nullptr;
}
