// fuzz_support.hpp: what the fuzzers share: how a finding is reported, and the choices of their mutators.
#pragma once

#include "../io/io_support.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>

// libFuzzer's own mutation, with its dictionary and what it has seen compared.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace nibble_test {

// Ends the run unless the complaint is empty; libFuzzer keeps the input.
inline void report(const std::string& complaint) {
    if (complaint.empty()) return;
    std::fprintf(stderr, "FINDING: %s\n", complaint.c_str());
    std::abort();
}

// Opens the input with the reader of one format, then with the one for both; reads all that they hand out. They must
// agree, unless the content says that the file is of the other format.
template <class File> void examine(std::span<const std::byte> input, nibble::model_format format) {
    bool opened = false;
    report(open_and_touch<File>(input, opened));
    bool either = false;
    report(open_and_touch<nibble::model_file>(input, either));
    const bool same_format = nibble::detect_model_format(input) == format;
    if (same_format ? opened != either : opened) report("one reader opens the file, the other does not");
}

class choices {
public:
    explicit choices(unsigned seed) : random_(seed) {}
    // 0 .. count - 1
    [[nodiscard]] std::size_t below(std::size_t count) { return random_() % count; }
    [[nodiscard]] bool once_in(std::size_t count) { return below(count) == 0; }
    // A number of a file: small, at a power of two, or around the size of the file.
    [[nodiscard]] std::uint64_t number(std::size_t file_size) {
        const std::uint64_t base = once_in(2)   ? below(9)
                                   : once_in(2) ? std::uint64_t{1} << below(64)
                                   : once_in(2) ? ~std::uint64_t{0} / (1 + below(9))
                                                : file_size;
        return once_in(4) ? base - below(40) : once_in(3) ? base + below(40) : base;
    }

private:
    std::minstd_rand random_;
};

// Writes `file` over the fuzzer's input; a file that does not fit is left as it was and changed as bytes.
inline std::size_t replace_input(const bytes& file, std::uint8_t* data, std::size_t size, std::size_t max_size) {
    if (file.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
    if (!file.empty()) std::memcpy(data, file.data(), file.size());
    return file.size();
}

// libFuzzer's mutation of a part that may grow.
template <class Container> void mutate_part(Container& part, std::size_t longest) {
    const std::size_t size = part.size();
    const std::size_t room = size > longest ? size : longest;
    part.resize(room);
    part.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(part.data()), size, room));
}

} // namespace nibble_test
