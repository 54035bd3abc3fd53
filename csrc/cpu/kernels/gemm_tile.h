// Products with the weights over a panel of points.
//
// Included once per instruction set after epilogue.h (no include guard, see simd.h). A panel holds `lanes`
// points: features are its rows, points its vector lanes, so that it is contiguous, stays in the first-level
// cache and has no two rows of its own in one cache set. The weights are the left factor: a value is
// broadcast, in whatever order the weights are stored, and never transposed. Weight gradients, which have
// outputs in the lanes, are in weight_gradient.h.

// The left factor, A[m * row_stride + k * column_stride]. Packed: blocks of rows (`block_rows`) one after
// another, [K][rows] each, so that the register kernel reads it front to back; unpacked, each row of a block
// would be a stream of its own, more than the prefetcher follows.
template <class S>
struct Lhs {
    const S* values;
    int64_t row_stride, column_stride;
    bool packed = false;

    // The block that begins at row m, and its step from column to column.
    MCLNF_MEMBER const S* block(int m, int K) const {
        return values + (packed ? (int64_t)m * K : m * row_stride);
    }
    MCLNF_MEMBER int64_t block_stride(int rows) const { return packed ? rows : column_stride; }
};

// A [M, K] times B [K, lanes], whose rows lie ldb apart.
template <class S>
struct Factors {
    int K = 0;
    Lhs<S> A{};
    const S* B = nullptr;
    int64_t ldb = Panel<S>::lanes;
};

// C [M, lanes] = epilogue((accumulate ? C : bias or 0) + A B + fused A B) over the first `vectors` vectors of
// a panel. The bias is one per row; with `accumulate`, one per lane in the place of C.
template <class S>
struct Product {
    int M, vectors;
    Factors<S> factors;
    S* C;
    const S* bias = nullptr;
    bool accumulate = false;
    Epilogue<S> epilogue{};
    // A fused second GEMM, of an lhs stored like the first; K = 0: none. Apart, it would read and write C
    // once more.
    Factors<S> fused{};
    Prefetch* prefetch = nullptr;
};

// acc += A B for the RM rows from row m on. Adjacent: the rows' values of a column lie side by side.
template <class S, int RM, int NV, bool Adjacent>
MCLNF_LANE void multiply_add(const Factors<S>& factors, int m, Prefetch& prefetch, Vec<S> (&acc)[RM][NV]) {
    constexpr int W = Simd<S>::width;
    // Locals: the stores of other blocks might alias the structures for all the compiler knows.
    const int K = factors.K;
    const S *A = factors.A.block(m, K), *B = factors.B;
    const int64_t row_stride = factors.A.row_stride, column_stride = factors.A.block_stride(RM);
    const int64_t ldb = factors.ldb, step = prefetch.step;
    const char* next = prefetch.next;
    for (int k = 0; k < K; ++k) {
        __builtin_prefetch(next, 0, 2);
        if (NV == kColumnVectors) __builtin_prefetch(next + step / 2, 0, 2);
        next += step;
        Vec<S> b[NV];
        MCLNF_IN_REGISTERS
        for (int v = 0; v < NV; ++v) b[v] = vload(B + v * W);
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            const Vec<S> a = vset<S>(Adjacent ? A[r] : A[r * row_stride]);
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) acc[r][v] = vfma(a, b[v], acc[r][v]);
        }
        A += column_stride;
        B += ldb;
    }
    prefetch.next = next;
}

// RM rows of a product from row m on, in registers.
template <class S, int RM, int NV, bool Adjacent>
MCLNF_LANE void product_block(const Product<S>& p, int m, Prefetch& prefetch) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    S *const result = p.C, *const C = result + m * L;
    const S* const bias = p.bias && !p.accumulate ? p.bias + m : p.bias;
    Vec<S> acc[RM][NV];
    MCLNF_IN_REGISTERS
    for (int r = 0; r < RM; ++r) {
        MCLNF_IN_REGISTERS
        for (int v = 0; v < NV; ++v)
            acc[r][v] = !p.accumulate ? vset<S>(bias ? bias[r] : S(0))
                        : bias        ? vload(bias + v * W)
                                      : vload(C + r * L + v * W);
    }
    // A loop and not two calls, so that the unrolled code is there once: twice it would crowd the code cache.
    const Factors<S>* const last = p.fused.K ? &p.fused : &p.factors;
    for (const Factors<S>* factors = &p.factors;; factors = last) {
        multiply_add<S, RM, NV, Adjacent>(*factors, m, prefetch, acc);
        if (factors == last) break;
    }
    const Epilogue<S> epilogue = p.epilogue;
    const int64_t first = (int64_t)m * L;
    with_epilogue(epilogue.kind, [&](auto kind) __attribute__((always_inline)) {
        MCLNF_IN_REGISTERS
        for (int r = 0; r < RM; ++r) {
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v)
                finish<S, decltype(kind)::value>(acc[r][v], first + r * L + v * W, result, epilogue);
        }
    });
}

