// The squared error of pixels that a tile's points are composited to, and its gradient in the field's
// outputs.
//
// Included once per instruction set after activation_tile.h and bank_tile.h (no include guard, see simd.h).
// Along a ray, with sample spacing delta_i, density sigma_i and color c_i (arXiv 2003.08934, eq. 3):
//   alpha_i = 1 - exp(-sigma_i delta_i), T_i = prod_(j<i) (1 - alpha_j), w_i = T_i alpha_i,
//   pixel   = sum w_i c_i + T_end background,
// and with g = dL/dpixel, q_i = g . (c_i - background):
//   dL/dc_i = w_i g, dL/dsigma_i = delta_i (T_(i+1) q_i - sum_(j>i) w_j q_j).

// alpha = 1 - exp(-s) and through = exp(-s) of `count` values, whole vectors of them; alpha holds s before.
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

// x, infinite lanes as 0; NaN stays NaN.
template <class S>
MCLNF_LANE Vec<S> endless_to_zero(Vec<S> x) {
    const Vec<S> endless = vset<S>(S(INFINITY));
    return ((x == endless) | (x == -endless)) ? Vec<S>{} : x;
}

template <class S>
class RayErrors {
    static constexpr int L = Panel<S>::lanes, W = Simd<S>::width, kOutputs = 4, kColors = 3;

  public:
    RayErrors() = default;
    RayErrors(const Pixels<S>& pixels, S scale, int panels, Arena<S>& memory)
        : pixels_(&pixels),
          scale_(scale),
          density_(pixels.density_row),
          color_(pixels.density_row == 0 ? 1 : 0),
          value_(memory, kOutputs, panels),
          derivative_(memory, kOutputs, panels),
          delta_(memory, 1, panels),
          alpha_(memory, 1, panels),
          through_(memory, 1, panels),
          weight_(memory, 1, panels) {}

    // d = the gradient of scale * weight * |pixel - target|^2 in the outputs y of a tile. Returns the error,
    // scale left out.
    double gradient(const Tile<S>& tile, const TileRange& range, const Rows<S>& y, const Rows<S>& d) const {
        shade(tile, y);
        attenuate_tile(tile, range);
        for (int p = 0; p < tile.panels; ++p)  // lanes without a point get no gradient
            std::memset(d.panel(p), 0, sizeof(S) * kOutputs * L);
        double error = 0;
        for (int64_t r = range.first_piece; r < range.end_piece; ++r)
            error +=
                ray(r, (int)(pixels_->rays[r] - range.begin), (int)(pixels_->rays[r + 1] - range.begin), d);
        return error;
    }

  private:
    // Pixel of a ray and the light behind it. In double: along a ray, rounding adds up, and double costs
    // nothing beside a network.
    struct Composited {
        double pixel[kColors] = {};
        double transmittance = 1;
        S background[kColors] = {};
        bool behind = false;  // the last point's color is the background
    };

    static S* place(const Rows<S>& rows, int t) {
        return rows.values + (int64_t)(t / L) * rows.stride() + t % L;
    }

    // Densities and colors from the raw outputs, with their derivatives.
    void shade(const Tile<S>& tile, const Rows<S>& y) const {
        for (int p = 0; p < tile.panels; ++p) {
            S *value = value_.panel(p), *derivative = derivative_.panel(p);
            std::memcpy(value, y.panel(p), sizeof(S) * kOutputs * L);
            // Lanes that nothing was computed in may hold denormals, which would be slow.
            const int lanes = tile.vectors(p) * W;
            for (int r = 0; r < kOutputs; ++r) std::fill(value + r * L + lanes, value + (r + 1) * L, S(0));
            activate<S>(kSigmoid, 0, kColors, L / W, {value + color_ * L, derivative + color_ * L});
            shade_density(value + density_ * L, y.panel(p) + density_ * L, derivative + density_ * L);
        }
    }
    void shade_density(S* value, const S* raw, S* derivative) const {
        if (!pixels_->exponential) return activate<S>(kRelu, 0, 1, L / W, {value, derivative});
        const Vec<S> max_raw = vset<S>(pixels_->max_raw_density), zero = {};
        for (int t = 0; t < L; t += W) {
            const Vec<S> z = vload(value + t);
            vstore(value + t, z > max_raw ? max_raw : z);
        }
        activate<S>(kExp, 0, 1, L / W, {value, derivative});
        for (int t = 0; t < L; t += W)
            vstore(derivative + t, vload(raw + t) > max_raw ? zero : vload(derivative + t));
    }

