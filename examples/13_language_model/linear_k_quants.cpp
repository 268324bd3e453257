// linear_k_quants.cpp: GGUF's K types, what most files hold.
#include "linear_unit.hpp"

weight_unit k_quant_weights() {
    return weight_unit_of<nb::format_list<nb::named_format<"q4_k", nb::q4_k>, nb::named_format<"q5_k", nb::q5_k>,
                                          nb::named_format<"q6_k", nb::q6_k>>>();
}
