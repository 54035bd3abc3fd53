// The products of products.h by the tensor cores: a warp has tiles of 16 or 32 rows by 16 or 32 columns, and
// every sum is in the order of k. Operands in memory are rounded already.
//
// Rows, columns and k may stand in any order in the instructions' fragments, as long as both factors agree
// and results are written to where they belong. Between rows of a matrix lie odd multiples of four numbers,
// and the order is such that the lanes of every read find different banks:
//   across k, a lane has k = 2t and 2t + 1, that is 2t times an odd multiple of four, and neighbors in
//   memory; along k, the pair 2t and 2t + 1 is read at once, of rows that stand two apart (2g and 2g + 1); of
//   tf32 with both factors along k, t and t + 4 one by one of neighboring rows: a pair would lie in registers
//   that the instruction does not take side by side.
#pragma once

#include "mma.h"
#include "products.h"

namespace mclnf {

enum class Along { across, pairs, apart };

// A factor of which a lane has two k among eight, from row (or column) `begin` on, of its fragments' rows
// place(i), for i below kCount; read(i) gives those of row i, and step() goes on by eight k.
template <Along kHow, int kCount, typename Place>
class TensorSide {
  public:
    template <bool kAlong>
    __device__ TensorSide(const Factor<kAlong>& f, const float* from, int begin, Place place)
        : stride_(f.stride) {
        if constexpr (kHow == Along::across) {
            first_ = from + begin + place(0) + 2 * mma_place() * stride_;
            second_ = first_ + stride_;
        } else {
            first_ = from + (kHow == Along::apart ? mma_place() : 2 * mma_place());
            // Beyond the end they are read from the beginning: their results belong to nobody.
            MCLNF_UNROLL
            for (int i = 0; i < kCount; ++i)
                offset_[i] = begin + place(i) < f.count ? (begin + place(i)) * stride_ : 0;
        }
    }
    // Of rows that lie `distance` behind row 0 in memory, across k; N neighbors.
    template <int N>
    __device__ void read_across(int distance, Chunk<float, N>& first, Chunk<float, N>& second) const {
        first = read_chunk<N>(first_ + distance);
        second = read_chunk<N>(second_ + distance);
    }
    __device__ void read_along(int i, float& first, float& second) const {
        const float* const at = first_ + offset_[i];
        if constexpr (kHow == Along::pairs) {
            const Chunk<float, 2> two = read_chunk<2>(at);
            first = two.v[0];
            second = two.v[1];
        } else {
            first = at[0];
            second = at[4];
        }
    }
    __device__ void step() {
        first_ += kHow == Along::across ? 8 * stride_ : 8;
        if constexpr (kHow == Along::across) second_ += 8 * stride_;
    }

  private:
    const float *first_, *second_ = nullptr;
    int stride_, offset_[kHow == Along::across ? 1 : kCount];
};

// Of the lane's low or high row of a fragment, within the warp's rows.
template <Along kHow>
__device__ inline int tensor_row(int tile, int high) {
    return 16 * tile + (kHow == Along::apart ? mma_group() + 8 * high : 2 * mma_group() + high);
}
// Of column n of a fragment, within the warp's columns.
template <Along kHow>
__device__ constexpr int tensor_column(int tile, int n) {
    return kHow == Along::pairs ? tile / 2 * 16 + 2 * n + tile % 2 : 8 * tile + n;
}

template <Along kHow>
struct RowPlaces {
    __device__ int operator()(int i) const { return tensor_row<kHow>(i / 2, i % 2); }
};
template <Along kHow>
struct ColumnPlaces {
    __device__ int operator()(int j) const { return tensor_column<kHow>(j, mma_group()); }
};

// Fragments of a with kTiles times 16 rows.
template <Along kHow, int kTiles>
struct TensorRows : TensorSide<kHow, 2 * kTiles, RowPlaces<kHow>> {
    template <bool kAlong>
    __device__ TensorRows(const Factor<kAlong>& f, const float* from, int begin)
        : TensorSide<kHow, 2 * kTiles, RowPlaces<kHow>>(f, from, begin, {}) {}

    __device__ void read(RowPiece (&to)[kTiles]) {
        MCLNF_UNROLL
        for (int i = 0; i < kTiles; ++i) {
            if constexpr (kHow == Along::across) {
                Chunk<float, 2> first, second;
                this->read_across(16 * i, first, second);
                to[i] = {{first.v[0], second.v[0]}, {first.v[1], second.v[1]}};
            } else {
                this->read_along(2 * i, to[i].low[0], to[i].low[1]);
                this->read_along(2 * i + 1, to[i].high[0], to[i].high[1]);
            }
        }
        this->step();
    }
};

// Fragments of b with kTiles (2 or 4) times 8 columns.
template <Along kHow, int kTiles>
struct TensorColumns : TensorSide<kHow, kTiles, ColumnPlaces<kHow>> {
    template <bool kAlong>
    __device__ TensorColumns(const Factor<kAlong>& f, const float* from, int begin)
        : TensorSide<kHow, kTiles, ColumnPlaces<kHow>>(f, from, begin, {}) {}

