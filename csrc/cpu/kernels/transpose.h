// From points in the lanes to outputs in the lanes, as the weight gradients read the output gradients.
//
// Included once per instruction set after gemm_tile.h (no include guard, see simd.h). The transposition is a
// pass over memory that costs as much as a small product, but without it a weight gradient would need a sum
// over the lanes for each of its values.

// Output gradients, transposed: groups of `lanes` outputs, [points, lanes] each.
template <class S>
struct Transposed {
    S* values;
    int64_t group;  // from one group to the next

    // The values of the outputs from o on of point t, o a multiple of the vector width.
    S* row(int t, int o) const {
        constexpr int L = Panel<S>::lanes;
        return values + (o / L) * group + (int64_t)t * L + o % L;
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

// Transposes the first `lanes` points (a multiple of 4; of 8 if vectors are that wide) of a panel's `rows`
// rows (padded likewise) to the points from `point` on of D. bias, if given, receives the sum over these
// points: they are in registers here, and a pass of its own would read them again.
template <class S>
static void transpose_panel(int rows, int lanes, const S* in, int point, const Transposed<S>& D, S* bias) {
    constexpr int L = Panel<S>::lanes;
#if MCLNF_VBYTES >= 32
    if constexpr (sizeof(S) == 4) {
        typedef S Q __attribute__((vector_size(32), may_alias));
        typedef S Any __attribute__((vector_size(32), aligned(4), may_alias));
        for (int r = 0; r < rows; r += 8) {
            Q total = {};
            for (int c = 0; c < lanes; c += 8) {
                const S* p = in + (int64_t)r * L + c;
                Q q[8];
                for (int i = 0; i < 8; ++i) q[i] = *(const Any*)(p + i * L);
                transpose8(q);
                S* o = D.row(point + c, r);
                for (int i = 0; i < 8; ++i) *(Any*)(o + i * L) = q[i];
                total = total + (((q[0] + q[1]) + (q[2] + q[3])) + ((q[4] + q[5]) + (q[6] + q[7])));
            }
            if (bias) *(Any*)(bias + r) = *(Any*)(bias + r) + total;
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
            S* o = D.row(point + c, r);
            *(Q*)o = q0;
            *(Q*)(o + L) = q1;
            *(Q*)(o + 2 * L) = q2;
            *(Q*)(o + 3 * L) = q3;
            total = total + ((q0 + q1) + (q2 + q3));
        }
        if (bias) *(Q*)(bias + r) = *(Q*)(bias + r) + total;
    }
}
