// The micro-kernels of the bank: small matrix products over a panel of points.
//
// Included once per instruction set after simd.h (no include guard, see there).
// A panel holds `lanes` points: features are its rows, points its vector lanes,
// so that it is contiguous, stays in the first-level cache and meets no two
// rows of itself in one cache set. `product` is every product with the weights
// (their values are broadcast, in whatever order they are stored, and never
// transposed); `outer` is every weight gradient (outputs in the lanes).

// Vectors of columns and rows that one call of the register kernel covers: 24
// accumulators of 32 registers, or 12 of 16.
static constexpr int kColumnVectors = MCLNF_VBYTES == 64 ? 4 : 2;
static constexpr int kRows = 6;

// Rows of a block where few vectors of columns leave registers free and the left factor lies as it is stored:
// as many as fill the multiply-adds' latency, and whole cache lines of a factor whose rows lie side by side.
template <int NV>
static constexpr int kTall = kRows;
static constexpr int kTallest = MCLNF_VBYTES == 64 ? 16 : kRows;
#if MCLNF_VBYTES == 64
template <>
constexpr int kTall<1> = 16;
template <>
constexpr int kTall<2> = 8;
#endif

template <class S>
struct Panel {
    static constexpr int W = Simd<S>::width;
    static constexpr int lanes = kColumnVectors * W;
};

// What a product does to its result before it is stored.
enum After : int {
    kKeep,
    kRelu0,   // max(z, 0); NaN stays NaN
    kMasked,  // times the derivative of relu, read off its values: 1 where with >
              // 0
    kTimes,   // times with
    kPlus,    // times with, plus what C was
    kSplit,   // times with; what it was before, times `Beside::with`, is a second result
};

// The left factor: A[m * sm + k * sk]. Packed: blocks of kRows rows one after
// another, [K][kRows] each, so that the register kernel reads it front to back.
template <class S>
struct Left {
    const S* at;
    int64_t sm, sk;
    bool packed = false;
};

// What goes along with a product: a second one that is added to it, left factors stored alike, and the second
// result of kSplit.
template <class S>
struct Beside {
    int K = 0;
    Left<S> A{};
    const S* B = nullptr;
    const S* with = nullptr;
    S* C = nullptr;

    Beside from(int m, int rows) const {
        Beside found = *this;
        if (K) found.A.at += A.packed ? (int64_t)m * K : m * A.sm;
        if (A.packed) found.A.sk = rows;
        if (C) found.with += m * Panel<S>::lanes;
        if (C) found.C += m * Panel<S>::lanes;
        return found;
    }
};

// Stores a product's vector z at place i.
template <class S, int after>
MCLNF_LANE void put(Vec<S> z, int i, const S* with, S* C, const Beside<S>& beside) {
    const Vec<S> zero = {};
    if (after == kRelu0) z = z < zero ? zero : z;
    if (after == kMasked) z = vload(with + i) > zero ? z : zero;
    if (after == kSplit) vstore(beside.C + i, z * vload(beside.with + i));
    if (after == kTimes || after == kSplit) z = z * vload(with + i);
    if (after == kPlus) z = vfma(z, vload(with + i), vload(C + i));
    vstore(C + i, z);
}
// f(after) with `after` known to the compiler: asked once a block and not once a vector.
template <class F>
MCLNF_LANE void with_after(int after, const F& f) {
    switch (after) {
#define MCLNF_AFTER(A)                       \
    case A:                                  \
        f(std::integral_constant<int, A>()); \
        break;
        MCLNF_AFTER(kKeep)
        MCLNF_AFTER(kRelu0)
        MCLNF_AFTER(kMasked)
        MCLNF_AFTER(kTimes)
        MCLNF_AFTER(kPlus)
        MCLNF_AFTER(kSplit)
#undef MCLNF_AFTER
    }
}