    __device__ void read(ColumnPiece (&to)[kTiles]) {
        MCLNF_UNROLL
        for (int j = 0; j < kTiles; ++j) {
            if constexpr (kHow == Along::across) {
                Chunk<float, 1> first, second;
                this->read_across(8 * j, first, second);
                to[j] = {{first.v[0], second.v[0]}};
            } else {
                this->read_along(j, to[j].k[0], to[j].k[1]);
            }
        }
        this->step();
    }
};

// How far behind the end of a factor across k its rows and columns are read.
constexpr int kTensorSlack = 32;

// As product_of; the range of k is padded to whole instructions, and of factors across k up to kTensorSlack
// numbers behind their rows are read, whatever they are.
template <int kPrecision, int kDown, int kAcross, bool kAlongA, bool kAlongB, typename F>
__device__ inline void tensor_product_of(const FitTeam& team, const Factor<kAlongA>& a,
                                         const Factor<kAlongB>& b, const Range<float>& range,
                                         const F& result) {
    using M = Mma<kPrecision>;
    constexpr Along kLong = kPrecision == kTf32 && kAlongA && kAlongB ? Along::apart : Along::pairs;
    constexpr Along kA = kAlongA ? kLong : Along::across, kB = kAlongB ? kLong : Along::across;
    const int across = (b.count + 8 * kAcross - 1) / (8 * kAcross);
    const int tiles = (a.count + 16 * kDown - 1) / (16 * kDown) * across;
    for (int w = team.warp(); w < tiles; w += team.warps()) {
        const int i0 = w / across * 16 * kDown, j0 = w % across * 8 * kAcross;
        TensorRows<kA, kDown> rows(a, range.a, i0);
        TensorColumns<kB, kAcross> columns(b, range.b, j0);
        float sums[kDown][kAcross][4] = {};
        for (int k = 0; k < range.k; k += M::kDepth) {
            RowPiece left[M::kPieces][kDown];
            ColumnPiece right[M::kPieces][kAcross];
            MCLNF_UNROLL
            for (int n = 0; n < M::kPieces; ++n) {
                rows.read(left[n]);
                columns.read(right[n]);
            }
            uint32_t fragments[kAcross][2];
            MCLNF_UNROLL
            for (int j = 0; j < kAcross; ++j) {
                ColumnPiece pieces[M::kPieces];
                MCLNF_UNROLL
                for (int n = 0; n < M::kPieces; ++n) pieces[n] = right[n][j];
                M::columns(pieces, fragments[j]);
            }
            MCLNF_UNROLL
            for (int i = 0; i < kDown; ++i) {
                RowPiece pieces[M::kPieces];
                MCLNF_UNROLL
                for (int n = 0; n < M::kPieces; ++n) pieces[n] = left[n][i];
                uint32_t fragment[4];
                M::rows(pieces, fragment);
                MCLNF_UNROLL
                for (int j = 0; j < kAcross; ++j) M::multiply(sums[i][j], fragment, fragments[j]);
            }
        }
        MCLNF_UNROLL
        for (int i = 0; i < kDown; ++i) MCLNF_UNROLL
        for (int high = 0; high < 2; ++high) {
            const int row = i0 + tensor_row<kA>(i, high);
            if (row >= a.count) continue;
            MCLNF_UNROLL
            for (int j = 0; j < kAcross; ++j) {
                // Two neighbors: of one fragment, or of the same column of two.
                constexpr bool kOne = tensor_column<kB>(0, 1) == 1;
                const int tile = kOne ? j : j / 2 * 2, n = 2 * mma_place() + (kOne ? 0 : j % 2);
                const int column = j0 + tensor_column<kB>(tile, n);
                const Chunk<float, 2> chunk = {sums[i][tile][2 * high + (kOne ? 0 : j % 2)],
                                               sums[i][kOne ? j : tile + 1][2 * high + (kOne ? 1 : j % 2)]};
                if (column < b.count) result(row, column, chunk);
            }
        }
    }
}

// Large tiles if there are enough of them: the larger, the fewer numbers are read for each result.
template <int kPrecision, bool kAlongA, bool kAlongB, typename F>
__device__ inline void tensor_product(const FitTeam& team, const Factor<kAlongA>& a, const Factor<kAlongB>& b,
                                      const Range<float>& range, const F& result) {
    const int large = ((a.count + 31) / 32) * ((b.count + 31) / 32);
    if (a.count <= 16)
        tensor_product_of<kPrecision, 1, 2>(team, a, b, range, result);
    else if (large >= team.warps())
        tensor_product_of<kPrecision, 2, 4>(team, a, b, range, result);
    else
        tensor_product_of<kPrecision, 2, 2>(team, a, b, range, result);
}

}  // namespace mclnf
