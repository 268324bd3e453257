// packed_support.hpp: files of packed weights with numbers that were changed, and small ones of several schemes.
#pragma once

#include "io_support.hpp"

#include <nibble/io/packed_file.hpp>
#include <nibble/io/packed_file_writer.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/tensor/any_format.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nibble_test {

// What is in the header and in the directory now is what was meant to be: their sizes where they are possible, and
// their checksum.
inline void sign(bytes& file) {
    if (file.size() < 64) return;
    nibble::detail::store_little(file.data() + 16, std::uint64_t{file.size()});
    const auto size = nibble::detail::load_little<std::uint64_t>(file.data() + 32);
    if (size > file.size() - 64) return;
    const auto directory = std::span<const std::byte>(file).subspan(64, static_cast<std::size_t>(size));
    nibble::detail::store_little(file.data() + 40, nibble::detail::packed_checksum(directory));
}

// One scheme of each kind of sections, as inputs are small.
using fuzzed_formats =
    nibble::format_list<nibble::named_format<"int4_g32", nibble::int4_g32>, nibble::named_format<"q2_k", nibble::q2_k>,
                        nibble::named_format<"int3_g32_asym", nibble::int3_g32_asym>,
                        nibble::named_format<"nf4", nibble::nf4_span64_double>,
                        nibble::named_format<"f16", nibble::f16_plain>>;
using fuzzed_weights = nibble::any_packed_view<fuzzed_formats>;

// All of them, in panels of `panel_rows` rows, one file each and one file of all.
[[nodiscard]] inline std::vector<bytes> packed_files(std::size_t panel_rows) {
    std::vector<float> w(3 * 40);
    for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i % 13) - 6.0f;
    std::vector<bytes> files;
    nibble::any_packed<fuzzed_formats> kept[5];
    nibble::packed_file_writer all;
    std::size_t at = 0;
    const auto one = [&]<class S>(std::string_view name) {
        kept[at] = nibble::repack(nibble::pack(nibble::quantize<S>(nibble::matrix_view<const float>(w.data(), 3, 40))),
                                  panel_rows);
        nibble::packed_file_writer writer;
        const nibble::packed<S>& packed = *kept[at++].get_if<S>();
        if (writer.add(name, packed).ok() && all.add(name, packed).ok()) files.push_back(writer.bytes());
    };
    [&]<class... F>(nibble::format_list<F...>) {
        (one.template operator()<typename F::scheme>(F::name), ...);
    }(fuzzed_formats{});
    files.push_back(all.bytes());
    files.push_back(nibble::packed_file_writer().bytes());
    return files;
}

} // namespace nibble_test
