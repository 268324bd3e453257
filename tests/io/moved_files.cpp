// moved_files.cpp: files, writers and layers that were moved from hold nothing, and what was moved is as it was.
#include <support/catch.hpp>
#include <support/contracts.hpp>
#include <support/random.hpp>

#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/model_file.hpp>
#include <nibble/io/quantized_layer.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/safetensors_model.hpp>
#include <nibble/io/safetensors_writer.hpp>
#include <nibble/quantize.hpp>

#include "io_support.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace nb = nibble;

namespace {

template <class... Owners>
constexpr bool move_without_failure =
    ((std::is_nothrow_move_constructible_v<Owners> && std::is_nothrow_move_assignable_v<Owners>)&&...);
template <class... Owners>
constexpr bool copy = ((std::is_copy_constructible_v<Owners> && std::is_copy_assignable_v<Owners>)&&...);
using layer = nb::quantized_layer<nb::format_list<nb::named_format<"int4_g32", nb::int4_g32>>>;
static_assert(move_without_failure<nb::mapped_file, nb::gguf_file, nb::safetensors_file, nb::safetensors_model,
                                   nb::model_file, nb::gguf_writer, nb::safetensors_writer, layer>);
static_assert(copy<nb::gguf_writer, nb::safetensors_writer, layer>);

// Moves `object` in every way; describe gives all that can be seen of one.
template <class Owner, class Describe> void check_moves(Owner object, const Describe& describe) {
    const auto before = describe(object);
    CHECK(before != describe(Owner()));
    Owner made(std::move(object));
    CHECK(describe(made) == before);
    CHECK(describe(object) == describe(Owner()));
    Owner assigned;
    assigned = std::move(made);
    CHECK(describe(assigned) == before);
    CHECK(describe(made) == describe(Owner()));
    Owner& itself = assigned;
    assigned = std::move(itself);
    CHECK(describe(assigned) == before);
    made = std::move(object); // nothing, from what is empty already
    CHECK(describe(made) == describe(Owner()));
    made = std::move(assigned);
    CHECK(describe(made) == before);
}

std::size_t tensors_found(const auto& file) {
    std::size_t found = 0;
    for (const nb::tensor_info& tensor : file.tensors()) found += file.find(tensor.name) == &tensor ? 1u : 0u;
    return found;
}

} // namespace

TEST_CASE("files that were moved from have no tensors", "[io]") {
    const nibble_test::bytes gguf_bytes = nibble_test::valid_gguf().write();
    const nibble_test::bytes safe_bytes = nibble_test::valid_safetensors();
    nb::gguf_file gguf;
    REQUIRE(nb::gguf_file::parse(gguf_bytes, gguf).ok());
    check_moves(std::move(gguf), [](const nb::gguf_file& file) {
        return std::tuple(file.version(), file.tensors().size(), tensors_found(file), file.metadata().size(),
                          file.find("f32") != nullptr, file.metadata_text("text"));
    });
    nb::safetensors_file safe;
    REQUIRE(nb::safetensors_file::parse(safe_bytes, safe).ok());
    check_moves(std::move(safe), [](const nb::safetensors_file& file) {
        return std::tuple(file.tensors().size(), tensors_found(file), file.metadata().size(),
                          file.find("scalar") != nullptr, file.metadata_text("format"));
    });
    for (const nibble_test::bytes* bytes : {&gguf_bytes, &safe_bytes}) {
        nb::model_file either;
        REQUIRE(nb::model_file::parse(*bytes, either).ok());
        check_moves(std::move(either), [](const nb::model_file& file) {
            return std::tuple(file.format(), file.tensors().size(), tensors_found(file), file.as_gguf() != nullptr,
                              file.as_safetensors() != nullptr, file.metadata_text("text"),
                              file.metadata_text("format"));
        });
    }
}

TEST_CASE("writers that were moved from are as new", "[io]") {
    const auto bytes_of = [](const auto& writer) { return writer.bytes(); };
    const std::size_t shape[] = {2, 3};
    nb::gguf_writer gguf(64); // other than the default: a key of the file says so, which must stay with it
    REQUIRE(gguf.add_metadata("general.name", "moved").ok());
    REQUIRE(gguf.add_tensor("t", "F32", shape, nibble_test::bytes(24, std::byte{7})).ok());
    const nb::gguf_writer copied = gguf;
    CHECK(copied.bytes() == gguf.bytes());
    nb::gguf_writer other = gguf;
    check_moves(std::move(gguf), bytes_of);
    // What is written after a move is a whole file of its own.
    const nb::gguf_writer taken = std::move(other);
    REQUIRE(other.add_metadata("general.name", "second").ok());
    REQUIRE(other.add_tensor("t", "F32", shape, nibble_test::bytes(24, std::byte{8})).ok());
    const nibble_test::bytes written = other.bytes();
    nb::gguf_file file;
    REQUIRE(nb::gguf_file::parse(written, file).ok());
    REQUIRE(file.find("t") != nullptr);
    CHECK(file.find("t")->data[0] == std::byte{8});
    CHECK(taken.bytes() == copied.bytes());

    nb::safetensors_writer safe;
    REQUIRE(safe.add_metadata("format", "pt").ok());
    REQUIRE(safe.add("t", "F32", shape, nibble_test::bytes(24, std::byte{7})).ok());
    check_moves(std::move(safe), bytes_of);
}

TEST_CASE("a layer that was moved from is refused", "[io]") {
    const std::vector<float> w = nibble_test::normal_values(4 * 32, 5);
    layer from;
    from.layout = nb::layer_layout::gptq;
    from.weights = nb::quantize<nb::int4_g32>(nb::matrix_view<const float>(w.data(), 4, 32));
    from.columns.resize(32);
    const layer to = std::move(from);
    CHECK(to.weights.rows() == 4);
    CHECK(from.weights.empty());
    std::vector<float> out(w.size());
    CHECK(gemm_test::broken_by([&] { nb::dequantize_layer(from, nb::matrix_view<float>(out.data(), 4, 32)); }) ==
          "dequantize_layer: this layer is empty; read one first");
}