template <class S, int NV, bool Adjacent>
static void product_rows(const Product<S>& p, Prefetch& prefetch) {
    int m = 0;
    if constexpr (kTall<NV> > kRows) {
        for (; !p.factors.A.packed && m + kTall<NV> <= p.M; m += kTall<NV>)
            product_block<S, kTall<NV>, NV, Adjacent>(p, m, prefetch);
    }
    for (int rows; m < p.M; m += rows) {
        rows = block_rows(p.M - m);
        with_rows(rows, [&](auto count) __attribute__((always_inline)) {
            product_block<S, decltype(count)::value, NV, Adjacent>(p, m, prefetch);
        });
    }
}

// Values of a column of B that stay in registers with all of its neighbors: products of no more are bound by
// their stores, and blocks of rows would only cost.
static constexpr int kThin = 6;

// As `product`, over whole panels, K values per column with those of the fused GEMM; A unpacked.
template <class S, int K>
static void product_thin(const Product<S>& p) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes, NV = kColumnVectors;
    const Factors<S> first = p.factors, second = p.fused;
    const Epilogue<S> epilogue = p.epilogue;
    const S* const bias = p.bias;
    S* const C = p.C;
    const bool accumulate = p.accumulate;
    const int M = p.M, first_K = first.K;
    Vec<S> b[K][NV];
    MCLNF_IN_REGISTERS
    for (int k = 0; k < K; ++k) {
        MCLNF_IN_REGISTERS
        for (int v = 0; v < NV; ++v)
            b[k][v] = vload(k < first_K ? first.B + k * first.ldb + v * W
                                        : second.B + (k - first_K) * second.ldb + v * W);
    }
    with_epilogue(epilogue.kind, [&](auto kind) __attribute__((always_inline)) {
        for (int m = 0; m < M; ++m) {
            Vec<S> a[K];
            MCLNF_IN_REGISTERS
            for (int k = 0; k < K; ++k)
                a[k] = vset<S>(
                    k < first_K
                        ? first.A.values[m * first.A.row_stride + k * first.A.column_stride]
                        : second.A.values[m * second.A.row_stride + (k - first_K) * second.A.column_stride]);
            const Vec<S> initial = vset<S>(bias ? bias[m] : S(0));
            MCLNF_IN_REGISTERS
            for (int v = 0; v < NV; ++v) {
                const int i = m * L + v * W;
                Vec<S> z = accumulate ? vload(C + i) : initial;
                MCLNF_IN_REGISTERS
                for (int k = 0; k < K; ++k) z = vfma(a[k], b[k][v], z);
                finish<S, decltype(kind)::value>(z, i, C, epilogue);
            }
        }
    });
}

// Whether a product was thin, and is done.
template <class S>
static bool product_if_thin(const Product<S>& p) {
    const int depth = p.factors.K + p.fused.K;
    if (depth > kThin || p.vectors != kColumnVectors || p.factors.A.packed || (p.bias && p.accumulate))
        return false;
    switch (depth) {
#define MCLNF_THIN(K)          \
    case K:                    \
        product_thin<S, K>(p); \
        return true;
        MCLNF_THIN(1)
        MCLNF_THIN(2)
        MCLNF_THIN(3)
        MCLNF_THIN(4)
        MCLNF_THIN(6)
#undef MCLNF_THIN
    }
    return false;
}

template <class S>
static void product(const Product<S>& p) {
    if (product_if_thin(p)) return;
    Prefetch nothing;  // a line that is read anyway: the register kernel need not branch over whether to ask
    nothing.next = reinterpret_cast<const char*>(p.factors.B);
    Prefetch& prefetch = p.prefetch ? *p.prefetch : nothing;
    with_vectors(p.vectors, [&](auto vectors) {
        constexpr int NV = decltype(vectors)::value;
        if (p.factors.A.packed || p.factors.A.row_stride == 1)
            product_rows<S, NV, true>(p, prefetch);
        else
            product_rows<S, NV, false>(p, prefetch);
    });
}

// Copies A [M, K] into the packed order (M * K values).
template <class S>
static Lhs<S> pack(int M, int K, const Lhs<S>& A, S* out) {
    const int64_t row_stride = A.row_stride, column_stride = A.column_stride;
    for (int m = 0, rows; m < M; m += rows) {
        rows = block_rows(M - m);
        const S* a = A.values + m * row_stride;
        S* o = out + (int64_t)m * K;
        if (rows == kRows) {  // a constant, which the compiler unrolls
            for (int k = 0; k < K; ++k)
                for (int r = 0; r < kRows; ++r) o[k * kRows + r] = a[r * row_stride + k * column_stride];
        } else {
            for (int k = 0; k < K; ++k)
                for (int r = 0; r < rows; ++r) o[k * rows + r] = a[r * row_stride + k * column_stride];
        }
    }
    return {out, 1, 0, true};
}
