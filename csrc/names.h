// The numbers that stand for names on both sides of the boundary between Python and the compiled ops.
//
// This is the one table on the C++ side: the enums that the kernels switch over are generated from it, and
// the op `name_table` hands it to Python as text, which compares it with its own tuples at import. A number
// that was written twice could differ without a test going red: a `tanh` network would then run as a
// `sigmoid` one. Each number is spelled out and not counted, because reordering a list must not renumber what
// a saved graph holds; the static assertions below refuse gaps.
#pragma once

#include <initializer_list>

namespace mclnf {

// X(enumerator, name in Python, number).

// mclnf_fast/spec.py ACTIVATIONS; hidden and output activations share the numbers.
#define MCLNF_ACTIVATIONS(X)  \
    X(kNone, none, 0)         \
    X(kRelu, relu, 1)         \
    X(kSine, sine, 2)         \
    X(kSoftplus, softplus, 3) \
    X(kTanh, tanh, 4)         \
    X(kSigmoid, sigmoid, 5)   \
    X(kExp, exp, 6)

// mclnf_fast/encodings.py, the kind of a Part.
#define MCLNF_ENCODINGS(X)      \
    X(kIdentity, identity, 0)   \
    X(kFrequency, frequency, 1) \
    X(kSpherical, spherical, 2)

// mclnf_fast/grids.py INTERPOLATIONS.
#define MCLNF_INTERPOLATIONS(X) \
    X(kGridNearest, nearest, 0) \
    X(kGridLinear, linear, 1)   \
    X(kGridSmoothstep, smoothstep, 2)

// How the features of a grid's levels become one vector: GridLayout.together.
#define MCLNF_GRID_REDUCTIONS(X) \
    X(kGridConcat, concat, 0)    \
    X(kGridSum, sum, 1)

// How a node of a grid's level finds its entry: GridLevel.hashed.
#define MCLNF_GRID_TABLES(X) \
    X(kGridDense, dense, 0)  \
    X(kGridHashed, hashed, 1)

// Where a grid's nodes lie: GridMap.half_cell.
#define MCLNF_GRID_PLACEMENTS(X) \
    X(kGridBorder, border, 0)    \
    X(kGridHalfCell, half_cell, 1)

// How `bank_fit` and `draw_ids` choose the samples of a step: mclnf_fast/ops/draws.
#define MCLNF_DRAW_RULES(X)     \
    X(kDrawUniform, uniform, 0) \
    X(kDrawEven, even, 1)       \
    X(kDrawWhole, whole, 2)     \
    X(kDrawGiven, given, 3)     \
    X(kDrawGuided, guided, 4)

// Why a module of `bank_fit` makes no further step.
#define MCLNF_FIT_ENDS(X)        \
    X(kFitSteps, steps, 0)       \
    X(kFitTarget, target, 1)     \
    X(kFitDiverged, diverged, 2) \
    X(kFitFrozen, frozen, 3)

// Of the operands of `bank_fit`'s products, but those of the first layer.
#define MCLNF_PRECISIONS(X) \
    X(kFp32, fp32, 0)       \
    X(kTf32, tf32, 1)       \
    X(kBf16, bf16, 2)       \
    X(kFp16, fp16, 3)

// The integers of FieldSpec.packed: a head, then kEncodingFields of them per encoding.
#define MCLNF_NET_FIELDS(X)                       \
    X(kNetInDim, in_dim, 0)                       \
    X(kNetOutDim, out_dim, 1)                     \
    X(kNetWidth, width, 2)                        \
    X(kNetHiddenLayers, hidden_layers, 3)         \
    X(kNetActivation, activation, 4)              \
    X(kNetOutputActivation, output_activation, 5) \
    X(kNetSkips, skips, 6)                        \
    X(kNetEncodings, encodings, 7)

#define MCLNF_ENCODING_FIELDS(X)  \
    X(kEncodingKind, kind, 0)     \
    X(kEncodingStart, start, 1)   \
    X(kEncodingDims, dims, 2)     \
    X(kEncodingOption, option, 3) \
    X(kEncodingFrequencies, frequencies, 4)

// The integers of GridLayout.packed: a head, then per level kGridLevelFields of them and its axes.
#define MCLNF_GRID_FIELDS(X)                \
    X(kGridDims, dims, 0)                   \
    X(kGridLevelAxes, axes, 1)              \
    X(kGridFeatures, features, 2)           \
    X(kGridInterpolation, interpolation, 3) \
    X(kGridReduction, reduction, 4)         \
    X(kGridLevelCount, levels, 5)           \
    X(kGridPlacement, placement, 6)

#define MCLNF_GRID_LEVEL_FIELDS(X)   \
    X(kGridLevelCells, cells, 0)     \
    X(kGridLevelEntries, entries, 1) \
    X(kGridLevelTable, table, 2)

// The largest values that both sides accept.
#define MCLNF_LIMITS(X)                         \
    X(kMaxHiddenLayers, hidden_layers, 30)      \
    X(kMaxSphericalDegree, spherical_degree, 4) \
    X(kGridAxes, grid_axes, 4)                  \
    X(kMaxGridLevels, grid_levels, 64)          \
    X(kMaxGridFeatures, grid_features, 4096)

// X(enum, its name in the text of `name_table`, its list).
#define MCLNF_NAME_GROUPS(X)                                  \
    X(Activation, activation, MCLNF_ACTIVATIONS)              \
    X(EncodingKind, encoding, MCLNF_ENCODINGS)                \
    X(GridInterpolation, interpolation, MCLNF_INTERPOLATIONS) \
    X(GridReduction, grid_reduction, MCLNF_GRID_REDUCTIONS)   \
    X(GridTable, grid_table, MCLNF_GRID_TABLES)               \
    X(GridPlacement, grid_placement, MCLNF_GRID_PLACEMENTS)   \
    X(DrawRule, draw_rule, MCLNF_DRAW_RULES)                  \
    X(FitEnd, fit_end, MCLNF_FIT_ENDS)                        \
    X(FitPrecision, precision, MCLNF_PRECISIONS)              \
    X(NetField, net_field, MCLNF_NET_FIELDS)                  \
    X(EncodingField, encoding_field, MCLNF_ENCODING_FIELDS)   \
    X(GridField, grid_field, MCLNF_GRID_FIELDS)               \
    X(GridLevelField, grid_level_field, MCLNF_GRID_LEVEL_FIELDS)

// The numbers of a list count up from 0: they are positions in Python's tuples and in packed lists.
constexpr bool counts_up(std::initializer_list<int> numbers) {
    int expected = 0;
    for (const int number : numbers)
        if (number != expected++) return false;
    return true;
}

#define MCLNF_ENUMERATOR(enumerator, name, number) enumerator = number,
#define MCLNF_NUMBER(enumerator, name, number) number,
#define MCLNF_ENUM(Enum, group, LIST)           \
    enum Enum : int { LIST(MCLNF_ENUMERATOR) }; \
    static_assert(counts_up({LIST(MCLNF_NUMBER)}), #group ": the numbers must count up from 0");
MCLNF_NAME_GROUPS(MCLNF_ENUM)
#undef MCLNF_ENUM
#undef MCLNF_ENUMERATOR

// Plain integers and no enum: they bound arrays and are compared with counts.
#define MCLNF_LIMIT(constant, name, number) constexpr int constant = number;
MCLNF_LIMITS(MCLNF_LIMIT)
#undef MCLNF_LIMIT

// Sizes of the lists.
constexpr int length(std::initializer_list<int> numbers) { return static_cast<int>(numbers.size()); }
constexpr int kActivations = length({MCLNF_ACTIVATIONS(MCLNF_NUMBER)});
constexpr int kEncodings = length({MCLNF_ENCODINGS(MCLNF_NUMBER)});
constexpr int kGridInterpolations = length({MCLNF_INTERPOLATIONS(MCLNF_NUMBER)});
constexpr int kNetFields = length({MCLNF_NET_FIELDS(MCLNF_NUMBER)});
constexpr int kEncodingFields = length({MCLNF_ENCODING_FIELDS(MCLNF_NUMBER)});
constexpr int kGridFields = length({MCLNF_GRID_FIELDS(MCLNF_NUMBER)});
constexpr int kGridLevelFields = length({MCLNF_GRID_LEVEL_FIELDS(MCLNF_NUMBER)});
#undef MCLNF_NUMBER

// The readers of packed lists (net.h, grid_layout.h) rely on these: a skip is a bit of 32, `hashed`,
// `together` and `half_cell` are packed as booleans.
static_assert(kMaxHiddenLayers < 31, "the bits of `skips` are read as those of an int");
static_assert(kGridDense == 0 && kGridHashed == 1 && kGridConcat == 0 && kGridSum == 1 && kGridBorder == 0 &&
                  kGridHalfCell == 1,
              "GridLevel.hashed, GridLayout.together and GridMap.half_cell cross the boundary as 0 and 1");

}  // namespace mclnf
