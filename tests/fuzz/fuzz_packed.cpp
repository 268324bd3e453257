// fuzz_packed.cpp: libFuzzer's entry for files of packed weights: what opens can be looked at, multiplied and written
// anew, whatever stands in its panels.
#include "../io/packed_support.hpp"
#include "fuzz_support.hpp"

#include <nibble/any.hpp>
#include <nibble/io/packed_file.hpp>
#include <nibble/io/packed_file_writer.hpp>

#include <cstring>
#include <new>
#include <string>
#include <vector>

namespace nb = nibble;
using nibble_test::bytes;
using nibble_test::choices;

namespace {

// The input where a mapping has it, and not a byte more of memory that may be read.
class aligned_copy {
public:
    aligned_copy(const std::uint8_t* data, std::size_t size) : size_(size) {
        memory_ = static_cast<std::byte*>(::operator new(size == 0 ? 1 : size, std::align_val_t{64}));
        std::memcpy(memory_, data, size);
    }
    aligned_copy(const aligned_copy&) = delete;
    aligned_copy& operator=(const aligned_copy&) = delete;
    ~aligned_copy() { ::operator delete(memory_, std::align_val_t{64}); }
    [[nodiscard]] std::span<const std::byte> view() const { return {memory_, size_}; }

private:
    std::byte* memory_;
    std::size_t size_;
};

// Every byte of the panels takes part in a product and in the unpacked form.
template <class S> std::string touch_weights(const nb::packed_view<S>& w, std::size_t file_size) {
    if (w.rows() > file_size || w.cols() > file_size) return w.rows() == 0 ? "" : "more rows or columns than bytes";
    if (w.rows() == 0 || w.cols() == 0) return "";
    const nb::packed<S> narrow = nb::repack(w, 16);
    const std::vector<float> x(w.cols(), 1.0f);
    std::vector<float> y(w.rows());
    nb::gemm(nb::matrix_view<const float>(x.data(), 1, w.cols()), narrow,
             nb::matrix_view<float>(y.data(), 1, w.rows()));
    if (w.panel_rows() == 16)
        nb::gemm(nb::matrix_view<const float>(x.data(), 1, w.cols()), w, nb::matrix_view<float>(y.data(), 1, w.rows()));
    return "";
}

std::string touch(const nb::packed_file& file, std::size_t file_size) {
    nb::packed_file_writer writer;
    std::size_t added = 0;
    for (const nb::packed_entry& e : file.entries()) {
        if (file.find(e.name) != &e) return "a matrix that is not found by its name";
        nibble_test::fuzzed_weights w;
        const nb::status s = nb::view_packed(e, w);
        if (!s.ok()) {
            if (!s.message().starts_with("packed: matrix '") || !w.empty()) return "a refusal without a name";
            continue;
        }
        std::string complaint;
        w.visit([&]<class S>(const nb::packed_view<S>& view) {
            complaint = touch_weights(view, file_size);
            if (!writer.add(e.name, view).ok()) complaint = "a matrix that cannot be written";
            nb::packed<S> copy;
            if (nb::read_packed(e, copy).ok() != nb::verify_packed(e).ok()) complaint = "a copy that is not verified";
        });
        if (!complaint.empty()) return complaint;
        ++added;
    }
    const bytes again = writer.bytes();
    nb::packed_file written;
    if (!nb::packed_file::parse(again, written).ok() || written.entries().size() != added)
        return "a written file that does not open";
    return "";
}

} // namespace

// Numbers of headers and entries, and checksums that are right again: without them nothing behind is ever reached.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    choices random(seed);
    if (size < 64 || random.once_in(8)) return LLVMFuzzerMutate(data, size, max_size);
    bytes file(reinterpret_cast<const std::byte*>(data), reinterpret_cast<const std::byte*>(data) + size);
    const std::size_t words = std::min<std::size_t>(size / 4, 16 + 3 * 24);
    if (random.once_in(3)) {
        const std::size_t changed = LLVMFuzzerMutate(data, size, max_size);
        file.assign(reinterpret_cast<const std::byte*>(data), reinterpret_cast<const std::byte*>(data) + changed);
    } else if (random.once_in(2) && size >= 8 * (words / 2)) {
        nb::detail::store_little(file.data() + 8 * random.below(words / 2), random.number(size));
    } else {
        nb::detail::store_little(file.data() + 4 * random.below(words),
                                 static_cast<std::uint32_t>(random.number(size)));
    }
    if (!random.once_in(10)) nibble_test::sign(file);
    return nibble_test::replace_input(file, data, size, max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const aligned_copy copy(data, size);
    nb::packed_file file;
    const nb::status s = nb::packed_file::parse(copy.view(), file);
    if (!s.ok()) {
        if (!s.message().starts_with("packed: ")) nibble_test::report("a refusal without its format");
        return 0;
    }
    nibble_test::report(touch(file, size));
    return 0;
}
