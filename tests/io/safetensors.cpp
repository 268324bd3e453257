// safetensors.cpp: safetensors files made by hand, good and bad.
#include <support/catch.hpp>

#include <nibble/io/safetensors.hpp>

#include "io_support.hpp"

#include <limits>
#include <string>
#include <vector>

namespace nb = nibble;
using nibble_test::byte_writer;
using nibble_test::bytes;
using nibble_test::safetensors;

namespace {

struct broken {
    const char* what;
    bytes file;
    nb::status_code code;
    const char* fragment; // of the message
};

// One tensor of four bytes; `fields` stands between the braces of its description.
bytes one(std::string_view fields, std::size_t data = 4) {
    return safetensors("{\"w\":{" + std::string(fields) + "}}", data);
}
// A header whose only string is `name`, with its quotes.
bytes named(std::string_view name) {
    return safetensors("{" + std::string(name) + R"(:{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", 0);
}
bytes two(std::string_view first, std::string_view second, std::size_t data) {
    return safetensors(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + std::string(first) +
                           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + std::string(second) + "}}",
                       data);
}

std::vector<broken> broken_files() {
    constexpr auto truncated = nb::status_code::truncated;
    constexpr auto malformed = nb::status_code::malformed;
    const auto spread = [](std::string_view shape, std::string_view type = "F32", std::string_view offsets = "[0,4]") {
        return one("\"dtype\":\"" + std::string(type) + "\",\"shape\":" + std::string(shape) +
                   ",\"data_offsets\":" + std::string(offsets));
    };
    std::string deep = R"("more":)";
    for (int i = 0; i < 40; ++i) deep += "[";
    for (int i = 0; i < 40; ++i) deep += "]";
    const std::string endless(100000, '[');
    return {
        {"no byte", {}, truncated, "header length at byte 0: needs 8 bytes, 0 bytes are there"},
        {"seven bytes", byte_writer().raw("1234567").take(), truncated, "header length at byte 0: needs 8 bytes"},
        {"no header", byte_writer().u64(0).take(), malformed, "header at byte 8: does not begin with '{'"},
        {"a header of 100 MB and a byte", safetensors("{}", 0, 100'000'001), malformed,
         "header length at byte 0: 100000001 is above the limit of 100000000"},
        {"a header of every byte there is", safetensors("{}", 0, ~std::uint64_t{0}), malformed,
         "18446744073709551615 is above the limit"},
        {"a header longer than the file", safetensors("{}", 5, 8), truncated,
         "header length at byte 0: 8, but 7 bytes are left"},
        {"a header that begins with a space", safetensors(" {}", 0), malformed, "header at byte 8: does not begin"},
        {"a header that is an array", safetensors("[]", 0), malformed, "header at byte 8: does not begin"},
        {"a header that never ends", safetensors("{", 0), malformed, "name at byte 9: expected '\"'"},
        {"a comma too many", safetensors("{,}", 0), malformed, "name at byte 9: expected '\"', found ','"},
        {"a comma at the end", safetensors(R"({"__metadata__":{},})", 0), malformed, "name at byte 27: expected '\"'"},
        {"no comma", safetensors(R"({"__metadata__":{}"a":{}})", 0), malformed, "header at byte 26: expected '}'"},
        {"no colon", safetensors(R"({"a" {}})", 0), malformed, "header at byte 13: expected ':', found '{'"},
        {"something after the header", safetensors("{} x", 0), malformed,
         "end of the header at byte 11: expected nothing but spaces, found 'x'"},
        {"a NUL after the header", safetensors(std::string_view("{}\0", 3), 0), malformed, "found '\\x00'"},
        {"a name that is no string", safetensors("{1:{}}", 0), malformed, "name at byte 9: expected '\"', found '1'"},
        {"a name that never ends", safetensors(R"({"abc)", 0), malformed, "found the end of the header"},
        {"a name that ends in an escape", safetensors(R"({"abc\)", 0), malformed, "name at byte 14: expected a JSON"},
        {"an escape that JSON does not have", named(R"("a\x")"), malformed, "expected a JSON escape, found 'x'"},
        {"three hexadecimal digits", named(R"("\u12")"), malformed, "expected a hexadecimal digit, found '\"'"},
        {"half a surrogate pair", named(R"("\ud83d")"), malformed, "half of a surrogate pair"},
        {"the other half", named(R"("\ude00")"), malformed, "half of a surrogate pair"},
        {"a pair of two first halves", named(R"("\ud83d\ud83d")"), malformed, "half of a surrogate pair"},
        {"a line break in a string", named("\"a\nb\""), malformed, "no control character in a string, found '\\x0a'"},
        {"a line break after an escape", named("\"\\t\n\""), malformed, "no control character in a string"},
        {"a byte that is no UTF-8", named("\"\xff\""), malformed, "header at byte 10: is not valid UTF-8"},
        {"an overlong slash", named("\"\xc0\xaf\""), malformed, "is not valid UTF-8"},
        {"a longer overlong slash", named("\"\xe0\x80\xaf\""), malformed, "is not valid UTF-8"},
        {"a surrogate in UTF-8", named("\"\xed\xa0\x80\""), malformed, "is not valid UTF-8"},
        {"a character beyond Unicode", named("\"\xf4\x90\x80\x80\""), malformed, "is not valid UTF-8"},
        {"UTF-8 cut off by the header's end", safetensors("{\xe2\x82", 0), malformed, "is not valid UTF-8"},
        {"a tensor that is no object", safetensors(R"({"w":[]})", 0), malformed,
         "tensor 'w' description at byte 13: expected '{', found '['"},
        {"no dtype", one(R"("shape":[1],"data_offsets":[0,4])"), malformed, "tensor 'w' dtype at byte 9: is missing"},
        {"no shape", one(R"("dtype":"F32","data_offsets":[0,4])"), malformed, "tensor 'w' shape at byte 9: is missing"},
        {"no data_offsets", one(R"("dtype":"F32","shape":[1])"), malformed,
         "tensor 'w' data_offsets at byte 9: is missing"},
        {"nothing about a tensor", one(""), malformed, "tensor 'w' dtype at byte 9: is missing"},
        {"dtype twice", one(R"("dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4])"), malformed,
         "tensor 'w' dtype at byte 28: comes twice"},
        {"shape twice", one(R"("shape":[1],"shape":[1])"), malformed, "tensor 'w' shape at byte 26: comes twice"},
        {"data_offsets twice", one(R"("data_offsets":[0,4],"data_offsets":[0,4])"), malformed, "comes twice"},
        {"a dtype that is a number", one(R"("dtype":32)"), malformed,
         "tensor 'w' dtype at byte 22: expected '\"', found '3'"},
        {"a shape that is a number", spread("4"), malformed, "tensor 'w' shape at byte 36: expected '['"},
        {"a negative extent", spread("[-1]"), malformed,
         "tensor 'w' shape at byte 37: expected an unsigned integer, found '-'"},
        {"an extent of 1.0", spread("[1.0]"), malformed, "expected an integer without fraction or exponent, found '.'"},
        {"an extent of 1e0", spread("[1e0]"), malformed, "expected an integer without fraction or exponent, found 'e'"},
        {"an extent with a leading zero", spread("[01]"), malformed, "expected no leading zero"},
        {"an extent in quotes", spread("[\"1\"]"), malformed, "expected an unsigned integer"},
        {"an extent of 2^64", spread("[18446744073709551616]"), malformed, "the number does not fit in 64 bits"},
        {"an extent of many digits", spread("[" + std::string(5000, '9') + "]"), malformed, "does not fit in 64 bits"},
        {"a comma at the end of a shape", spread("[1,]"), malformed, "expected an unsigned integer, found ']'"},
        {"an element count that overflows", spread("[4294967296,4294967296]"), malformed,
         "tensor 'w' shape at byte 36: the product of its extents overflows"},
        {"an element count that overflows before it is 0", spread("[4294967296,4294967296,0]"), malformed,
         "the product of its extents overflows"},
        {"a size that overflows", spread("[4611686018427387904]"), malformed, "the size in bits overflows"},
        {"one offset", spread("[1]", "F32", "[0]"), malformed, "tensor 'w' data_offsets at byte"},
        {"three offsets", spread("[1]", "F32", "[0,4,4]"), malformed, "expected ']', found ','"},
        {"a negative offset", spread("[1]", "F32", "[-4,0]"), malformed, "expected an unsigned integer"},
        {"offsets in the wrong order", spread("[1]", "F32", "[4,0]"), malformed, "4 is behind 0"},
        {"an offset behind the end", spread("[2]", "F32", "[0,8]"), truncated,
         "data_offsets at byte 55: ends at 8, but the file has 4 bytes of data"},
        {"an offset that overflows", spread("[1]", "F32", "[0,18446744073709551615]"), truncated,
         "ends at 18446744073709551615"},
        {"fewer bytes than the shape needs", spread("[2]"), malformed, "4 bytes, but shape and dtype need 8"},
        {"more bytes than the shape needs", spread("[1]", "F16"), malformed, "4 bytes, but shape and dtype need 2"},
        {"a part of a byte", spread("[7]", "F4"), malformed, "4 bytes, but shape and dtype need 3 and a part of one"},
        {"a repeated name, spelt in another way",
         safetensors(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                     R"("\u0061":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                     2),
         malformed, "tensor 'a' at byte 61: the name comes twice"},
        {"tensors that overlap", two("[0,4]", "[2,6]", 6), malformed,
         "begins at 2, but the tensors before it end at 4: an overlap"},
        {"two tensors on one place", two("[0,4]", "[0,4]", 4), malformed, ": an overlap"},
        {"a hole between tensors", two("[5,9]", "[0,4]", 9), malformed,
         "tensor 'a' data_offsets at byte 54: begins at 5, but the tensors before it end at 4: a hole"},
        {"a hole before the first tensor", two("[1,5]", "[5,9]", 9), malformed, "begins at 1"},
        {"bytes behind the last tensor", two("[0,4]", "[4,8]", 9), malformed,
         "1 bytes behind the last tensor belong to none"},
        {"bytes and no tensor", safetensors("{}", 3), malformed, "data at byte 10: 3 bytes behind the last tensor"},
        {"metadata that is a string", safetensors(R"({"__metadata__":"pt"})", 0), malformed,
         "__metadata__ at byte 24: expected '{', found '\"'"},
        {"metadata that is not text", safetensors(R"({"__metadata__":{"a":1}})", 0), malformed,
         "value in __metadata__ at byte 29: expected '\"', found '1'"},
        {"metadata twice", safetensors(R"({"__metadata__":{},"__metadata__":{}})", 0), malformed,
         "__metadata__ at byte 27: comes twice"},
        {"a repeated key in the metadata", safetensors(R"({"__metadata__":{"k":"1","k":"2"}})", 0), malformed,
         "__metadata__ 'k' at byte 33: the key comes twice"},
        {"an unknown field nested too deeply", one(deep), malformed, "tensor 'w' unknown field at byte"},
        {"an unknown field without end", one("\"more\":" + endless), malformed, "nested too deeply"},
        {"an unknown field that is no JSON", one(R"("more":nul)"), malformed, "expected a JSON value, found 'n'"},
        {"an unknown field with a number that ends early", one(R"("more":-1.)"), malformed, "expected a digit"},
        {"an unknown field with a number that begins with 0", one(R"("more":012)"), malformed,
         "expected '}', found '1'"},
        {"an unknown field with a lone minus", one(R"("more":-)"), malformed, "expected a JSON value, found '}'"},
        {"an unknown field with brackets crossed", one(R"("more":[{]})"), malformed, "unknown field at byte"},
        {"an unknown field with a key of another type", one(R"("more":{1:2})"), malformed, "expected '\"', found '1'"},
        {"a number that is not", one(R"("more":NaN)"), malformed, "expected a JSON value, found 'N'"},
    };
}

} // namespace

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
}

TEST_CASE("a broken safetensors file is refused with field, offset and reason", "[io]") {
    const std::vector<broken> files = broken_files();
    CHECK(files.size() >= 30);
    for (const broken& test : files) {
        const nibble_test::exact_copy copy(test.file);
        nb::safetensors_file file;
        const nb::status s = nb::safetensors_file::parse(copy.view(), file);
        INFO(test.what << ": " << s.message());
        CHECK(s.code() == test.code);
        CHECK(s.message().find(test.fragment) != std::string::npos);
        CHECK(s.message().starts_with("safetensors: "));
        CHECK(s.message().find(" at byte ") != std::string::npos);
        CHECK(file.tensors().empty());
    }
}
