// Products of matrices in a block's memory, by fp32 (or fp64) multiply-adds: every sum is in one order, that
// of k, whatever the threads do.
#pragma once

#include "call.h"
#include "cuda/launch.h"
#include "math/common.h"
#include "numbers.h"

namespace mclnf {

// A factor [count, k] of a product. kAlong: memory runs along k, with `stride` between the rows; otherwise
// across it, with `stride` from one k to the next.
template <bool kAlong>
struct Factor {
    int count, stride;
};

// Which rows of a factor a thread has: kCount of them. Along k they are far apart, so that eight neighboring
// threads read different banks; across it they come in neighbors that are read at once.
template <bool kAlong, int kCount>
struct Side {
    static constexpr int kChunk = kAlong || kCount < 4 ? (kAlong ? 1 : kCount) : 4;
    static constexpr int kPieces = kCount / kChunk;
    int group, groups;
    int offset[kPieces];

    __device__ static int groups_of(const Factor<kAlong>& f) { return (f.count + kCount - 1) / kCount; }
    // Pieces beyond the factor's end are read from its beginning, and their results belong to nobody.
    __device__ Side(const Factor<kAlong>& f, int group_) : group(group_), groups(groups_of(f)) {
        MCLNF_UNROLL
        for (int j = 0; j < kPieces; ++j) {
            const int first = (group + j * groups) * kChunk;
            offset[j] = first < f.count ? first * (kAlong ? f.stride : 1) : 0;
        }
    }
    __device__ int row(int i) const { return (group + i / kChunk * groups) * kChunk + i % kChunk; }

    template <typename S>
    __device__ void read(S (&to)[4][kCount], const S* from, int stride, int k) const {
        MCLNF_UNROLL
        for (int j = 0; j < kPieces; ++j) {
            if constexpr (kAlong) {
                const Chunk<S, 4> four = read_chunk<4>(from + offset[j] + k);
                MCLNF_UNROLL
                for (int i = 0; i < 4; ++i) to[i][j] = four.v[i];
            } else {
                MCLNF_UNROLL
                for (int i = 0; i < 4; ++i) {
                    const Chunk<S, kChunk> row = read_chunk<kChunk>(from + (k + i) * stride + offset[j]);
                    MCLNF_UNROLL
                    for (int n = 0; n < kChunk; ++n) to[i][j * kChunk + n] = row.v[n];
                }
            }
        }
    }
};

template <typename S, int N>
__device__ inline void square(S (&values)[4][N]) {
    MCLNF_UNROLL
    for (int i = 0; i < 4; ++i) MCLNF_UNROLL
    for (int n = 0; n < N; ++n) values[i][n] *= values[i][n];
}

// A range of k, padded to fours, and where it begins in both factors.
template <typename S>
struct Range {
    const S *a, *b;
    int k;
};

// Which factors of a product enter by the squares of their numbers.
enum class Squared { none, right, both };

// result(row, column, chunk of neighboring columns) for all rows and columns of the sum over k of a and b;
// each thread has kRows x kColumns results at a time.
template <int kRows, int kColumns, Squared kSquared, typename S, bool kAlongA, bool kAlongB, int kRanges,
          typename F>
__device__ inline void product_of(const FitTeam& team, const Factor<kAlongA>& a, const Factor<kAlongB>& b,
                                  const Range<S> (&ranges)[kRanges], const F& result) {
    using Rows = Side<kAlongA, kRows>;
    using Columns = Side<kAlongB, kColumns>;
    const int lane = team.lane();
    // The threads of a warp stand in four rows of eight.
    const int down = Rows::groups_of(a), across = Columns::groups_of(b);
    const int warps_across = (across + 7) / 8, warps = (down + 3) / 4 * warps_across;
    for (int w = team.warp(); w < warps; w += team.warps()) {
        const int i0 = w / warps_across * 4 + lane / 8, j0 = w % warps_across * 8 + lane % 8;
        if (i0 >= down || j0 >= across) continue;
        const Rows rows(a, i0);
        const Columns columns(b, j0);
        S sums[kRows][kColumns] = {};
        MCLNF_UNROLL
        for (int r = 0; r < kRanges; ++r)
            for (int k = 0; k < ranges[r].k; k += 4) {
                S left[4][kRows], right[4][kColumns];
                rows.read(left, ranges[r].a, a.stride, k);
                columns.read(right, ranges[r].b, b.stride, k);
                if constexpr (kSquared == Squared::both) square(left);
                if constexpr (kSquared != Squared::none) square(right);
                MCLNF_UNROLL
                for (int n = 0; n < 4; ++n) MCLNF_UNROLL
                for (int i = 0; i < kRows; ++i) MCLNF_UNROLL
                for (int j = 0; j < kColumns; ++j) sums[i][j] = fused(left[n][i], right[n][j], sums[i][j]);
            }
        MCLNF_UNROLL
        for (int i = 0; i < kRows; ++i) {
            const int row = rows.row(i);
            if (row >= a.count) continue;
            constexpr int N = Columns::kChunk;
            MCLNF_UNROLL
            for (int j = 0; j < kColumns; j += N) {
                const int column = columns.row(j);
                Chunk<S, N> chunk;
                MCLNF_UNROLL
                for (int n = 0; n < N; ++n) chunk.v[n] = sums[i][j + n];
                if (column < b.count) result(row, column, chunk);
            }
        }
    }
}

// As many results per thread as there are threads for: the more of them, the fewer numbers are read for each.
template <typename S, Squared kSquared = Squared::none, bool kAlongA, bool kAlongB, int kRanges, typename F>
__device__ inline void product(const FitTeam& team, const Factor<kAlongA>& a, const Factor<kAlongB>& b,
                               const Range<S> (&ranges)[kRanges], const F& result) {
    constexpr int kMany = sizeof(S) == 4 ? 8 : 4;
    const int results = a.count * b.count;
    if (results >= 4 * kMany * team.threads)
        product_of<kMany, 4, kSquared>(team, a, b, ranges, result);
    else if (results >= 4 * team.threads)
        product_of<4, 4, kSquared>(team, a, b, ranges, result);
    else
        product_of<1, 1, kSquared>(team, a, b, ranges, result);
}

}  // namespace mclnf
