// The operations on a product's result while it is in registers: an activation, the derivative of one, a
// second result. A pass of its own would read and write the result once more.
//
// Included once per instruction set after panel.h (no include guard, see simd.h).

// Applied to a product's result z before it is stored.
enum EpilogueKind : int {
    kStore,
    kRectify,     // max(z, 0); NaN stays NaN
    kMask,        // z times the derivative of relu, read off its value: 1 where factor > 0
    kScale,       // z * factor
    kScaleAdd,    // z * factor + C
    kScaleTwice,  // z * factor, and z * second_factor into a second result
};
template <class S>
struct Epilogue {
    EpilogueKind kind = kStore;
    const S* factor = nullptr;  // [M, lanes], as all of these
    const S* second_factor = nullptr;
    S* second_result = nullptr;
};

// Applies the epilogue to vector z and stores it at place i.
template <class S, int kind>
MCLNF_LANE void finish(Vec<S> z, int64_t i, S* C, const Epilogue<S>& epilogue) {
    const Vec<S> zero = {};
    if (kind == kRectify) z = z < zero ? zero : z;
    if (kind == kMask) z = vload(epilogue.factor + i) > zero ? z : zero;
    if (kind == kScaleTwice) vstore(epilogue.second_result + i, z * vload(epilogue.second_factor + i));
    if (kind == kScale || kind == kScaleTwice) z = z * vload(epilogue.factor + i);
    if (kind == kScaleAdd) z = vfma(z, vload(epilogue.factor + i), vload(C + i));
    vstore(C + i, z);
}
// f(kind) with `kind` known to the compiler: branched over once per block and not once per vector.
template <class F>
MCLNF_LANE void with_epilogue(EpilogueKind kind, const F& f) {
    switch (kind) {
#define MCLNF_EPILOGUE(K)                    \
    case K:                                  \
        f(std::integral_constant<int, K>()); \
        break;
        MCLNF_EPILOGUE(kStore)
        MCLNF_EPILOGUE(kRectify)
        MCLNF_EPILOGUE(kMask)
        MCLNF_EPILOGUE(kScale)
        MCLNF_EPILOGUE(kScaleAdd)
        MCLNF_EPILOGUE(kScaleTwice)
#undef MCLNF_EPILOGUE
    }
}
