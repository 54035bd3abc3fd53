// Products of small matrices by the tensor cores: one instruction of a warp, d [16, 8] += a [16, k] b [k, 8]
// with operands in tf32 (k = 8), bf16 or fp16 (k = 16) and sums in fp32, and which numbers each lane hands in
// (PTX ISA, "Matrix fragments for mma.m16n8k8" and "mma.m16n8k16").
//
// Lane l stands in group g = l / 4 and has the number t = l % 4 there. It holds
//   a: of the rows g and g + 8, two numbers of k (tf32: t and t + 4), or twice two neighbors (16 bits: 2t,
//      2t + 1, and these + 8, two of them in a register);
//   b: of the column g, the same numbers of k;
//   d: of the rows g and g + 8, the columns 2t and 2t + 1.
// A sum does not ask for the order of k, nor a product for that of rows or columns, if both factors and the
// result have the same: tensor_products.h chooses it by where the numbers lie in memory.
#pragma once

#include "cuda/launch.h"
#include "math/common.h"
#include "names.h"

namespace mclnf {

// Of eight k: what a lane has of an a with 16 rows, and of a b with 8 columns.
struct RowPiece {
    float low[2], high[2];  // of the rows g and g + 8
};
struct ColumnPiece {
    float k[2];
};

__device__ inline int mma_group() { return static_cast<int>(threadIdx.x) % 32 / 4; }
__device__ inline int mma_place() { return static_cast<int>(threadIdx.x) % 4; }

#ifdef __CUDACC__
__device__ inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ inline void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// To the nearest, of two the one away from 0; 13 bits of the result are 0.
__device__ inline uint32_t tf32_of(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return bits;
}
// Two numbers in a register, the first in the lower half; to the nearest, of two the even one.
__device__ inline uint32_t bf16_pair(float first, float second) {
    uint32_t bits;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
}
__device__ inline uint32_t f16_pair(float first, float second) {
    uint32_t bits;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(second), "f"(first));
    return bits;
}
__device__ inline float f16_value(uint32_t bits) {
    float value;
    asm("{.reg .b16 low, high; mov.b32 {low, high}, %1; cvt.f32.f16 %0, low;}" : "=f"(value) : "r"(bits));
    return value;
}
#endif

// A format of operands: how a number is rounded to it (memory holds fp32 numbers that are rounded already),
// and the instruction over kDepth numbers of k, kPieces pieces of eight.
template <int kPrecision>
struct Mma;

template <>
struct Mma<kTf32> {
    static constexpr int kPieces = 1, kDepth = 8;

    __device__ static float rounded(float x) { return __uint_as_float(tf32_of(x)); }
    __device__ static void rows(const RowPiece (&p)[1], uint32_t (&a)[4]) {
        a[0] = __float_as_uint(p[0].low[0]);
        a[1] = __float_as_uint(p[0].high[0]);
        a[2] = __float_as_uint(p[0].low[1]);
        a[3] = __float_as_uint(p[0].high[1]);
    }
    __device__ static void columns(const ColumnPiece (&p)[1], uint32_t (&b)[2]) {
        b[0] = __float_as_uint(p[0].k[0]);
        b[1] = __float_as_uint(p[0].k[1]);
    }
    __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_m16n8k8_tf32(d, a, b);
    }
};

// The two formats of 16 bits, by the conversion of a pair.
template <typename Pair>
struct HalfMma {
    static constexpr int kPieces = 2, kDepth = 16;

    __device__ static void rows(const RowPiece (&p)[2], uint32_t (&a)[4]) {
        MCLNF_UNROLL
        for (int i = 0; i < 2; ++i) {
            a[2 * i] = Pair::of(p[i].low[0], p[i].low[1]);
            a[2 * i + 1] = Pair::of(p[i].high[0], p[i].high[1]);
        }
    }
    __device__ static void columns(const ColumnPiece (&p)[2], uint32_t (&b)[2]) {
        MCLNF_UNROLL
        for (int i = 0; i < 2; ++i) b[i] = Pair::of(p[i].k[0], p[i].k[1]);
    }
};
struct Bf16Pair {
    __device__ static uint32_t of(float first, float second) { return bf16_pair(first, second); }
};
struct F16Pair {
    __device__ static uint32_t of(float first, float second) { return f16_pair(first, second); }
};

template <>
struct Mma<kBf16> : HalfMma<Bf16Pair> {
    __device__ static float rounded(float x) { return __uint_as_float(bf16_pair(0.0f, x) & 0xffff0000u); }
    __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_m16n8k16_bf16(d, a, b);
    }
};
template <>
struct Mma<kFp16> : HalfMma<F16Pair> {
    __device__ static float rounded(float x) { return f16_value(f16_pair(x, 0.0f)); }
    __device__ static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        mma_m16n8k16_f16(d, a, b);
    }
};

// Rows of matrices that the tensor cores read are padded by zeros to whole instructions.
constexpr int padding_of(int precision) {
    return precision == kFp32 ? 4 : precision == kTf32 ? Mma<kTf32>::kDepth : Mma<kBf16>::kDepth;
}

}  // namespace mclnf