template <class S, int RM, int NV, bool Adjacent>
MCLNF_LANE void product_block(int K, const S* A, int64_t sm, int64_t sk, const S* B, S* C, const S* bias,
                              bool accumulate, int after, const S* with, Ahead& ahead, int64_t ldb,
                              const Beside<S>& beside) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    Vec<S> acc[RM][NV];
    for (int r = 0; r < RM; ++r)
        for (int v = 0; v < NV; ++v)
            acc[r][v] = !accumulate ? vset<S>(bias ? bias[r] : S(0))
                        : bias      ? vload(bias + v * W)
                                    : vload(C + r * L + v * W);
    const char* soon = ahead.at;
    const int64_t step = ahead.step;
    for (int last = beside.K ? 0 : 1;; ++last) {
        for (int k = 0; k < K; ++k) {
            __builtin_prefetch(soon, 0, 2);
            if (NV == kColumnVectors) __builtin_prefetch(soon + step / 2, 0, 2);
            soon += step;
            Vec<S> b[NV];
            for (int v = 0; v < NV; ++v) b[v] = vload(B + v * W);
            for (int r = 0; r < RM; ++r) {
                const Vec<S> a = vset<S>(Adjacent ? A[r] : A[r * sm]);
                for (int v = 0; v < NV; ++v) acc[r][v] = vfma(a, b[v], acc[r][v]);
            }
            A += sk;
            B += ldb;
        }
        if (last) break;
        K = beside.K, A = beside.A.at, sk = beside.A.sk, sm = beside.A.sm, B = beside.B;
    }
    ahead.at = soon;
    with_after(after, [&](auto known) __attribute__((always_inline)) {
        for (int r = 0; r < RM; ++r)
            for (int v = 0; v < NV; ++v)
                put<S, decltype(known)::value>(acc[r][v], r * L + v * W, with, C, beside);
    });
}

