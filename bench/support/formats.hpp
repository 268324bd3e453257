// formats.hpp: the formats that every benchmark runs: nibble's and, if the build names a header of them, your own.
#pragma once

#include <nibble/scheme/formats.hpp>

// cmake -DNIBBLE_BENCH_FORMATS=/path/to/mine.hpp: a header that defines own_formats, a nibble::format_list.
#if defined(NIBBLE_BENCH_FORMATS)
#include NIBBLE_BENCH_FORMATS
#else
using own_formats = nibble::format_list<>;
#endif

namespace bench {

template <class A, class B> struct joined;
template <class... A, class... B> struct joined<nibble::format_list<A...>, nibble::format_list<B...>> {
    using type = nibble::format_list<A..., B...>;
};

using formats = typename joined<nibble::all_formats, own_formats>::type;

} // namespace bench
