// The squared error of pixels that a tile's points are composited to, and its gradient in the field's
// outputs.
//
// Included once per instruction set after bank_kernels.h (no include guard, see simd.h). Along a ray, with
// widths delta_i, density sigma_i and colour c_i (arXiv 2003.08934, eq. 3):
//   alpha_i = 1 - exp(-sigma_i delta_i), T_i = prod_(j<i) (1 - alpha_j), w_i = T_i alpha_i,
//   pixel   = sum w_i c_i + T_end background,
// and with g = dL/dpixel, q_i = g . (c_i - background):
//   dL/dc_i = w_i g, dL/dsigma_i = delta_i (T_(i+1) q_i - sum_(j>i) w_j q_j).

// alpha = 1 - exp(-s) and through = exp(-s) of `count` values, whole vectors of them; s is where alpha goes.
template <class S>
static void attenuate(S* alpha, S* through, int count) {
    if constexpr (std::is_same_v<S, float>) {
        for (int i = 0; i < count; i += Simd<float>::width) {
            VF e, m;
            vexp_both(-vload(alpha + i), e, m);
            vstore(alpha + i, -m);
            vstore(through + i, e);
        }
    } else {
        for (int i = 0; i < count; ++i) {
            through[i] = std::exp(-alpha[i]);
            alpha[i] = -std::expm1(-alpha[i]);
        }
    }
}

template <class S>
struct RayErrors {
    static constexpr int L = Panel<S>::lanes, W = Simd<S>::width, kOutputs = 4;
    Rows<S> value, slope;                  // density and colours, and their derivatives in the raw outputs
    Rows<S> width, alpha, through, share;  // one behind the other: delta, alpha, 1 - alpha then T_(i+1), w

    RayErrors() = default;
    RayErrors(int panels, Arena<S>& memory)
        : value(memory, kOutputs, panels),
          slope(memory, kOutputs, panels),
          width(memory, 1, panels),
          alpha(memory, 1, panels),
          through(memory, 1, panels),
          share(memory, 1, panels) {}

    // d = the gradient of scale * weight * |pixel - target|^2 in the outputs y of a tile, which holds the
    // rays first ... end-1 and starts at point `at`. Returns the error, scale left out.
    double add(const Tile<S>& tile, const Pixels<S>& pixels, int64_t first, int64_t end, int64_t at, S scale,
               const Rows<S>& y, const Rows<S>& d) const {
        shade(tile, pixels, y);
        std::memcpy(width.at, pixels.width + at, sizeof(S) * tile.points);
        std::memset(width.at + tile.points, 0, sizeof(S) * (tile.panels * L - tile.points));
        for (int p = 0; p < tile.panels; ++p) {
            const S* density = value.panel(p) + pixels.density_row * L;
            for (int t = 0; t < L; t += W)
                vstore(alpha.panel(p) + t, vload(density + t) * vload(width.panel(p) + t));
            attenuate(alpha.panel(p), through.panel(p), L);
            std::memset(d.panel(p), 0, sizeof(S) * kOutputs * L);  // lanes without a point get no gradient
        }
        double error = 0;
        for (int64_t r = first; r < end; ++r)
            error += ray(pixels, r, (int)(pixels.rays[r] - at), (int)(pixels.rays[r + 1] - at), scale, d);
        return error;
    }

  private:
    static S* place(const Rows<S>& rows, int t) { return rows.at + (int64_t)(t / L) * rows.stride() + t % L; }

    void shade(const Tile<S>& tile, const Pixels<S>& pixels, const Rows<S>& y) const {
        const int dense = pixels.density_row, colored = dense == 0 ? 1 : 0;
        for (int p = 0; p < tile.panels; ++p) {
            S *v = value.panel(p), *s = slope.panel(p);
            std::memcpy(v, y.panel(p), sizeof(S) * kOutputs * L);
            // Lanes that nothing was computed in: whatever lay there would be as slow as denormals are.
            const int lanes = tile.vectors(p) * W;
            for (int r = 0; r < kOutputs; ++r) std::fill(v + r * L + lanes, v + (r + 1) * L, S(0));
            activate<S>(kSigmoid, 0, 3, L / W, v + colored * L, s + colored * L);
            S *density = v + dense * L, *by = s + dense * L;
            if (!pixels.exponential) {
                activate<S>(kRelu, 0, 1, L / W, density, by);
                continue;
            }
            const Vec<S> most = vset<S>(pixels.most), zero = {};
            for (int t = 0; t < L; t += W) {
                const Vec<S> z = vload(density + t);
                vstore(density + t, z > most ? most : z);
            }
            activate<S>(kExp, 0, 1, L / W, density, by);
            for (int t = 0; t < L; t += W)
                vstore(by + t, vload(y.panel(p) + dense * L + t) > most ? zero : vload(by + t));
        }
    }

    // The points begin ... end-1 of the tile are ray r.
    double ray(const Pixels<S>& pixels, int64_t r, int begin, int end, S scale, const Rows<S>& d) const {
        const int dense = pixels.density_row, colored = dense == 0 ? 1 : 0;
        // What goes along a ray in double: its rounding would add up, and it costs nothing beside a network.
        double T = 1, pixel[3] = {};
        S behind[3] = {}, g[3];
        for (int t = begin; t < end; ++t) {
            const S* c = place(value, t) + colored * L;
            const double w = T * alpha.at[t];
            for (int k = 0; k < 3; ++k) pixel[k] += w * c[k * L];
            share.at[t] = S(w);
            T *= through.at[t];
            through.at[t] = S(T);
        }
        const bool own = pixels.last_behind && end > begin;
        for (int k = 0; k < 3; ++k) {
            if (own) behind[k] = place(value, end - 1)[(colored + k) * L];
            if (!pixels.last_behind && pixels.background) behind[k] = pixels.background[k];
        }
        const S weight = pixels.weight ? pixels.weight[r] : S(1);
        double error = 0;
        for (int k = 0; k < 3; ++k) {
            const double e = pixel[k] + T * behind[k] - pixels.target[3 * r + k];
            error += weight * e * e;
            g[k] = S(2 * scale * weight * e);
        }
        double suffix = 0;
        for (int t = end - 1; t >= begin; --t) {
            const bool last = t + 1 == end;
            const S *c = place(value, t), *by = place(slope, t), w = share.at[t];
            S* to = place(d, t);
            double q = 0;
            for (int k = 0; k < 3; ++k) {
                const int row = (colored + k) * L;
                q += double(g[k]) * (c[row] - behind[k]);
                to[row] = (last && own ? w + S(T) : w) * g[k] * by[row];
            }
            const S h = S(width.at[t] * (through.at[t] * q - suffix));
            to[dense * L] = last && pixels.hold_last ? S(0) : h * by[dense * L];
            suffix += w * q;
        }
        return error;
    }
};
