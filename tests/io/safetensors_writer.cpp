// safetensors_writer.cpp: files that the writer makes, read back, and what it refuses.
#include "support/catch.hpp"

#include <nibble/io/safetensors.hpp>
#include <nibble/io/safetensors_writer.hpp>

#include "io_support.hpp"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

namespace nb = nibble;

namespace {

nibble_test::bytes some(std::size_t count) {
    nibble_test::bytes data(count);
    for (std::size_t i = 0; i < count; ++i) data[i] = static_cast<std::byte>(i * 7 + 1);
    return data;
}
nb::status add(nb::safetensors_writer& writer, std::string_view name, std::string_view type,
               std::vector<std::size_t> shape, std::size_t count) {
    return writer.add(name, type, shape, some(count));
}

} // namespace

TEST_CASE("A safetensors file is read as it was written") {
    nb::safetensors_writer writer;
    REQUIRE(writer.add_metadata("format", "pt").ok());
    REQUIRE(writer.add_metadata("caf\xc3\xa9 \"\\\n", "\x01").ok());
    REQUIRE(add(writer, "bytes", "U8", {3}, 3).ok());
    REQUIRE(add(writer, "half\"\\", "F16", {2, 1}, 4).ok());
    REQUIRE(add(writer, "none", "F32", {0, 4}, 0).ok());
    REQUIRE(add(writer, "wide", "F64", {1, 1, 2}, 16).ok());
    REQUIRE(add(writer, "scalar", "I32", {}, 4).ok());
    REQUIRE(add(writer, "six", "F6_E2M3", {4}, 3).ok());
    const auto all = writer.bytes();
    const nibble_test::exact_copy copy(all);
    nb::safetensors_file file;
    const nb::status s = nb::safetensors_file::parse(copy.view(), file);
    INFO(s.message());
    REQUIRE(s.ok());
    CHECK(nibble_test::touch(file, copy.view()) == "");
    CHECK(file.metadata_text("format") == "pt");
    CHECK(file.metadata_text("caf\xc3\xa9 \"\\\n") == "\x01");
    REQUIRE(file.tensors().size() == 6);
    const auto same = [&](std::string_view name, std::string_view type, std::vector<std::size_t> shape,
                          std::size_t count) {
        const nb::tensor_info* tensor = file.find(name);
        REQUIRE(tensor != nullptr);
        CHECK(tensor->type_name == type);
        CHECK(tensor->shape == shape);
        const auto data = some(count);
        CHECK(nibble_test::bytes(tensor->data, tensor->data + tensor->bytes) == data);
    };
    same("bytes", "U8", {3}, 3);
    same("half\"\\", "F16", {2, 1}, 4);
    same("none", "F32", {0, 4}, 0);
    same("wide", "F64", {1, 1, 2}, 16);
    same("scalar", "I32", {}, 4);
    same("six", "F6_E2M3", {4}, 3);
    // Every tensor stands on a multiple of its element's size.
    const auto place = [&](std::string_view name) {
        return static_cast<std::size_t>(file.find(name)->data - copy.view().data());
    };
    CHECK(place("wide") % 8 == 0);
    CHECK(place("scalar") % 4 == 0);
    CHECK(place("half\"\\") % 2 == 0);
}

TEST_CASE("A safetensors file without tensors") {
    nb::safetensors_writer writer;
    nb::safetensors_file file;
    const auto nothing = writer.bytes();
    CHECK(nb::safetensors_file::parse(nothing, file).ok());
    REQUIRE(writer.add_metadata("a", "b").ok());
    const auto text = writer.bytes();
    REQUIRE(nb::safetensors_file::parse(text, file).ok());
    CHECK(file.metadata_text("a") == "b");
}

TEST_CASE("The safetensors writer refuses what no reader could read") {
    nb::safetensors_writer writer;
    REQUIRE(add(writer, "a", "F32", {1}, 4).ok());
    REQUIRE(writer.add_metadata("a", "b").ok());
    const auto before = writer.bytes();
    const auto refuses = [&](const nb::status& s, nb::status_code code, const char* message) {
        CHECK(s.code() == code);
        CHECK(s.message() == message);
    };
    refuses(add(writer, "a", "F32", {1}, 4), nb::status_code::malformed, "safetensors: tensor 'a': was added before");
    refuses(add(writer, "__metadata__", "F32", {1}, 4), nb::status_code::malformed,
            "safetensors: tensor '__metadata__': this name is taken by the format");
    refuses(add(writer, "\xff", "F32", {1}, 4), nb::status_code::malformed,
            "safetensors: tensor '\\xff': the name is not valid UTF-8");
    refuses(add(writer, "b", "Q4", {1}, 4), nb::status_code::unsupported,
            "safetensors: tensor 'b': type 'Q4' is not one of the format's");
    refuses(add(writer, "b", "F32", {2}, 4), nb::status_code::mismatch,
            "safetensors: tensor 'b': has 4 bytes, but shape and type need 8");
    refuses(add(writer, "b", "F4", {3}, 2), nb::status_code::mismatch,
            "safetensors: tensor 'b': shape and type make no whole number of bytes");
    refuses(add(writer, "b", "F32", {std::size_t{1} << 62, 8}, 0), nb::status_code::mismatch,
            "safetensors: tensor 'b': shape and type make no whole number of bytes");
    refuses(writer.add_metadata("a", "c"), nb::status_code::malformed,
            "safetensors: __metadata__ 'a': was added before");
    refuses(writer.add_metadata("c", "\x80"), nb::status_code::malformed,
            "safetensors: __metadata__ 'c': is not valid UTF-8");
    CHECK(writer.bytes() == before);
}

TEST_CASE("A safetensors file on disk") {
    const std::filesystem::path folder = std::filesystem::temp_directory_path();
    const std::string path = (folder / "nibble_safetensors_writer.safetensors").string();
    nb::safetensors_writer writer;
    REQUIRE(add(writer, "a", "U8", {5}, 5).ok());
    REQUIRE(writer.write(path.c_str()).ok());
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::open(path.c_str(), file).ok());
    REQUIRE(file.find("a") != nullptr);
    CHECK(nibble_test::bytes(file.find("a")->data, file.find("a")->data + 5) == some(5));
    // Written again under a mapping: who has the old file open keeps it.
    nb::safetensors_writer other;
    REQUIRE(add(other, "b", "U8", {1}, 1).ok());
    REQUIRE(other.write(path.c_str()).ok());
    CHECK(nibble_test::bytes(file.find("a")->data, file.find("a")->data + 5) == some(5));
    REQUIRE(nb::safetensors_file::open(path.c_str(), file).ok());
    CHECK(file.find("b") != nullptr);
    CHECK(!std::filesystem::exists(path + ".partial"));
    std::filesystem::remove(path);
    CHECK(writer.write("").code() == nb::status_code::cannot_open);
    CHECK(writer.write((folder / "no such folder" / "x").string().c_str()).code() == nb::status_code::cannot_open);
    CHECK(writer.write(nullptr).message() == "no file name given");
}
