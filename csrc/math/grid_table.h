// Grid encodings: reading the entries of a tile's corners and adding to them. Shared by csrc/cpu and
// csrc/cuda; places and weights are those of grid.h. Features go in blocks that stay in registers.
#pragma once

#include "grid.h"

namespace mclnf {

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) GridPack {
    T numbers[kCount];
    MCLNF_HD MCLNF_INLINE T operator[](int k) const { return numbers[k]; }
};

// kBlock numbers to be indexed: their address; or, kAligned, read at once from a multiple of their size, as
// the GPU does: one instruction in the place of kBlock.
template <bool kAligned, int kBlock, typename T>
MCLNF_HD MCLNF_INLINE auto grid_block(const T* at) {
    if constexpr (kAligned)
        return *reinterpret_cast<const GridPack<T, kBlock>*>(at);
    else
        return at;
}

// kBlock features: out [m, stride] = (or +=) sum_c weight_c T_c.
template <int kBlock, bool kAligned = false, int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_gather_block(const GridPlaces<kAxes, kOrders, kTile, T>& places, int corners,
                                             const GridNumbers<kAxes, kTile, T>& weight,
                                             const T* __restrict table, int m, T* __restrict out,
                                             int64_t stride, bool add) {
    for (int j = 0; j < m; ++j) {
        T sum[kBlock];
        T* row = out + j * stride;
        for (int f = 0; f < kBlock; ++f) sum[f] = add ? row[f] : T(0);
        for (int c = 0; c < corners; ++c) {
            const auto entry = grid_block<kAligned, kBlock>(table + places.place[c][j]);
            const T share = weight[c][j];
            for (int f = 0; f < kBlock; ++f) sum[f] += share * entry[f];
        }
        if constexpr (kAligned) {
            GridPack<T, kBlock> pack;
            for (int f = 0; f < kBlock; ++f) pack.numbers[f] = sum[f];
            *reinterpret_cast<GridPack<T, kBlock>*>(row) = pack;
        } else {
            for (int f = 0; f < kBlock; ++f) row[f] = sum[f];
        }
    }
}

template <int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_gather(const GridMap<T>& map,
                                       const GridPlaces<kAxes, kOrders, kTile, T>& places,
                                       const GridNumbers<kAxes, kTile, T>& weight, const T* table, int m,
                                       T* out, int64_t stride, bool add) {
    const int corners = grid_corners<kAxes>(map);
    int f = 0;
    for (; f + 32 <= map.features; f += 32)
        grid_gather_block<32>(places, corners, weight, table + f, m, out + f, stride, add);
    for (; f + 8 <= map.features; f += 8)
        grid_gather_block<8>(places, corners, weight, table + f, m, out + f, stride, add);
    for (; f + 2 <= map.features; f += 2)
        grid_gather_block<2>(places, corners, weight, table + f, m, out + f, stride, add);
    for (; f < map.features; ++f)
        grid_gather_block<1>(places, corners, weight, table + f, m, out + f, stride, add);
}

// kBlock features: dot_c += <g, T_c>.
template <int kBlock, bool kAligned = false, int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_dots_block(const GridPlaces<kAxes, kOrders, kTile, T>& places, int corners,
                                           const T* __restrict table, const T* __restrict g, int64_t stride,
                                           int m, GridNumbers<kAxes, kTile, T>& dot) {
    constexpr int kLanes = kBlock < 8 ? kBlock : 8;
    for (int j = 0; j < m; ++j) {
        T row_g[kBlock];
        const auto row = grid_block<kAligned, kBlock>(g + j * stride);
        for (int f = 0; f < kBlock; ++f) row_g[f] = row[f];
        for (int c = 0; c < corners; ++c) {
            const auto entry = grid_block<kAligned, kBlock>(table + places.place[c][j]);
            T sum[kLanes];
            for (int f = 0; f < kLanes; ++f) sum[f] = row_g[f] * entry[f];
            for (int b = kLanes; b < kBlock; b += kLanes) {
                for (int f = 0; f < kLanes; ++f) sum[f] += row_g[b + f] * entry[b + f];
            }
            for (int half = kLanes / 2; half > 0; half /= 2) {
                for (int f = 0; f < half; ++f) sum[f] += sum[f + half];
            }
            dot[c][j] += sum[0];
        }
    }
}

// dot_c = <g, T_c>; g [m, stride].
template <int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_dots(const GridMap<T>& map,
                                     const GridPlaces<kAxes, kOrders, kTile, T>& places, const T* table,
                                     const T* g, int64_t stride, int m, GridNumbers<kAxes, kTile, T>& dot) {
    const int corners = grid_corners<kAxes>(map);
    for (int c = 0; c < corners; ++c) {
        for (int j = 0; j < kTile; ++j) dot[c][j] = 0;
    }
    int f = 0;
    for (; f + 8 <= map.features; f += 8)
        grid_dots_block<8>(places, corners, table + f, g + f, stride, m, dot);
    for (; f + 2 <= map.features; f += 2)
        grid_dots_block<2>(places, corners, table + f, g + f, stride, m, dot);
    for (; f < map.features; ++f) grid_dots_block<1>(places, corners, table + f, g + f, stride, m, dot);
}

// kBlock features: T_c += weight_c g, for the places begin ... begin + count - 1 alone.
template <int kBlock, int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_scatter_block(const GridPlaces<kAxes, kOrders, kTile, T>& places, int corners,
                                              const GridNumbers<kAxes, kTile, T>& weight,
                                              const T* __restrict g, int64_t stride, int m, uint32_t begin,
                                              uint32_t count, T* __restrict table) {
    for (int j = 0; j < m; ++j) {
        T row_g[kBlock];
        for (int f = 0; f < kBlock; ++f) row_g[f] = g[j * stride + f];
        for (int c = 0; c < corners; ++c) {
            const uint32_t place = places.place[c][j];
            if (place - begin >= count) continue;
            T* entry = table + place;
            const T share = weight[c][j];
            for (int f = 0; f < kBlock; ++f) entry[f] += share * row_g[f];
        }
    }
}

template <int kAxes, int kOrders, int kTile, typename T>
MCLNF_HD MCLNF_INLINE void grid_scatter(const GridMap<T>& map,
                                        const GridPlaces<kAxes, kOrders, kTile, T>& places,
                                        const GridNumbers<kAxes, kTile, T>& weight, const T* g,
                                        int64_t stride, int m, uint32_t begin, uint32_t count, T* table) {
    const int corners = grid_corners<kAxes>(map);
    int f = 0;
    for (; f + 32 <= map.features; f += 32)
        grid_scatter_block<32>(places, corners, weight, g + f, stride, m, begin, count, table + f);
    for (; f + 8 <= map.features; f += 8)
        grid_scatter_block<8>(places, corners, weight, g + f, stride, m, begin, count, table + f);
    for (; f + 2 <= map.features; f += 2)
        grid_scatter_block<2>(places, corners, weight, g + f, stride, m, begin, count, table + f);
    for (; f < map.features; ++f)
        grid_scatter_block<1>(places, corners, weight, g + f, stride, m, begin, count, table + f);
}

}  // namespace mclnf
