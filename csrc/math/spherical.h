// Real spherical harmonics as polynomials of a direction, over any number type: plain numbers give values,
// dual numbers give derivatives of the same code.
#pragma once

#include "common.h"

namespace mclnf {

// a + b e with e^2 = 0. Nested once it gives second derivatives.
template <class T>
struct Dual {
    T value, derivative;
};
template <class T>
static MCLNF_HD inline Dual<T> operator+(Dual<T> a, Dual<T> b) {
    return {a.value + b.value, a.derivative + b.derivative};
}
template <class T>
static MCLNF_HD inline Dual<T> operator-(Dual<T> a, Dual<T> b) {
    return {a.value - b.value, a.derivative - b.derivative};
}
template <class T>
static MCLNF_HD inline Dual<T> operator*(Dual<T> a, Dual<T> b) {
    return {a.value * b.value, a.derivative * b.value + a.value * b.derivative};
}
template <class T>
static MCLNF_HD inline Dual<T> operator*(double a, Dual<T> b) {
    return {a * b.value, a * b.derivative};
}
template <class T>
static MCLNF_HD inline Dual<T> operator-(Dual<T> a, double b) {
    return {a.value - b, a.derivative};
}

static MCLNF_HD inline double constant_like(double, double a) { return a; }
template <class T>
static MCLNF_HD inline Dual<T> constant_like(Dual<T> x, double a) {
    return {constant_like(x.value, a), constant_like(x.value, 0.0)};
}

// The degree^2 functions of bands 0 ... degree-1 at (x, y, z), degree <= 4, orthonormal on the unit sphere.
template <class T>
static MCLNF_HD inline void spherical_harmonics(int degree, T x, T y, T z, T* out) {
    out[0] = constant_like(x, 0.28209479177387814);
    if (degree < 2) return;
    out[1] = -0.48860251190291987 * y;
    out[2] = 0.48860251190291987 * z;
    out[3] = -0.48860251190291987 * x;
    if (degree < 3) return;
    const T xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
    out[4] = 1.0925484305920792 * xy;
    out[5] = -1.0925484305920792 * yz;
    out[6] = 0.94617469575755997 * zz - 0.31539156525251999;
    out[7] = -1.0925484305920792 * xz;
    out[8] = 0.54627421529603959 * (xx - yy);
    if (degree < 4) return;
    out[9] = 0.59004358992664352 * (y * (yy - 3.0 * xx));
    out[10] = 2.8906114426405538 * (xy * z);
    out[11] = 0.45704579946446572 * (y * (1.0 * constant_like(x, 1.0) - 5.0 * zz));
    out[12] = 0.3731763325901154 * (z * (5.0 * zz - 3.0));
    out[13] = 0.45704579946446572 * (x * (1.0 * constant_like(x, 1.0) - 5.0 * zz));
    out[14] = 1.4453057213202769 * (z * (xx - yy));
    out[15] = 0.59004358992664352 * (x * (3.0 * yy - xx));
}

}  // namespace mclnf