    void attenuate_tile(const Tile<S>& tile, const TileRange& range) const {
        std::memcpy(delta_.values, pixels_->deltas + range.begin, sizeof(S) * tile.points);
        std::memset(delta_.values + tile.points, 0, sizeof(S) * (tile.panels * L - tile.points));
        for (int p = 0; p < tile.panels; ++p) {
            const S* density = value_.panel(p) + density_ * L;
            for (int t = 0; t < L; t += W) {
                const Vec<S> sigma = vload(density + t), delta = vload(delta_.panel(p) + t);
                // An interval of length 0 has no weight, also if its density is infinite.
                vstore(alpha_.panel(p) + t, delta == 0 ? endless_to_zero<S>(sigma) * delta : sigma * delta);
            }
            attenuate(alpha_.panel(p), through_.panel(p), L);
        }
    }

    // The points begin ... end-1 of the tile are ray r.
    double ray(int64_t r, int begin, int end, const Rows<S>& d) const {
        const Composited ray = composite(begin, end);
        const S weight = pixels_->weight ? pixels_->weight[r] : S(1);
        double error = 0;
        S g[kColors];
        for (int k = 0; k < kColors; ++k) {
            const double e =
                ray.pixel[k] + ray.transmittance * ray.background[k] - pixels_->target[kColors * r + k];
            error += weight * e * e;
            g[k] = S(2 * scale_ * weight * e);
        }
        gradient_along(ray, g, begin, end, d);
        return error;
    }

    // Leaves w_i in `weight_` and T_(i+1) in `through_`.
    Composited composite(int begin, int end) const {
        Composited ray;
        for (int t = begin; t < end; ++t) {
            const S* c = place(value_, t) + color_ * L;
            const double w = ray.transmittance * alpha_.values[t];
            for (int k = 0; k < kColors; ++k) ray.pixel[k] += w * c[k * L];
            weight_.values[t] = S(w);
            ray.transmittance *= through_.values[t];
            through_.values[t] = S(ray.transmittance);
        }
        ray.behind = pixels_->last_behind && end > begin;
        for (int k = 0; k < kColors; ++k) {
            if (ray.behind) ray.background[k] = place(value_, end - 1)[(color_ + k) * L];
            if (!pixels_->last_behind && pixels_->background) ray.background[k] = pixels_->background[k];
        }
        return ray;
    }

    // From the last point to the first, since dL/dsigma_i needs the sum over the points behind it; a total
    // less a prefix would cancel.
    void gradient_along(const Composited& ray, const S* g, int begin, int end, const Rows<S>& d) const {
        double suffix = 0;
        for (int t = end - 1; t >= begin; --t) {
            const bool last = t + 1 == end;
            const S *c = place(value_, t), *by = place(derivative_, t), w = weight_.values[t];
            S* to = place(d, t);
            double q = 0;
            for (int k = 0; k < kColors; ++k) {
                const int row = (color_ + k) * L;
                q += double(g[k]) * (c[row] - ray.background[k]);
                to[row] = (last && ray.behind ? w + S(ray.transmittance) : w) * g[k] * by[row];
            }
            const S h = S(delta_.values[t] * (through_.values[t] * q - suffix));
            to[density_ * L] = last && pixels_->hold_last ? S(0) : h * by[density_ * L];
            suffix += w * q;
        }
    }

    const Pixels<S>* pixels_ = nullptr;
    S scale_ = S(1);
    int density_ = 3, color_ = 0;  // rows of the density and of the first color
    Rows<S> value_, derivative_;   // density and colors, and their derivatives in the raw outputs
    Rows<S> delta_, alpha_, through_,
        weight_;  // one point behind the other; through_: 1 - alpha, then T_(i+1)
};
