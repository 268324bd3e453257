// cache.cpp: the formats that keys and values can be in.
#include "cache_unit.hpp"

namespace {
using formats =
    nb::format_list<nb::named_format<"f32", nb::f32_plain>, nb::named_format<"f16", nb::f16_plain>,
                    nb::named_format<"int8", nb::int8_channel>, nb::named_format<"int8_g32", nb::int8_g32>,
                    nb::named_format<"int4_g32", nb::int4_g32>, nb::named_format<"mxfp8_e4m3", nb::mxfp8_e4m3>>;
} // namespace

std::unique_ptr<sequence_cache> make_cache(std::string_view keys, std::string_view values, const cache_shape& shape) {
    return std::make_unique<cache_of<formats, formats>>(keys, values, shape);
}

std::string cache_formats() {
    std::string names;
    nb::for_each_format(formats{}, [&]<class Format>() { (names += ' ') += Format::name; });
    return names;
}
