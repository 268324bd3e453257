// gguf_writer.cpp: files that gguf_writer makes, read back; and what it refuses.
#include <support/catch.hpp>
#include <support/random.hpp>

#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_quantized.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include "io_support.hpp"

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <sys/resource.h>
#include <unistd.h>

namespace nb = nibble;

namespace {

nb::gguf_file parsed(std::span<const std::byte> bytes) {
    nb::gguf_file file;
    const nb::status s = nb::gguf_file::parse(bytes, file);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(nibble_test::touch(file, bytes).empty());
    return file;
}

std::vector<float> read(const nb::tensor_info& tensor) {
    std::vector<float> values(tensor.rows() * tensor.cols());
    REQUIRE(nb::read_matrix(tensor, {values.data(), tensor.rows(), tensor.cols()}).ok());
    return values;
}

std::string unused_name() {
    char pattern[] = "/tmp/nibble_gguf_XXXXXX";
    const int file = ::mkstemp(pattern);
    REQUIRE(file >= 0);
    ::close(file);
    ::unlink(pattern);
    return pattern;
}

// What stands under that name goes with the object.
struct temporary_name {
    std::string path = unused_name();
    temporary_name() = default;
    temporary_name(const temporary_name&) = delete;
    temporary_name& operator=(const temporary_name&) = delete;
    ~temporary_name() {
        ::unlink(path.c_str());
        ::unlink((path + ".partial").c_str());
    }
};

bool exists(const std::string& path) {
    return ::access(path.c_str(), F_OK) == 0;
}

} // namespace

TEST_CASE("metadata of every type is written and read", "[io]") {
    const std::uint32_t alignment = GENERATE(8u, 32u, 256u);
    nb::gguf_writer writer(alignment);
    CHECK(writer.add_metadata("u8", std::uint8_t{200}).ok());
    CHECK(writer.add_metadata("i8", std::int8_t{-5}).ok());
    CHECK(writer.add_metadata("u16", std::uint16_t{60000}).ok());
    CHECK(writer.add_metadata("i16", std::int16_t{-30000}).ok());
    CHECK(writer.add_metadata("u32", 4000000000u).ok());
    CHECK(writer.add_metadata("i32", -2000000000).ok());
    CHECK(writer.add_metadata("u64", ~std::uint64_t{0}).ok());
    CHECK(writer.add_metadata("i64", std::int64_t{-1} << 40).ok());
    CHECK(writer.add_metadata("f32", 1.5f).ok());
    CHECK(writer.add_metadata("f64", 0.1).ok());
    CHECK(writer.add_metadata("yes", true).ok());
    CHECK(writer.add_metadata("text", "llama").ok());
    const std::uint16_t numbers[] = {1, 2, 65535};
    CHECK(writer.add_array<std::uint16_t>("numbers", numbers).ok());
    const std::string_view texts[] = {"a", "", "bc"};
    CHECK(writer.add_array<std::string_view>("texts", texts).ok());
    CHECK(writer.add_array<float>("empty", {}).ok());
    const std::vector<std::byte> bytes = writer.bytes();
    CHECK(bytes.size() % alignment == 0);
    const nb::gguf_file file = parsed(bytes);
    CHECK(file.version() == 3);
    CHECK(file.metadata().size() == (alignment == 32 ? 15u : 16u));
    CHECK(file.metadata_integer("u8") == 200);
    CHECK(file.metadata_integer("i8") == -5);
    CHECK(file.metadata_integer("u16") == 60000);
    CHECK(file.metadata_integer("i16") == -30000);
    CHECK(file.metadata_integer("u32") == 4000000000);
    CHECK(file.metadata_integer("i32") == -2000000000);
    CHECK(file.metadata_number("u64") == 0x1p64);
    CHECK(file.metadata_integer("i64") == -(std::int64_t{1} << 40));
    CHECK(file.metadata_number("f32") == 1.5);
    CHECK(file.metadata_number("f64") == 0.1);
    CHECK(file.metadata_flag("yes") == true);
    CHECK(file.metadata_text("text") == "llama");
    REQUIRE(file.metadata_value("numbers") != nullptr);
    CHECK(file.metadata_value("numbers")->element_type == nb::gguf_type::u16);
    CHECK(nb::detail::load_little<std::uint16_t>(file.metadata_value("numbers")->bytes.data() + 4) == 65535);
    CHECK(file.metadata_value("texts")->count == 3);
    CHECK(file.metadata_value("texts")->bytes.size() == 3 * 8 + 3);
    CHECK(file.metadata_value("empty")->count == 0);
    CHECK(file.metadata_value("empty")->element_type == nb::gguf_type::float32);
}