template <class S, int NV, bool Adjacent>
static void product_rows(int M, int K, const Left<S>& A, const S* B, S* C, const S* bias, bool accumulate,
                         int after, const S* with, Ahead& ahead, int64_t ldb, const Beside<S>& beside) {
    constexpr int L = Panel<S>::lanes;
    int m = 0;
    if constexpr (kTall<NV> > kRows) {
        for (; !A.packed && m + kTall<NV> <= M; m += kTall<NV>) {
            product_block<S, kTall<NV>, NV, Adjacent>(
                K, A.at + m * A.sm, A.sm, A.sk, B, C + m * L, !bias || accumulate ? bias : bias + m,
                accumulate, after, with ? with + m * L : nullptr, ahead, ldb, beside.from(m, kTall<NV>));
        }
    }
    for (; m < M; m += kRows) {
        const int rows = std::min(kRows, M - m);
        const S* a = A.packed ? A.at + (int64_t)m * K : A.at + m * A.sm;
        const int64_t sk = A.packed ? rows : A.sk;
        const S* b0 = !bias || accumulate ? bias : bias + m;
        const S* w0 = with ? with + m * L : nullptr;
        S* c = C + m * L;
        const Beside<S> too = beside.from(m, rows);
        switch (rows) {
#define MCLNF_ROWS(R)                                                                                        \
    case R:                                                                                                  \
        product_block<S, R, NV, Adjacent>(K, a, A.sm, sk, B, c, b0, accumulate, after, w0, ahead, ldb, too); \
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
}

// Values of a column of B that stay in registers with all of its neighbours: products of no more are bound by
// what they store, and blocks of rows would only cost.
static constexpr int kThin = 6;

// As `product`, over whole panels, K of A and beside.K values a column; A as it is stored.
template <class S, int K>
static void product_thin(int M, int own, const Left<S>& A, const S* B, S* C, const S* bias, bool accumulate,
                         int after, const S* with, int64_t ldb, const Beside<S>& beside) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes, NV = kColumnVectors;
    Vec<S> b[K][NV];
    for (int k = 0; k < K; ++k)
        for (int v = 0; v < NV; ++v)
            b[k][v] = vload(k < own ? B + k * ldb + v * W : beside.B + (k - own) * ldb + v * W);
    with_after(after, [&](auto known) __attribute__((always_inline)) {
        for (int m = 0; m < M; ++m) {
            Vec<S> a[K];
            for (int k = 0; k < K; ++k)
                a[k] = vset<S>(k < own ? A.at[m * A.sm + k * A.sk]
                                       : beside.A.at[m * beside.A.sm + (k - own) * beside.A.sk]);
            const Vec<S> start = vset<S>(bias ? bias[m] : S(0));
            for (int v = 0; v < NV; ++v) {
                const int i = m * L + v * W;
                Vec<S> z = accumulate ? vload(C + i) : start;
                for (int k = 0; k < K; ++k) z = vfma(a[k], b[k][v], z);
                put<S, decltype(known)::value>(z, i, with, C, beside);
            }
        }
    });
}

// C [M, lanes] = after((accumulate ? C : bias or 0) + A [M, K] B [K, lanes]) over the first nv vectors of a
// panel; rows of B lie ldb apart. The bias is one a row; with `accumulate`, one a lane in place of C.
template <class S>
static void product(int M, int K, const Left<S>& A, const S* B, int nv, S* C, const S* bias, bool accumulate,
                    int after = kKeep, const S* with = nullptr, Ahead* ahead = nullptr,
                    int64_t ldb = Panel<S>::lanes, const Beside<S>& beside = {}) {
    const int thin = K + beside.K;
    if (thin <= kThin && nv == kColumnVectors && !A.packed && !(bias && accumulate)) {
        switch (thin) {
#define MCLNF_THIN(N) \
    case N:           \
        return product_thin<S, N>(M, K, A, B, C, bias, accumulate, after, with, ldb, beside);
            MCLNF_THIN(1)
            MCLNF_THIN(2)
            MCLNF_THIN(3)
            MCLNF_THIN(4)
            MCLNF_THIN(6)
#undef MCLNF_THIN
        }
    }
    const bool adjacent = A.packed || A.sm == 1;
    Ahead nothing;
    nothing.at = reinterpret_cast<const char*>(B);
    Ahead& soon = ahead ? *ahead : nothing;
    switch (nv) {
#define MCLNF_VECTORS(N)                                                                                \
    case N:                                                                                             \
        if (adjacent)                                                                                   \
            product_rows<S, N, true>(M, K, A, B, C, bias, accumulate, after, with, soon, ldb, beside);  \
        else                                                                                            \
            product_rows<S, N, false>(M, K, A, B, C, bias, accumulate, after, with, soon, ldb, beside); \
        break;
        MCLNF_VECTORS(1)
        MCLNF_VECTORS(2)
#if MCLNF_VBYTES == 64
        MCLNF_VECTORS(3)
        MCLNF_VECTORS(4)
#endif
#undef MCLNF_VECTORS
    }
}

// Copies A [M, K] into the packed order (M * K values).
template <class S>
static Left<S> pack(int M, int K, const Left<S>& A, S* out) {
    for (int m = 0; m < M; m += kRows) {
        const int rows = std::min(kRows, M - m);
        const S* a = A.at + m * A.sm;
        S* o = out + (int64_t)m * K;
        if (rows == kRows) {
            for (int k = 0; k < K; ++k)
                for (int r = 0; r < kRows; ++r) o[k * kRows + r] = a[r * A.sm + k * A.sk];
        } else {
            for (int k = 0; k < K; ++k)
                for (int r = 0; r < rows; ++r) o[k * rows + r] = a[r * A.sm + k * A.sk];
        }
    }
    return {out, 1, 0, true};
}

// Gradients of the outputs, transposed: groups of `lanes` outputs, [points,
// lanes] each.
template <class S>
struct Transposed {
    S* at;
    int64_t group;  // from one group to the next

    // The values of the outputs o ... of point t, o a multiple of the vector
    // width.
    S* row(int t, int o) const {
        constexpr int L = Panel<S>::lanes;
        return at + (o / L) * group + (int64_t)t * L + o % L;
    }
};

template <class S, int RM, int NV>
MCLNF_LANE void clear_block(Vec<S> (&acc)[RM][NV]) {
    for (int r = 0; r < RM; ++r)
        for (int v = 0; v < NV; ++v) acc[r][v] = Vec<S>{};
}
// acc += sum_t H[i + r][t] D[t][o + ...] for RM rows and NV vectors of outputs, over
// the points first ... end-1; H is a panel's row i, panels `stride` apart.
template <class S, int RM, int NV>
MCLNF_LANE void outer_block(const S* H, int64_t stride, int first, int end, const S* D,
                            Vec<S> (&acc)[RM][NV]) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    const S* d = D + (int64_t)first * L;
    for (int t = first; t < end;) {
        const int stop = std::min(end, (t / L + 1) * L);
        const S* h = H + (t / L) * stride + t % L;
        for (; t < stop; ++t) {
            Vec<S> b[NV];
            for (int v = 0; v < NV; ++v) b[v] = vload(d + v * W);
            for (int r = 0; r < RM; ++r) {
                const Vec<S> a = vset<S>(h[r * L]);
                for (int v = 0; v < NV; ++v) acc[r][v] = vfma(a, b[v], acc[r][v]);
            }
            ++h;
            d += L;
        }
    }
}

