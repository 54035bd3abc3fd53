// The micro-kernel of the bank: a small matrix product whose columns are vector lanes.
//
// Included once per instruction set after simd.h (no include guard, see there). Everything a bank does to a
// tile of points is this product: forward and backward have the points in the lanes, so that weights are read
// as scalars in whatever order they are stored and never transposed; weight gradients have the outputs in the
// lanes.

// Vectors of columns that one call of the register kernel covers, and rows: 24 accumulators of 32 registers,
// or 12 of 16.
static constexpr int kColumnVectors = MCLNF_VBYTES == 64 ? 4 : 2;
static constexpr int kRows = 6;

// C[m][.] = (accumulate ? C : bias[m] or 0) + sum_k A[m * sm + k * sk] * B[k][.], for RM rows and NV vectors
// of columns.
template <class S, int RM, int NV>
MCLNF_LANE void gemm_block(int K, const S* A, int64_t sm, int64_t sk, const S* B, int64_t ldb, S* C,
                           int64_t ldc, const S* bias, bool accumulate) {
    constexpr int W = Simd<S>::width;
    Vec<S> acc[RM][NV];
    for (int r = 0; r < RM; ++r)
        for (int v = 0; v < NV; ++v)
            acc[r][v] = accumulate ? vload(C + r * ldc + v * W) : vset<S>(bias ? bias[r] : S(0));
    for (int k = 0; k < K; ++k) {
        Vec<S> b[NV];
        for (int v = 0; v < NV; ++v) b[v] = vload(B + k * ldb + v * W);
        for (int r = 0; r < RM; ++r) {
            const Vec<S> a = vset<S>(A[r * sm + k * sk]);
            for (int v = 0; v < NV; ++v) acc[r][v] = vfma(a, b[v], acc[r][v]);
        }
    }
    for (int r = 0; r < RM; ++r)
        for (int v = 0; v < NV; ++v) vstore(C + r * ldc + v * W, acc[r][v]);
}

template <class S, int NV>
static void gemm_rows(int M, int K, const S* A, int64_t sm, int64_t sk, const S* B, int64_t ldb, S* C,
                      int64_t ldc, const S* bias, bool accumulate) {
    int m = 0;
    for (; m + kRows <= M; m += kRows)
        gemm_block<S, kRows, NV>(K, A + m * sm, sm, sk, B, ldb, C + m * ldc, ldc, bias ? bias + m : nullptr,
                                 accumulate);
#define MCLNF_TAIL(R)                                                                                    \
    case R:                                                                                              \
        gemm_block<S, R, NV>(K, A + m * sm, sm, sk, B, ldb, C + m * ldc, ldc, bias ? bias + m : nullptr, \
                             accumulate);                                                                \
        break;
    switch (M - m) {
        MCLNF_TAIL(1)
        MCLNF_TAIL(2)
        MCLNF_TAIL(3)
        MCLNF_TAIL(4)
        MCLNF_TAIL(5)
        default:
            break;
    }
#undef MCLNF_TAIL
}

// The product over `columns` vectors of columns.
template <class S>
static void gemm(int M, int K, const S* A, int64_t sm, int64_t sk, const S* B, int64_t ldb, int columns, S* C,
                 int64_t ldc, const S* bias, bool accumulate) {
    constexpr int W = Simd<S>::width;
    int v = 0;
    for (; v + kColumnVectors <= columns; v += kColumnVectors)
        gemm_rows<S, kColumnVectors>(M, K, A, sm, sk, B + v * W, ldb, C + v * W, ldc, bias, accumulate);
    switch (columns - v) {
        case 1:
            gemm_rows<S, 1>(M, K, A, sm, sk, B + v * W, ldb, C + v * W, ldc, bias, accumulate);
            break;
        case 2:
            gemm_rows<S, 2>(M, K, A, sm, sk, B + v * W, ldb, C + v * W, ldc, bias, accumulate);
            break;
        case 3:
            gemm_rows<S, 3>(M, K, A, sm, sk, B + v * W, ldb, C + v * W, ldc, bias, accumulate);
            break;
        default:
            break;
    }
}

// out[c][r] = in[r][c], in 4 x 4 blocks that the compiler turns into shuffles. The caller pads to multiples
// of 4.
template <class S>
static void transpose(int rows, int columns, const S* in, int64_t ldi, S* out, int64_t ldo) {
    typedef S Q __attribute__((vector_size(4 * sizeof(S)), aligned(sizeof(S)), may_alias));
    for (int r = 0; r < rows; r += 4)
        for (int c = 0; c < columns; c += 4) {
            const S* p = in + r * ldi + c;
            const Q a = *(const Q*)p, b = *(const Q*)(p + ldi), e = *(const Q*)(p + 2 * ldi),
                    f = *(const Q*)(p + 3 * ldi);
            const Q ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                    ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const Q ef0 = __builtin_shufflevector(e, f, 0, 4, 1, 5),
                    ef1 = __builtin_shufflevector(e, f, 2, 6, 3, 7);
            S* o = out + c * ldo + r;
            *(Q*)o = __builtin_shufflevector(ab0, ef0, 0, 1, 4, 5);
            *(Q*)(o + ldo) = __builtin_shufflevector(ab0, ef0, 2, 3, 6, 7);
            *(Q*)(o + 2 * ldo) = __builtin_shufflevector(ab1, ef1, 0, 1, 4, 5);
            *(Q*)(o + 3 * ldo) = __builtin_shufflevector(ab1, ef1, 2, 3, 6, 7);
        }
}
