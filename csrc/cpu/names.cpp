// The table of names as text, so that Python can compare it with its own when it loads the library.
#include "names.h"

#include <torch/csrc/stable/library.h>

#include <string>

namespace mclnf {

namespace {

// "group.name=number" of every entry, joined by ";": "activation.none=0;activation.relu=1;...". Text and not
// a dictionary: an op's schema has strings and lists of integers, and two lists could get out of step.
std::string name_table() {
    std::string text;
    const auto add = [&](const char* group, const char* name, int number) {
        if (!text.empty()) text += ';';
        text += std::string(group) + '.' + name + '=' + std::to_string(number);
    };
    const char* group = nullptr;
#define MCLNF_ADD(enumerator, name, number) add(group, #name, enumerator);
#define MCLNF_ADD_GROUP(Enum, label, LIST) \
    group = #label;                        \
    LIST(MCLNF_ADD)
    MCLNF_NAME_GROUPS(MCLNF_ADD_GROUP)
    MCLNF_ADD_GROUP(, limit, MCLNF_LIMITS)
#undef MCLNF_ADD_GROUP
#undef MCLNF_ADD
    return text;
}

}  // namespace

}  // namespace mclnf

STABLE_TORCH_LIBRARY_IMPL(mclnf_fast, CompositeExplicitAutograd, m) {
    m.impl("name_table", TORCH_BOX(&mclnf::name_table));
}