TEST_CASE("a file that was read can be written again as it is", "[io]") {
    nibble_test::gguf_description description = nibble_test::valid_gguf();
    const nibble_test::bytes original = description.write();
    nb::gguf_file file;
    REQUIRE(nb::gguf_file::parse(original, file).ok());
    nb::gguf_writer writer(16);
    std::size_t tensors = 0;
    for (const nb::gguf_value& value : file.metadata())
        CHECK(writer.add_metadata(value).ok() == (value.key != "general.alignment"));
    for (const nb::tensor_info& tensor : file.tensors()) {
        const bool known = tensor.type_name.find("type ") != 0;
        const nb::status s = writer.add_tensor(tensor);
        CHECK(s.ok() == known);
        if (known) ++tensors;
        if (!known) CHECK(s.code() == nb::status_code::unsupported);
    }
    const std::vector<std::byte> bytes = writer.bytes();
    const nb::gguf_file again = parsed(bytes);
    CHECK(again.tensors().size() == tensors);
    for (const nb::tensor_info& tensor : again.tensors()) {
        const nb::tensor_info* before = file.find(tensor.name);
        REQUIRE(before != nullptr);
        CHECK(tensor.shape == before->shape);
        CHECK(tensor.type_name == before->type_name);
        REQUIRE(tensor.bytes == before->bytes);
        CHECK(std::memcmp(tensor.data, before->data, tensor.bytes) == 0);
    }
    for (const nb::gguf_value& value : again.metadata()) {
        const nb::gguf_value* before = file.metadata_value(value.key);
        REQUIRE(before != nullptr);
        CHECK(value.type == before->type);
        CHECK(value.count == before->count);
        REQUIRE(value.bytes.size() == before->bytes.size());
        CHECK((value.bytes.empty() || std::memcmp(value.bytes.data(), before->bytes.data(), value.bytes.size()) == 0));
    }
}

TEST_CASE("matrices of every type are written, and read as they were quantized", "[io]") {
    const std::vector<float> x = nibble_test::normal_values(3 * 512, 1);
    const nb::matrix_view<const float> w(x.data(), 3, 512);
    nb::gguf_writer writer;
    nb::for_each_ggml_type([&]<class Type>() {
        CHECK(writer.add_matrix(nb::ggml_block_of<Type>.name, w, nb::ggml_block_of<Type>.name).ok());
    });
    for (const char* plain : {"F32", "F16", "BF16"}) CHECK(writer.add_matrix(plain, w, plain).ok());
    const temporary_name name;
    REQUIRE(writer.write(name.path.c_str()).ok());
    CHECK(!exists(name.path + ".partial"));
    nb::gguf_file file;
    REQUIRE(nb::gguf_file::open(name.path.c_str(), file).ok());
    CHECK(file.tensors().size() == nb::ggml_types::size + 3);
    CHECK(read(*file.find("F32")) == x);
    for (std::size_t i = 0; i < x.size(); ++i) {
        REQUIRE(read(*file.find("F16"))[i] == nb::f16::decode(nb::f16::encode(x[i])));
        if (i > 20) break;
    }
    nb::gguf_writer again;
    nb::for_each_ggml_type([&]<class Type>() {
        using scheme = typename Type::scheme;
        const nb::tensor_info* tensor = file.find(nb::ggml_block_of<Type>.name);
        REQUIRE(tensor != nullptr);
        INFO(tensor->name);
        CHECK(tensor->type_name == tensor->name);
        CHECK(tensor->shape == std::vector<std::size_t>{3, 512});
        const auto wanted = nb::quantize_ggml<Type>(w);
        nb::quantized<scheme> q;
        const nb::status s = nb::read_quantized(*tensor, q);
        INFO(s.message());
        REQUIRE(s.ok());
        REQUIRE(q.bytes() == wanted.bytes());
        CHECK(std::memcmp(q.row_codes(0), wanted.row_codes(0), q.bytes()) == 0);
        std::vector<float> values(x.size());
        nb::dequantize(q, {values.data(), 3, 512});
        CHECK(read(*tensor) == values);
        // ... and into whatever it is.
        nb::any_quantized<nb::ggml_formats> any;
        REQUIRE(nb::read_quantized(*tensor, any).ok());
        REQUIRE(any.template get_if<scheme>() != nullptr);
        CHECK(std::memcmp(any.template get_if<scheme>()->row_codes(0), q.row_codes(0), q.bytes()) == 0);
        CHECK(again.add_quantized<Type>(tensor->name, q).ok());
        CHECK(again.add_quantized(std::string("any ") + std::string(tensor->name), any).ok());
    });
    const std::vector<std::byte> second = again.bytes();
    const nb::gguf_file other = parsed(second);
    for (const nb::tensor_info& tensor : file.tensors()) {
        if (tensor.type != nb::tensor_type::blocks) continue;
        const nb::tensor_info* copy = other.find(tensor.name);
        REQUIRE(copy != nullptr);
        CHECK((copy->bytes == tensor.bytes && std::memcmp(copy->data, tensor.data, tensor.bytes) == 0));
        CHECK(read(*other.find(std::string("any ") + std::string(tensor.name))) == read(tensor));
    }
}

