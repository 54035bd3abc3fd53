// The bank's kernels of `neon` beside those of `portable`, without torch: compiled for aarch64 and run under
// emulation (test_neon.py). Prints a digest of every result that must have the same bits on every machine,
// which the same program compiled for the host prints too; ends with 1 if a kernel of NEON is less exact than
// it must be.
#include <cmath>
#include <cstdio>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bank_table.h"
#include "math/bank_step.h"
#include "math/composite.h"
#include "math/draws.h"

using namespace mclnf;

namespace {

struct Digest {
    uint64_t value = 14695981039346656037ull;
    void add(const void* data, size_t bytes) {
        for (size_t i = 0; i < bytes; ++i)
            value = (value ^ static_cast<const unsigned char*>(data)[i]) * 1099511628211ull;
    }
    void print(const char* name) const { std::printf("%s %016llx\n", name, (unsigned long long)value); }
};

template <class S>
struct Part {
    const char* kind;
    std::vector<S> values;
};
template <class S>
using Results = std::vector<Part<S>>;

template <class S>
struct Values {
    std::vector<std::vector<S>> weight, bias;
    std::vector<S*> w, b;
    std::vector<const S*> cw, cb;

    template <class F>
    Values(const Net& net, const F& f) {
        for (const Layer& layer : net.layers) {
            weight.emplace_back(layer.weights());
            bias.emplace_back(layer.out);
            for (S& v : weight.back()) v = f(layer.in);
            for (S& v : bias.back()) v = f(layer.in);
        }
        for (size_t l = 0; l < weight.size(); ++l) {
            w.push_back(weight[l].data()), b.push_back(bias[l].data());
            cw.push_back(w[l]), cb.push_back(b[l]);
        }
    }
    Parameters<S> parameters() const { return {cw.data(), cb.data()}; }
    Gradients<S> gradients() { return {w.data(), b.data()}; }
    void move_to(Results<S>& results, const char* kind) {
        for (size_t l = 0; l < weight.size(); ++l) {
            results.push_back({kind, std::move(weight[l])});
            results.push_back({kind, std::move(bias[l])});
        }
    }
};

// The same problem in each type: its numbers are floats.
template <class S>
Results<S> sweep(const BankTable<S>& table, const Net& net, int64_t n) {
    std::mt19937 random(7);
    const auto draw = [&](double scale) {
        return static_cast<S>(static_cast<float>((random() / 4294967296.0 * 2 - 1) * scale));
    };
    const auto vector = [&](int64_t size) {
        std::vector<S> values(size);
        for (S& v : values) v = draw(1);
        return values;
    };
    const auto initial = [&](int in) { return draw(std::sqrt(3.0 / in)); };
    const auto nothing = [](int) { return static_cast<S>(NAN); };  // what is not written shows
    const Values<S> bank(net, initial), direction(net, initial);
    Values<S> inverse(net, [&](int) { return draw(1) + S(1); });
    const std::vector<S> x = vector(n * net.in_dim), grad_y = vector(n * net.out_dim),
                         tangent = vector(n * net.in_dim), target = vector(n * net.out_dim);
    const ModulePoints<S> in{bank.parameters(), x.data(), n, nullptr};
    Results<S> results;
    std::vector<S> y(n * net.out_dim, NAN), grad_x(x.size(), NAN), again(x.size(), NAN), scores(n, NAN),
        grad_grad_y(y.size(), NAN);
    table.forward(net, in, y.data(), nullptr);
    results.push_back({"values", y});

    Values<S> grads(net, nothing), squares(net, nothing), second(net, nothing), of_error(net, nothing);
    OutputGradient<S> gradient;
    gradient.grad_y = grad_y.data();
    BackwardResults<S> out;
    out.grad_x = grad_x.data();
    out.grads = grads.gradients();
    out.fisher.inverse = inverse.parameters();
    out.fisher.scores = scores.data();
    out.fisher.squares = squares.gradients();
    table.backward(net, in, gradient, out);
    results.push_back({"gradient of x", grad_x});
    results.push_back({"scores", scores});
    grads.move_to(results, "gradients");
    squares.move_to(results, "squares");

    OutputGradient<S> squared;
    squared.target = target.data();
    squared.scale = S(0.5);
    double error = 0;
    BackwardResults<S> plain;
    plain.grads = of_error.gradients();
    plain.error = &error;
    table.backward(net, in, squared, plain);
    of_error.move_to(results, "gradients of an error");
    results.push_back({"error", {static_cast<S>(error)}});

    table.second(net, in, gradient, {tangent.data(), direction.parameters()},
                 {again.data(), second.gradients(), grad_grad_y.data()});
    results.push_back({"second, of x", again});
    results.push_back({"second, of the output gradient", grad_grad_y});
    second.move_to(results, "second");
    return results;
}

struct Case {
    int activation, output;
    const char* name;
};
constexpr Case kCases[] = {{kRelu, kNone, "relu"},          {kSine, kNone, "sine"},
                           {kTanh, kSigmoid, "tanh"},       {kSoftplus, kNone, "softplus"},
                           {kSigmoid, kSigmoid, "sigmoid"}, {kExp, kNone, "exp"}};

Net net_of(const Case& of, int width, int layers) {
    // A frequency encoding of three coordinates with the input first, spherical harmonics of the other three.
    const std::vector<int64_t> ints = {6, 5, width, layers, of.activation, of.output, 1 << 1, 2, kFrequency,
                                       0, 3, 1,     2,      kSpherical,    3,         3,      3, 0};
    return Net(ints, {2.0, 1.0, 2.0});
}

#ifdef MCLNF_HAS_NEON
template <class S>
double rms_off(const std::vector<S>& values, const std::vector<double>& truth) {
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += std::pow(static_cast<double>(values[i]) - truth[i], 2);
    return std::sqrt(sum / static_cast<double>(values.size()));
}

// Errors relative to the results' size, their squares summed over all sizes of a case: one vector of five
// biases may be right by luck.
class Errors {
  public:
    void add(const Net& net, int64_t n) {
        const auto neon = sweep(neon::table_float, net, n), portable = sweep(portable::table_float, net, n);
        const auto wide = sweep(neon::table_double, net, n), truth = sweep(portable::table_double, net, n);
        for (size_t p = 0; p < truth.size(); ++p) {
            const std::vector<double>& exact = truth[p].values;
            double size = rms_off(std::vector<double>(exact.size(), 0.0), exact);
            if (size == 0) size = 1;  // no output activation, no second derivative of the last bias
            Sums& sums = sums_[truth[p].kind];
            sums.neon += std::pow(rms_off(neon[p].values, exact) / size, 2);
            sums.portable += std::pow(rms_off(portable[p].values, exact) / size, 2);
            sums.wide += std::pow(rms_off(wide[p].values, exact) / size, 2);
            sums.count += 1;
        }
    }
    // The rule of `assert_no_worse` (bank_cases.py): in float, at most twice the error of the portable
    // kernels and its rounding; in double, where these are the measure, a few roundings.
    bool small(const char* name) const {
        bool good = true;
        for (const auto& [kind, sums] : sums_) {
            const double off = std::sqrt(sums.neon / sums.count), wide = std::sqrt(sums.wide / sums.count);
            const double allowed = 2 * std::sqrt(sums.portable / sums.count) + 2 * 0x1p-23;
            if (off <= allowed && wide <= 1e-13) continue;  // not so for NaN
            std::printf("WRONG %s, %s: %g, allowed %g; in double %g\n", name, kind.c_str(), off, allowed,
                        wide);
            good = false;
        }
        return good;
    }

