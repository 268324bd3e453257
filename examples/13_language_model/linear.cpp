// linear.cpp: weights in floating point, as checkpoints come; and the list of all units.
#include "linear_unit.hpp"

weight_unit block_weights();
weight_unit k_quant_weights();
weight_unit checkpoint_weights();

namespace {
using formats = nb::format_list<nb::named_format<"f32", nb::f32_plain>, nb::named_format<"f16", nb::f16_plain>,
                                nb::named_format<"bf16", nb::bf16_plain>>;
} // namespace

std::vector<weight_unit>& weight_units() {
    static std::vector<weight_unit> units{weight_unit_of<formats>(), block_weights(), k_quant_weights(),
                                          checkpoint_weights()};
    return units;
}

std::string weight_formats() {
    std::string names;
    for (const weight_unit& unit : weight_units()) names += unit.names();
    return names;
}
