// damaged_files.cpp: files cut short and files with random damage must give an error or a valid subset, never more.
// Build with the sanitizers to see all of it: every file lies in a heap block of exactly its size.
#include <support/catch.hpp>

#include <nibble/io/model_file.hpp>

#include "io_support.hpp"

#include <random>
#include <span>
#include <string>
#include <string_view>

namespace nb = nibble;
using nibble_test::bytes;

namespace {

// Every beginning of a file; returns how many of them opened.
template <class File> std::size_t cut(const bytes& whole) {
    std::size_t good = 0;
    for (std::size_t length = 0; length <= whole.size(); ++length) {
        bool opened = false;
        const std::string complaint = nibble_test::open_and_touch<File>(std::span(whole).first(length), opened);
        INFO("length " << length);
        CHECK(complaint == "");
        good += opened;
    }
    return good;
}

// `rounds` copies with a few bytes changed; `tokens` are what the format itself is made of.
template <class File>
void damage(const bytes& whole, std::size_t header, std::string_view tokens, std::uint32_t seed, int rounds) {
    std::mt19937 random(seed);
    int good = 0;
    for (int round = 0; round < rounds; ++round) {
        bytes file = whole;
        const std::uint32_t changes = 1 + random() % 4;
        for (std::uint32_t i = 0; i < changes; ++i) {
            const std::size_t at = random() % header;
            switch (random() % 5) {
            case 0:
                file[at] ^= static_cast<std::byte>(1u << (random() % 8));
                break;
            case 1:
                file[at] = static_cast<std::byte>(random() & 255);
                break;
            case 2:
                file[at] = static_cast<std::byte>(tokens[random() % tokens.size()]);
                break;
            case 3:
                file[at] = file[random() % header];
                break;
            default: // a run of 1 to 8 equal bytes: large numbers, long strings
                for (std::size_t j = at; j < at + 1 + random() % 8 && j < header; ++j)
                    file[j] = random() % 2 != 0 ? std::byte{0xff} : std::byte{0};
            }
        }
        if (random() % 8 == 0) file.resize(random() % (file.size() + 1));
        if (random() % 8 == 0) file.insert(file.end(), random() % 40, std::byte{7});
        bool opened = false;
        const std::string complaint = nibble_test::open_and_touch<File>(file, opened);
        INFO("seed " << seed << ", round " << round);
        CHECK(complaint == "");
        good += opened;
    }
    // Were all of them refused at the first look, this test would see nothing.
    CHECK(good > rounds / 100);
    CHECK(good < rounds);
}

} // namespace

TEST_CASE("a GGUF file cut short is refused or a valid subset", "[io]") {
    const bytes whole = nibble_test::valid_gguf().write();
    CHECK(cut<nb::gguf_file>(whole) == 1); // its last byte belongs to its last tensor
    CHECK(cut<nb::model_file>(whole) == 1);
}

TEST_CASE("a safetensors file cut short is refused", "[io]") {
    const bytes whole = nibble_test::valid_safetensors();
    CHECK(cut<nb::safetensors_file>(whole) == 1);
    CHECK(cut<nb::model_file>(whole) == 1);
}

TEST_CASE("random damage to a GGUF file does no harm", "[io]") {
    const bytes whole = nibble_test::valid_gguf().write();
    const std::size_t header = whole.size() - nibble_test::valid_gguf().data.size();
    constexpr std::string_view tokens("GUF\0\1\2\3\4\5\6\7\10\11\12\13\14\36\40\177\200\377", 21);
    damage<nb::gguf_file>(whole, header, tokens, 1, 4000);
    damage<nb::model_file>(whole, header, std::string_view("\0\1\4\10\11\40", 6), 2, 2000);
}

TEST_CASE("random damage to a safetensors file does no harm", "[io]") {
    const bytes whole = nibble_test::valid_safetensors();
    const std::size_t header = whole.size() - nibble_test::valid_safetensors_data;
    damage<nb::safetensors_file>(whole, header, "{}[]\":,\\u0123456789-+.eE tfnF", 3, 4000);
    damage<nb::model_file>(whole, header, "{}[]\":,\\0123456789", 4, 2000);
}
