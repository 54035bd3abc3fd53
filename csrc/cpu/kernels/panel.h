// The panel, the block of points that every kernel works on, and the sizes of a block of registers.
//
// Included once per instruction set after simd.h (no include guard, see there).

// Vectors of columns and rows that one call of the register kernel covers: 24 accumulators of 32 registers,
// or 12 of 16. More would spill; fewer would not hide the latency of the multiply-add.
static constexpr int kColumnVectors = MCLNF_REGISTERS == 32 ? 4 : 2;
static constexpr int kRows = 6;

// Rows of a block if few vectors of columns leave registers free and the lhs is not packed: as many as fill
// the multiply-adds' latency, and whole cache lines of an lhs whose rows lie side by side.
template <int NV>
static constexpr int kTall = kRows;
static constexpr int kTallest = MCLNF_REGISTERS == 32 ? 16 : kRows;
#if MCLNF_REGISTERS == 32
template <>
constexpr int kTall<1> = 16;
template <>
constexpr int kTall<2> = 8;
#endif

// Rows of the next block if `left` are left. A block of 16 registers needs four rows to fill the
// multiply-adds' latency: the last two blocks share rather than leave less to the last.
MCLNF_LANE int block_rows(int left) {
    const bool shared = MCLNF_REGISTERS == 16 && left > kRows && left < kRows + 4;
    return shared ? (left + 1) / 2 : std::min(kRows, left);
}

template <class S>
struct Panel {
    static constexpr int W = Simd<S>::width;
    static constexpr int lanes = kColumnVectors * W;
};

// f(count) with the count of rows (1 ... kRows), or of vectors (1 ... kColumnVectors), known to the compiler:
// a block's accumulators are registers only if their number is a constant.
template <class F>
MCLNF_LANE void with_rows(int rows, const F& f) {
    switch (rows) {
#define MCLNF_ROWS(R)                        \
    case R:                                  \
        f(std::integral_constant<int, R>()); \
        break;
        MCLNF_ROWS(1)
        MCLNF_ROWS(2)
        MCLNF_ROWS(3)
        MCLNF_ROWS(4)
        MCLNF_ROWS(5)
        MCLNF_ROWS(6)
#undef MCLNF_ROWS
    }
}
template <class F>
MCLNF_LANE void with_vectors(int vectors, const F& f) {
    switch (vectors) {
#define MCLNF_VECTORS(N)                     \
    case N:                                  \
        f(std::integral_constant<int, N>()); \
        break;
        MCLNF_VECTORS(1)
        MCLNF_VECTORS(2)
#if MCLNF_REGISTERS == 32
        MCLNF_VECTORS(3)
        MCLNF_VECTORS(4)
#endif
#undef MCLNF_VECTORS
    }
}