TEST_CASE("floats as they are go through any_quantized", "[io]") {
    const std::vector<float> x = nibble_test::normal_values(6, 1);
    const nb::matrix_view<const float> w(x.data(), 2, 3);
    nb::gguf_writer writer;
    CHECK(writer.add_quantized("F32", nb::quantize<nb::f32_plain>(w)).ok());
    CHECK(writer.add_quantized("F16", nb::quantize<nb::f16_plain>(w)).ok());
    CHECK(writer.add_quantized("BF16", nb::quantize<nb::bf16_plain>(w)).ok());
    CHECK(writer.add_quantized("int4", nb::quantize<nb::int4_g64>(w)).code() == nb::status_code::unsupported);
    const std::vector<std::byte> bytes = writer.bytes();
    const nb::gguf_file file = parsed(bytes);
    REQUIRE(file.tensors().size() == 3);
    for (const nb::tensor_info& tensor : file.tensors()) {
        CHECK(tensor.name == tensor.type_name);
        nb::any_quantized<nb::ggml_formats> any;
        REQUIRE(nb::read_quantized(tensor, any).ok());
        std::vector<float> values(6);
        any.visit([&](const auto& q) { nb::dequantize(q, {values.data(), 2, 3}); });
        CHECK(values == read(tensor));
    }
}

TEST_CASE("what cannot be in a GGUF file is refused, and nothing is added", "[io]") {
    nb::gguf_writer writer;
    const auto refuses = [&](const nb::status& s, nb::status_code code, const char* part) {
        INFO(s.message());
        CHECK(s.code() == code);
        CHECK(s.message().find(part) != std::string::npos);
    };
    CHECK(writer.add_metadata("k", 1).ok());
    refuses(writer.add_metadata("k", 2), nb::status_code::malformed, "metadata 'k': was added before");
    refuses(writer.add_metadata("", 2), nb::status_code::malformed, "the key is empty");
    refuses(writer.add_metadata("general.alignment", 64u), nb::status_code::malformed, "constructor");
    const std::vector<float> x(512, 1.0f);
    CHECK(writer.add_matrix("w", {x.data(), 2, 256}, "Q4_0").ok());
    refuses(writer.add_matrix("w", {x.data(), 2, 256}, "Q4_0"), nb::status_code::malformed, "was added before");
    refuses(writer.add_matrix("", {x.data(), 2, 256}, "Q4_0"), nb::status_code::malformed, "the name is empty");
    refuses(writer.add_matrix("a", {x.data(), 2, 33}, "Q4_0"), nb::status_code::mismatch,
            "Q4_0 has blocks of 32 elements, which do not divide a row of 33");
    refuses(writer.add_matrix("a", {x.data(), 2, 128}, "Q4_K"), nb::status_code::mismatch, "blocks of 256");
    refuses(writer.add_matrix("a", {x.data(), 2, 256}, "Q4_X"), nb::status_code::unsupported, "'Q4_X' is not known");
    refuses(writer.add_matrix("a", {x.data(), 2, 256}, "IQ2_XXS"), nb::status_code::unsupported,
            "floats cannot be written as IQ2_XXS");
    refuses(writer.add_matrix<nb::ggml_encoding::reference>("a", {x.data(), 2, 256}, "Q4_K"),
            nb::status_code::unsupported, "no fixed rule for Q4_K; use ggml_encoding::best");
    refuses(writer.add_matrix("a", {x.data(), 0, 256}, "Q4_0"), nb::status_code::mismatch, "no floats to quantize");
    const std::size_t square[] = {4, 4};
    const std::size_t five[] = {1, 1, 1, 1, 2};
    const std::size_t endless[] = {std::size_t{1} << 40, std::size_t{1} << 40};
    refuses(writer.add_tensor("a", "F32", square, std::vector<std::byte>(63)), nb::status_code::mismatch,
            "has 63 bytes, but shape and type need 64");
    refuses(writer.add_tensor("a", "F32", five, std::vector<std::byte>(4)), nb::status_code::mismatch,
            "has 4 bytes, but shape and type need 8");
    refuses(writer.add_tensor("a", "F32", {}, {}), nb::status_code::mismatch, "need 4");
    refuses(writer.add_tensor("a", "F32", endless, {}), nb::status_code::mismatch, "overflows");
    nb::quantized<nb::ternary_g256> twos(1, 256);
    twos.row_codes(0)[7] = 0xff; // codes 3
    refuses(writer.add_quantized<nb::ggml_tq1_0>("a", twos), nb::status_code::mismatch, "row 0 holds the value 2");
    CHECK(writer.add_quantized<nb::ggml_tq2_0>("twos", twos).ok());
    CHECK(writer.add_matrix<nb::ggml_encoding::reference>("plain", {x.data(), 2, 256}, "Q4_0").ok());
    refuses(writer.add_quantized("a", nb::any_quantized<nb::ggml_formats>()), nb::status_code::mismatch,
            "nothing in it");
    const std::vector<std::byte> bytes = writer.bytes();
    const nb::gguf_file file = parsed(bytes);
    CHECK(file.tensors().size() == 3);
    CHECK(file.metadata().size() == 1);
}

