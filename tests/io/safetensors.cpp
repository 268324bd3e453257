// safetensors.cpp: safetensors files made by hand, all of them good; damaged_safetensors.cpp has the bad ones.
#include <support/catch.hpp>

#include <nibble/io/safetensors.hpp>

#include "io_support.hpp"

#include <limits>
#include <string>
#include <vector>

namespace nb = nibble;
using nibble_test::bytes;
using nibble_test::safetensors;

TEST_CASE("a valid safetensors file gives its tensors and metadata", "[io]") {
    const nibble_test::exact_copy copy(nibble_test::valid_safetensors());
    nb::safetensors_file file;
    const nb::status s = nb::safetensors_file::parse(copy.view(), file);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(nibble_test::touch(file, copy.view()).empty());
    REQUIRE(file.tensors().size() == 8);
    CHECK(file.tensors()[0].name == "bf16"); // the header's order
    const std::byte* data = copy.view().data() + copy.view().size() - nibble_test::valid_safetensors_data;

    const nb::tensor_info* f32 = file.find("f32");
    REQUIRE(f32 != nullptr);
    CHECK(f32->type == nb::tensor_type::float32);
    CHECK(f32->type_name == "F32");
    CHECK(f32->shape == std::vector<std::size_t>{1, 2, 3});
    CHECK(f32->data == data);
    CHECK(f32->bytes == 24);
    CHECK(file.find("bf16")->type == nb::tensor_type::bfloat16);
    CHECK(file.find("bf16")->data == data + 24);
    const nb::tensor_info* scalar = file.find("scalar");
    REQUIRE(scalar != nullptr); // spelt with an escape
    CHECK(scalar->shape.empty());
    CHECK(scalar->bytes == 2);
    float value = 0.0f;
    REQUIRE(nb::read_matrix(*scalar, {&value, 1, 1}).ok());
    const auto code = nb::detail::load_little<std::uint16_t>(data + 36);
    CHECK(value == std::bit_cast<float>(nb::detail::float_bits_of_f16(code)));
    CHECK(file.find("none")->rows() == 4);
    CHECK(file.find("none")->cols() == 0);
    CHECK(nb::read_matrix(*file.find("none"), {nullptr, 4, 0}).ok());

    const auto is_other = [&](const char* name, const char* type, std::size_t size) {
        const nb::tensor_info* tensor = file.find(name);
        REQUIRE(tensor != nullptr);
        CHECK(tensor->type == nb::tensor_type::other);
        CHECK(tensor->type_name == type);
        CHECK(tensor->bytes == size);
        const nb::status refused = nb::read_matrix(*tensor, {});
        CHECK(refused.code() == nb::status_code::unsupported);
        CHECK(refused.message().find(std::string("type ") + type) != std::string::npos);
    };
    is_other("fp4", "F4", 3);
    is_other("new", "F2_NEW", 3); // not known: as long as the file says
    is_other("i8", "I8", 2);
    CHECK(file.find("__metadata__") == nullptr);

    REQUIRE(file.metadata().size() == 3);
    CHECK(file.metadata_text("format") == "pt");
    CHECK(file.metadata_text("caf\xc3\xa9\n") == "\xf0\x9f\x98\x80 \"q\" \\ / \b\f\r\t");
    CHECK(file.metadata_text("") == "");
    CHECK(!file.metadata_text("none").has_value());
}

TEST_CASE("safetensors files at the edge of the format are read", "[io]") {
    nb::safetensors_file file;
    const bytes nothing = safetensors("{}", 0);
    REQUIRE(nb::safetensors_file::parse(nothing, file).ok());
    CHECK(file.tensors().empty());

    // Names of any text, empty included; tensors in any order; empty ones anywhere between.
    const bytes any = safetensors(R"({"":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},)"
                                  R"("\u0000\u00e9\u20ac":{"dtype":"U8","shape":[0,7],"data_offsets":[1,1]},)"
                                  "\"\xe2\x82\xac\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
                                  R"("z":{"dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[3,3]}}   )",
                                  3);
    const nb::status s = nb::safetensors_file::parse(any, file);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(file.find("") != nullptr);
    CHECK(file.find("\xe2\x82\xac") != nullptr);
    CHECK(file.find(std::string_view("\0\xc3\xa9\xe2\x82\xac", 6)) != nullptr);
    CHECK(file.find("z")->rows() == 0);

    // What mlx writes where there is no metadata.
    const bytes null =
        safetensors(R"({"__metadata__": null ,"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4);
    REQUIRE(nb::safetensors_file::parse(null, file).ok());
    CHECK(file.tensors().size() == 1);
    CHECK(file.metadata().empty());
    CHECK(!file.metadata_text("format").has_value());
    REQUIRE(nb::safetensors_file::parse(safetensors(R"({"__metadata__":null})", 0), file).ok());
    CHECK(file.tensors().empty());

    // A type of every width beside an empty tensor of it and, where a byte holds it, a scalar: listed, none in the way.
    for (const nb::detail::safetensors_type& type : nb::detail::safetensors_types) {
        const std::string name(type.name);
        INFO(name);
        const std::size_t scalar = type.bits % 8 == 0 ? type.bits / 8 : 0;
        std::string header = R"({"a":{"dtype":")" + name + R"(","shape":[8],"data_offsets":[0,)" +
                             std::to_string(type.bits) + R"(]},"empty":{"dtype":")" + name +
                             R"(","shape":[0],"data_offsets":[)" + std::to_string(type.bits) + "," +
                             std::to_string(type.bits) + "]}";
        if (scalar != 0)
            header += R"(,"scalar":{"dtype":")" + name + R"(","shape":[],"data_offsets":[)" +
                      std::to_string(type.bits) + "," + std::to_string(type.bits + scalar) + "]}";
        const bytes one = safetensors(header + "}", type.bits + scalar);
        REQUIRE(nb::safetensors_file::parse(one, file).ok());
        CHECK(nibble_test::touch(file, one).empty());
        CHECK(file.find("a")->type_name == name);
        CHECK(file.find("empty")->is_empty());
        CHECK((scalar == 0) == (file.find("scalar") == nullptr));
    }

    // No rows of more columns than bytes could be counted for: nothing to read.
    const bytes wide = safetensors(R"({"f":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[0,0]},)"
                                   R"("b":{"dtype":"BF16","shape":[0,18446744073709551614],"data_offsets":[0,0]}})",
                                   0);
    REQUIRE(nb::safetensors_file::parse(wide, file).ok());
    REQUIRE(file.tensors().size() == 2);
    for (const nb::tensor_info& tensor : file.tensors())
        CHECK(nb::read_matrix(tensor, {nullptr, 0, tensor.cols()}).ok());
}