// Walks over all blocks of H D^T: f.template operator()<RM, NV>(row, output) on
// each.
template <class S, int NV, class F>
MCLNF_LANE void outer_rows(int rows, int o, const F& f) {
    for (int i = 0; i < rows; i += kRows) {
        switch (std::min(kRows, rows - i)) {
#define MCLNF_ROWS(R)                  \
    case R:                            \
        f.template block<R, NV>(i, o); \
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
}
template <class S, class F>
static void outer_blocks(int rows, int outputs, const F& f) {
    constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    for (int o = 0; o < outputs; o += L) {
        switch (std::min(L, outputs - o + W - 1) / W) {
#define MCLNF_VECTORS(N)              \
    case N:                           \
        outer_rows<S, N>(rows, o, f); \
        break;
            MCLNF_VECTORS(1)
            MCLNF_VECTORS(2)
#if MCLNF_VBYTES == 64
            MCLNF_VECTORS(3)
            MCLNF_VECTORS(4)
#endif
#undef MCLNF_VECTORS
        }
    }
}

// A vector of which the first `count` lanes are in memory.
template <class S>
MCLNF_LANE Vec<S> vload_part(const S* p, int count) {
    if (count >= Simd<S>::width) return vload(p);
    Vec<S> v = {};
    for (int i = 0; i < count; ++i) v[i] = p[i];
    return v;
}
template <class S>
MCLNF_LANE void vstore_part(S* p, Vec<S> v, int count) {
    if (count >= Simd<S>::width) return vstore(p, v);
    for (int i = 0; i < count; ++i) p[i] = v[i];
}

// grad [rows, outputs] (+)= H D^T over the points first ... end-1.
template <class S>
struct OuterSum {
    static constexpr int W = Simd<S>::width, L = Panel<S>::lanes;
    const S* H;
    int64_t stride;
    int first, end;
    Transposed<S> D;
    S* grad;
    int outputs;
    bool accumulate, stream;
    const S* H2 = nullptr;  // where given, H2 D2^T is added
    Transposed<S> D2{};

    template <int RM, int NV>
    MCLNF_MEMBER void block(int i, int o) const {
        S* g = grad + (int64_t)i * outputs + o;
        const int left = outputs - o;
        Vec<S> sum[RM][NV];
        clear_block<S, RM, NV>(sum);
        const S* h = H;
        Transposed<S> d = D;
        for (int last = H2 ? 0 : 1;; ++last) {
            outer_block<S, RM, NV>(h + i * L, stride, first, end, d.row(0, o), sum);
            if (last) break;
            h = H2;
            d = D2;
        }
        if (stream) {
            for (int r = 0; r < RM; ++r)
                for (int v = 0; v < NV; ++v) vstream(g + (int64_t)r * outputs + v * W, sum[r][v]);
        } else if (left >= NV * W) {
            for (int r = 0; r < RM; ++r)
                for (int v = 0; v < NV; ++v) {
                    S* p = g + (int64_t)r * outputs + v * W;
                    vstore(p, accumulate ? vload(p) + sum[r][v] : sum[r][v]);
                }
        } else {
            for (int r = 0; r < RM; ++r)
                for (int v = 0; v < NV; ++v) {
                    S* p = g + (int64_t)r * outputs + v * W;
                    if (accumulate) sum[r][v] = sum[r][v] + vload_part(p, left - v * W);
                    vstore_part(p, sum[r][v], left - v * W);
                }
        }
    }
};

#if MCLNF_VBYTES >= 32
// Transposes 8 vectors of 8 values of 32 bits.
template <class Q>
MCLNF_LANE void transpose8(Q (&q)[8]) {
    Q u[8], w[8];
    for (int i = 0; i < 8; i += 2) {
        u[i] = __builtin_shufflevector(q[i], q[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        u[i + 1] = __builtin_shufflevector(q[i], q[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; ++j) {
            w[i + 2 * j] = __builtin_shufflevector(u[i + j], u[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
            w[i + 2 * j + 1] = __builtin_shufflevector(u[i + j], u[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        }
    for (int i = 0; i < 4; ++i) {
        q[i] = __builtin_shufflevector(w[i], w[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        q[i + 4] = __builtin_shufflevector(w[i], w[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}
#endif

// Transposes the first `lanes` points (a multiple of 4; of 8 where vectors are
// that wide) of a panel's `rows` rows (padded likewise) to the points `at` ...
// of D; bias, where given, receives the sum over these points.
template <class S>
static void transpose_panel(int rows, int lanes, const S* in, int at, const Transposed<S>& D, S* bias) {
    constexpr int L = Panel<S>::lanes;
#if MCLNF_VBYTES >= 32
    if constexpr (sizeof(S) == 4) {
        typedef S Q __attribute__((vector_size(32), aligned(4), may_alias));
        for (int r = 0; r < rows; r += 8) {
            Q total = {};
            for (int c = 0; c < lanes; c += 8) {
                const S* p = in + (int64_t)r * L + c;
                Q q[8];
                for (int i = 0; i < 8; ++i) q[i] = *(const Q*)(p + i * L);
                transpose8(q);
                S* o = D.row(at + c, r);
                for (int i = 0; i < 8; ++i) *(Q*)(o + i * L) = q[i];
                total = total + (((q[0] + q[1]) + (q[2] + q[3])) + ((q[4] + q[5]) + (q[6] + q[7])));
            }
            if (bias) *(Q*)(bias + r) = *(Q*)(bias + r) + total;
        }
        return;
    }
#endif
    typedef S Q __attribute__((vector_size(4 * sizeof(S)), aligned(sizeof(S)), may_alias));
    for (int r = 0; r < rows; r += 4) {
        Q total = {};
        for (int c = 0; c < lanes; c += 4) {
            const S* p = in + (int64_t)r * L + c;
            const Q a = *(const Q*)p, b = *(const Q*)(p + L), e = *(const Q*)(p + 2 * L),
                    f = *(const Q*)(p + 3 * L);
            const Q ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                    ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const Q ef0 = __builtin_shufflevector(e, f, 0, 4, 1, 5),
                    ef1 = __builtin_shufflevector(e, f, 2, 6, 3, 7);
            const Q q0 = __builtin_shufflevector(ab0, ef0, 0, 1, 4, 5),
                    q1 = __builtin_shufflevector(ab0, ef0, 2, 3, 6, 7),
                    q2 = __builtin_shufflevector(ab1, ef1, 0, 1, 4, 5),
                    q3 = __builtin_shufflevector(ab1, ef1, 2, 3, 6, 7);
            S* o = D.row(at + c, r);
            *(Q*)o = q0;
            *(Q*)(o + L) = q1;
            *(Q*)(o + 2 * L) = q2;
            *(Q*)(o + 3 * L) = q3;
            total = total + ((q0 + q1) + (q2 + q3));
        }
        if (bias) *(Q*)(bias + r) = *(Q*)(bias + r) + total;
    }
}