TEST_CASE("scalars, empty tensors and more than four dimensions are written as they were read", "[io]") {
    nb::gguf_writer writer;
    const std::size_t five[] = {2, 1, 3, 1, 32};
    const std::size_t none[] = {0};
    const std::size_t no_columns[] = {5, 0};
    REQUIRE(writer.add_tensor("scalar", "F32", {}, std::vector<std::byte>(4, std::byte{1})).ok());
    REQUIRE(writer.add_tensor("none", "F32", none, {}).ok());
    REQUIRE(writer.add_tensor("no columns", "IQ2_BN", no_columns, {}).ok());
    REQUIRE(writer.add_tensor("five", "Q4_0", five, std::vector<std::byte>(6 * 18, std::byte{7})).ok());
    REQUIRE(writer.add_matrix("no floats", {nullptr, 0, 3}, "F16").ok());
    REQUIRE(writer.add_quantized("no weights", nb::quantized<nb::q4_0>(0, 32)).ok());
    REQUIRE(writer.add_quantized("no row scales", nb::quantized<nb::ggml_iq2_bn::scheme>(3, 0)).ok());
    REQUIRE(writer.add_tensor("last", "I8", five, std::vector<std::byte>(192, std::byte{9})).ok());
    const std::vector<std::byte> bytes = writer.bytes();
    const nb::gguf_file file = parsed(bytes);
    REQUIRE(file.tensors().size() == 8);
    CHECK(file.find("scalar")->shape.empty());
    CHECK(file.find("five")->rows() == 6);
    nb::gguf_writer copy;
    for (const nb::tensor_info& tensor : file.tensors()) {
        INFO(tensor.name);
        CHECK(tensor.is_empty() == (tensor.name.substr(0, 2) == "no"));
        CHECK(copy.add_tensor(tensor).ok());
    }
    CHECK(copy.bytes() == bytes);
}

TEST_CASE("a GGUF file that cannot be written leaves what was there", "[io]") {
    nb::gguf_writer writer;
    const std::vector<float> x(1 << 16, 1.0f);
    REQUIRE(writer.add_matrix("w", {x.data(), 256, 256}, "F32").ok());
    CHECK(writer.write("").code() == nb::status_code::cannot_open);
    CHECK(writer.write(nullptr).code() == nb::status_code::cannot_open);
    CHECK(writer.write("/no such folder/file.gguf").code() == nb::status_code::cannot_open);
    const temporary_name name;
    std::FILE* old = std::fopen(name.path.c_str(), "w");
    REQUIRE(old != nullptr);
    std::fputs("old", old);
    std::fclose(old);
    // As on a full disk: no file of this program may grow beyond 100 KB.
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    rlimit tight = before;
    tight.rlim_cur = 100000;
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &tight) == 0);
    const nb::status s = writer.write(name.path.c_str());
    ::setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    CHECK(s.code() == nb::status_code::cannot_open);
    CHECK(s.message().find("could not be written") != std::string::npos);
    CHECK(!exists(name.path + ".partial"));
    char text[4] = {};
    old = std::fopen(name.path.c_str(), "r");
    REQUIRE(old != nullptr);
    CHECK(std::fread(text, 1, 4, old) == 3);
    std::fclose(old);
    CHECK(std::string_view(text) == "old");
    CHECK(writer.write(name.path.c_str()).ok());
}