  private:
    struct Sums {
        double neon = 0, portable = 0, wide = 0, count = 0;
    };
    std::map<std::string, Sums> sums_;
};
#endif

void print_draws() {
    Digest digest;
    for (uint32_t module = 0; module < 9; ++module)
        for (uint32_t step = 0; step < 40; ++step) {
            const DrawCounter at{PhiloxKey{1234567, 89}, 3, module, step};
            const int place = window_place(at);
            for (uint32_t block = 0; block < 33; ++block) {
                int64_t ids[3];
                uniform_pair(at, block, 100003, ids[0], ids[1]);
                ids[2] = even_id(block, place, 77777u * block, 100003, 100003.0 / (33 * kDrawWindow));
                digest.add(ids, sizeof ids);
            }
        }
    digest.print("draws");
}

template <class S>
void print_steps(const char* name) {
    Digest digest;
    // Not step_factors: its powers are the C library's.
    const StepFactors<S> c{S(1e-3), S(1e-8), S(0.9), S(0.1), S(0.999), S(0.001), S(0.3)};
    S p = S(0.5), m = 0, v = 0;
    for (int t = 1; t < 1000; ++t) {
        const S g = pulled(c, S(t % 17 - 8) / S(7), p, S(0.25), S(0.1));
        p = adam_step(c, p, g, m, v);
        digest.add(&p, sizeof p);
        const S q = sgd_step(c, p, g);
        digest.add(&q, sizeof q);
    }
    digest.print(name);
}

// Rays of 1 to 40 samples, composited to three channels.
template <class V>
void print_pixels(const char* name) {
    using S = ScalarOf<V>;
    constexpr int kMost = 40, kRoom = kMost + 8;
    std::mt19937 random(5);
    Digest digest;
    for (int count = 1; count <= kMost; ++count) {
        S density[kRoom] = {}, color[3 * kRoom] = {}, begin[kRoom] = {}, end[kRoom] = {}, weights[kRoom] = {};
        const S background[3] = {S(0.25), S(0.5), S(1)};
        for (int i = 0; i < count; ++i) {
            density[i] = static_cast<S>(random() % 4096 / 512.0f);
            begin[i] = static_cast<S>(0.1f * i), end[i] = static_cast<S>(0.1f * (i + 1));
            for (int c = 0; c < 3; ++c) color[3 * i + c] = static_cast<S>(random() % 256 / 255.0f);
        }
        const CompositeRay<S> ray{density, color, begin, end, background, count, kRoom, kRoom, 3, S(1e-3)};
        S pixel[3], opacity, depth;
        composite_forward<3, V>(ray, pixel, &opacity, &depth, weights);
        digest.add(pixel, sizeof pixel);
        digest.add(&opacity, sizeof opacity);
        digest.add(&depth, sizeof depth);
        digest.add(weights, count * sizeof(S));
    }
    digest.print(name);
}

}  // namespace

int main() {
    bool good = true;
    for (const Case& of : kCases) {
        Digest digest;
#ifdef MCLNF_HAS_NEON
        Errors errors;
#endif
        for (const auto& [width, layers] : {std::pair{37, 2}, {16, 1}, {64, 3}})
            for (const int64_t n : {1, 3, 6, 15, 17, 65}) {
                const Net net = net_of(of, width, layers);
                const auto results = sweep(portable::table_float, net, n);
                for (const auto& part : results)
                    digest.add(part.values.data(), part.values.size() * sizeof(float));
#ifdef MCLNF_HAS_NEON
                errors.add(net, n);
#endif
            }
        digest.print(of.name);
#ifdef MCLNF_HAS_NEON
        good &= errors.small(of.name);
#endif
    }
    print_draws();
    print_steps<float>("steps of float");
    print_steps<double>("steps of double");
    print_pixels<Float8>("pixels of float");
    print_pixels<double>("pixels of double");
#ifdef MCLNF_HAS_NEON
    std::printf("%s %d\n", neon::table_float.name, neon::table_float.lanes);
#endif
    return good ? 0 : 1;
}
