// gguf_split.cpp: GGUF models in several files: written, found beside the first, put together, and refused if they do
// not belong together.
#include <support/catch.hpp>

#include <nibble/io/gguf_writer.hpp>
#include <nibble/io/model_file.hpp>

#include "io_support.hpp"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <vector>

#include <unistd.h>

namespace nb = nibble;
using nibble_test::byte_writer;
using nibble_test::bytes;
using nibble_test::entry_of;
using nibble_test::gguf_description;
using nibble_test::text_entry;

namespace {

class folder {
public:
    folder() : path_(std::filesystem::temp_directory_path() / ("nibble_split_" + std::to_string(::getpid()))) {
        std::filesystem::remove_all(path_);
        std::filesystem::create_directory(path_);
    }
    folder(const folder&) = delete;
    folder& operator=(const folder&) = delete;
    ~folder() { std::filesystem::remove_all(path_); }
    [[nodiscard]] std::string operator/(const std::string& name) const { return (path_ / name).string(); }

private:
    std::filesystem::path path_;
};

void put(const std::string& path, const bytes& data) {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
    REQUIRE(file.flush());
}

// Seven tensors of 1 to 7 numbers, "t0" to "t6", number i of tensor t is 10 t + i.
nb::gguf_writer seven_tensors(std::uint32_t alignment = 32) {
    nb::gguf_writer writer(alignment);
    REQUIRE(writer.add_metadata("general.architecture", "llama").ok());
    REQUIRE(writer.add_metadata("llama.block_count", std::uint32_t{7}).ok());
    for (std::size_t t = 0; t < 7; ++t) {
        std::vector<std::byte> data;
        for (std::size_t i = 0; i <= t; ++i) {
            const auto value = static_cast<float>(10 * t + i);
            const auto* raw = reinterpret_cast<const std::byte*>(&value);
            data.insert(data.end(), raw, raw + 4);
        }
        const std::size_t shape[] = {t + 1};
        REQUIRE(writer.add_tensor("t" + std::to_string(t), "F32", shape, data).ok());
    }
    return writer;
}
template <class File> void check_seven(const File& file) {
    REQUIRE(file.tensors().size() == 7);
    for (std::size_t t = 0; t < 7; ++t) {
        const nb::tensor_info* tensor = file.find("t" + std::to_string(t));
        REQUIRE(tensor == &file.tensors()[t]);
        std::vector<float> values(t + 1);
        REQUIRE(nb::read_matrix(*tensor, {values.data(), 1, t + 1}).ok());
        for (std::size_t i = 0; i <= t; ++i) CHECK(values[i] == static_cast<float>(10 * t + i));
    }
    CHECK(file.find("t7") == nullptr);
    CHECK(file.metadata_text("general.architecture") == "llama");
}

// A part by hand.
struct part_facts {
    std::uint16_t index;
    std::uint16_t count;
    std::int32_t tensors;
    std::vector<std::string> names;
    std::string architecture = "";
};
gguf_description describe(const part_facts& facts) {
    return nibble_test::split_part(facts.index, facts.count, facts.tensors, facts.names, facts.architecture);
}
nb::status parse_parts(const std::vector<bytes>& parts, nb::gguf_file& file) {
    std::vector<std::span<const std::byte>> views(parts.begin(), parts.end());
    return nb::gguf_file::parse(views, file);
}

} // namespace

TEST_CASE("a model is written in parts and read from the first", "[io]") {
    const folder place;
    const nb::gguf_writer writer = seven_tensors();
    struct {
        nb::gguf_split split;
        std::vector<std::size_t> tensors; // of each part
    } const cases[] = {
        {{.max_tensors = 3}, {3, 3, 1}},
        {{.max_tensors = 1}, {1, 1, 1, 1, 1, 1, 1}},
        {{.max_tensors = 7}, {7}},
        {{}, {7}},
        {{.max_bytes = 96}, {3, 3, 1}}, // each takes 32 bytes
        {{.max_bytes = 95}, {2, 2, 2, 1}},
        {{.max_bytes = 1}, {1, 1, 1, 1, 1, 1, 1}},
        {{.max_tensors = 2, .max_bytes = 96}, {2, 2, 2, 1}},
        {{.max_tensors = 4, .metadata_alone = true}, {0, 4, 3}},
    };
    for (const auto& test : cases) {
        const std::size_t count = test.tensors.size();
        INFO(count << " parts, at most " << test.split.max_tensors << " tensors, " << test.split.max_bytes << " bytes");
        std::vector<bytes> parts;
        REQUIRE(writer.parts(test.split, parts).ok());
        REQUIRE(parts.size() == count);
        const std::string prefix = place / "model";
        REQUIRE(writer.write_parts(prefix.c_str(), test.split).ok());
        for (std::size_t i = 0; i < count; ++i) {
            nb::gguf_file part;
            REQUIRE(nb::gguf_file::parse(parts[i], part).ok());
            CHECK(part.tensors().size() == test.tensors[i]);
            CHECK((part.metadata_value("llama.block_count") != nullptr) == (i == 0));
            std::ifstream written(nb::gguf_part_name(prefix, i, count), std::ios::binary);
            const std::string text{std::istreambuf_iterator<char>(written), {}};
            REQUIRE(text.size() == parts[i].size());
            CHECK(std::memcmp(text.data(), parts[i].data(), text.size()) == 0);
            if (count == 1) continue;
            CHECK(part.metadata_integer("split.no") == static_cast<std::int64_t>(i));
            CHECK(part.metadata_integer("split.count") == static_cast<std::int64_t>(count));
            CHECK(part.metadata_integer("split.tensors.count") == 7);
            CHECK(part.metadata_value("split.no")->type == nb::gguf_type::u16);
            CHECK(part.metadata_value("split.count")->type == nb::gguf_type::u16);
            CHECK(part.metadata_value("split.tensors.count")->type == nb::gguf_type::i32);
        }
        nb::model_file model;
        const nb::status s = nb::model_file::open(nb::gguf_part_name(prefix, 0, count).c_str(), model);
        INFO(s.message());
        REQUIRE(s.ok());
        check_seven(model);
        REQUIRE(model.as_gguf() != nullptr);
        CHECK(model.as_gguf()->metadata().size() == 2); // nothing says that it was split
        CHECK(model.as_gguf()->metadata_value("split.count") == nullptr);
        CHECK(model.as_gguf()->metadata_integer("llama.block_count") == 7);
        nb::gguf_file in_memory;
        REQUIRE(parse_parts(parts, in_memory).ok());
        check_seven(in_memory);
    }
}

TEST_CASE("parts keep their alignment and unknown types, and live as long as the file", "[io]") {
    const folder place;
    const std::string prefix = place / "m";
    REQUIRE(seven_tensors(128).write_parts(prefix.c_str(), {.max_tensors = 2}).ok());
    nb::gguf_file kept;
    {
        nb::gguf_file file;
        REQUIRE(nb::gguf_file::open(nb::gguf_part_name(prefix, 0, 4).c_str(), file).ok());
        for (const nb::tensor_info& tensor : file.tensors())
            CHECK(reinterpret_cast<std::uintptr_t>(tensor.data) % 128 == 0); // mappings begin with a page
        kept = std::move(file);
        CHECK(file.tensors().empty());
    }
    check_seven(kept);

    gguf_description first = describe({0, 2, 2, {"a"}, "llama"}), second = describe({1, 2, 2, {"b"}});
    first.tensors[0].type = 4711;
    second.tensors[0].type = 4712;
    const std::vector<bytes> parts{first.write(), second.write()};
    nb::gguf_file odd;
    REQUIRE(parse_parts(parts, odd).ok());
    CHECK(odd.find("a")->type_name == "type 4711");
    CHECK(odd.find("b")->type_name == "type 4712");
}

TEST_CASE("parts of any names are opened together", "[io]") {
    const folder place;
    std::vector<bytes> parts;
    REQUIRE(seven_tensors().parts({.max_tensors = 4}, parts).ok());
    REQUIRE(parts.size() == 2);
    const std::string one = place / "one", two = place / "two.bin";
    put(one, parts[0]);
    put(two, parts[1]);
    const char* const paths[] = {one.c_str(), two.c_str()};
    const char* const turned[] = {two.c_str(), one.c_str()};
    nb::gguf_file file;
    REQUIRE(nb::gguf_file::open(paths, file).ok());
    check_seven(file);
    nb::gguf_file other;
    CHECK(nb::gguf_file::open(turned, other).code() == nb::status_code::mismatch);
    CHECK(nb::gguf_file::open(std::span(paths).first(1), other).code() == nb::status_code::mismatch);
    CHECK(nb::gguf_file::open(std::span<const char* const>(), other).code() == nb::status_code::mismatch);
    CHECK(other.tensors().empty());
    // By itself its name does not say where the others are.
    const nb::status s = nb::gguf_file::open(one.c_str(), other);
    CHECK(s.code() == nb::status_code::mismatch);
    CHECK(s.message() == one + ": gguf: this is the first of 2 parts; its name must end in -00001-of-00002.gguf, by "
                               "which the others are found, or be given with theirs");
}

TEST_CASE("a set of parts that is not one is refused", "[io]") {
    const folder place;
    const std::string prefix = place / "m";
    const std::string path = nb::gguf_part_name(prefix, 0, 3);
    REQUIRE(seven_tensors().write_parts(prefix.c_str(), {.max_tensors = 3}).ok());
    const std::string second = nb::gguf_part_name(prefix, 1, 3);
    nb::model_file model;
    nb::status s = nb::model_file::open(second.c_str(), model);
    CHECK(s.code() == nb::status_code::mismatch);
    CHECK(s.message() == second + ": gguf: this is part 2 of 3; open the first, ...-00001-of-00003.gguf");
    std::filesystem::remove(second);
    s = nb::model_file::open(path.c_str(), model);
    CHECK(s.code() == nb::status_code::cannot_open);
    CHECK(s.message() == path + ": part 2 of 3: cannot open " + second + ": there is no such file");
    put(second, byte_writer().raw("GGUF").u32(3).take());
    s = nb::model_file::open(path.c_str(), model);
    CHECK(s.code() == nb::status_code::truncated);
    CHECK(s.message().find("part 2 of 3: gguf: tensor count at byte 8") != std::string::npos);
    CHECK(model.tensors().empty());

    struct {
        const char* what;
        part_facts first;
        part_facts second;
        nb::status_code code;
        std::string message;
    } const sets[] = {
        {"a good one", {0, 2, 3, {"a", "b"}, "llama"}, {1, 2, 3, {"c"}, "llama"}, nb::status_code::ok, ""},
        {"the first twice",
         {0, 2, 2, {"a"}, "llama"},
         {0, 2, 2, {"b"}},
         nb::status_code::mismatch,
         "part 2 of 2: says that it is part 1 of 2"},
        {"of three parts",
         {0, 2, 2, {"a"}, "llama"},
         {1, 3, 2, {"b"}},
         nb::status_code::mismatch,
         "part 2 of 2: says that it is part 2 of 3"},
        {"not split",
         {0, 2, 2, {"a"}, "llama"},
         {0, 1, 2, {"b"}},
         nb::status_code::mismatch,
         "part 2 of 2: says that it is part 1 of 1"},
        {"another count of tensors",
         {0, 2, 2, {"a"}, "llama"},
         {1, 2, 3, {"b"}},
         nb::status_code::mismatch,
         "part 2 of 2: counts 3 tensors in all parts, the first part 2"},
        {"tensors missing",
         {0, 2, 3, {"a"}, "llama"},
         {1, 2, 3, {"b"}},
         nb::status_code::mismatch,
         "gguf: the 2 parts have 2 tensors, 'split.tensors.count' says 3"},
        {"tensors too many",
         {0, 2, 1, {"a"}, "llama"},
         {1, 2, 1, {"b"}},
         nb::status_code::mismatch,
         "gguf: the 2 parts have 2 tensors, 'split.tensors.count' says 1"},
        {"a tensor twice",
         {0, 2, 2, {"a"}, "llama"},
         {1, 2, 2, {"a"}},
         nb::status_code::malformed,
         "gguf: tensor 'a' comes twice, in two of the parts"},
        {"of another model",
         {0, 2, 2, {"a"}, "llama"},
         {1, 2, 2, {"b"}, "qwen2"},
         nb::status_code::mismatch,
         "part 2 of 2: metadata 'general.architecture' differ from those of the first part: it is a part of another "
         "model"},
        {"a negative count",
         {0, 2, -1, {"a"}, "llama"},
         {1, 2, -1, {"b"}},
         nb::status_code::malformed,
         "gguf: metadata 'split.tensors.count': must be an integer that is not negative, in every part"},
        {"a number beyond the count",
         {2, 2, 2, {"a"}, "llama"},
         {1, 2, 2, {"b"}},
         nb::status_code::malformed,
         "gguf: metadata 'split.no': of 2 parts each must have an integer from 0 to 1"},
    };
    for (const auto& test : sets) {
        INFO(test.what);
        nb::gguf_file file;
        const std::vector<bytes> parts{describe(test.first).write(), describe(test.second).write()};
        const nb::status refused = parse_parts(parts, file);
        CHECK(refused.code() == test.code);
        CHECK(refused.message() == test.message);
        CHECK(file.tensors().size() == (test.code == nb::status_code::ok ? 3u : 0u));
    }
    // A key is missing, or is no integer.
    for (const std::size_t missing : {1u, 2u, 3u})
        for (const bool wrong : {false, true}) {
            INFO(missing << " " << wrong);
            gguf_description last = describe({1, 2, 2, {"b"}});
            const auto entry = last.entries.begin() + static_cast<std::ptrdiff_t>(missing - 1);
            if (wrong)
                *entry = text_entry(entry->key, "1");
            else
                last.entries.erase(entry);
            nb::gguf_file file;
            const nb::status refused = parse_parts({describe({0, 2, 2, {"a"}, "llama"}).write(), last.write()}, file);
            // Without a count it is a whole file, so part 1 of 1.
            CHECK(refused.code() == (missing == 2 && !wrong ? nb::status_code::mismatch : nb::status_code::malformed));
            CHECK(file.tensors().empty());
        }
    gguf_description many = describe({0, 0, 1, {"a"}, "llama"});
    many.entries[2] = entry_of("split.count", 10, std::uint64_t{1} << 40);
    nb::gguf_file file;
    s = parse_parts({many.write()}, file);
    CHECK(s.code() == nb::status_code::malformed);
    CHECK(s.message() == "gguf: metadata 'split.count': 1099511627776 parts, there can be 65535");
    // Of none or one part: whole.
    for (const std::uint16_t count : {std::uint16_t{0}, std::uint16_t{1}}) {
        REQUIRE(parse_parts({describe({0, count, 9, {"a"}, "llama"}).write()}, file).ok());
        CHECK(file.tensors().size() == 1);
    }
}

TEST_CASE("a writer leaves the keys of a split to itself", "[io]") {
    nb::gguf_writer writer;
    for (const char* key : {"split.no", "split.count", "split.tensors.count"})
        CHECK(writer.add_metadata(key, std::uint16_t{1}).code() == nb::status_code::malformed);
    CHECK(writer.write_parts("", {}).code() == nb::status_code::cannot_open);
    CHECK(writer.write_parts(nullptr, {}).code() == nb::status_code::cannot_open);
    std::vector<bytes> parts;
    REQUIRE(writer.parts({.max_tensors = 1, .metadata_alone = true}, parts).ok());
    CHECK(parts.size() == 1);
    CHECK(parts[0] == writer.bytes());
}

TEST_CASE("damaged parts are refused or read as what they still are", "[io]") {
    std::vector<bytes> parts;
    REQUIRE(seven_tensors().parts({.max_tensors = 3}, parts).ok());
    std::uint32_t state = 1;
    const auto random = [&](std::uint32_t below) {
        state = state * 1664525u + 1013904223u;
        return (state >> 8) % below;
    };
    int good = 0;
    for (int round = 0; round < 6000; ++round) {
        std::vector<bytes> damaged = parts;
        bytes& part = damaged[random(3)];
        if (random(8) == 0)
            part.resize(random(static_cast<std::uint32_t>(part.size())));
        else
            for (std::uint32_t i = 0; i <= random(3); ++i)
                part[random(static_cast<std::uint32_t>(part.size()))] = static_cast<std::byte>(random(256));
        std::vector<nibble_test::exact_copy> copies(damaged.begin(), damaged.end());
        std::vector<std::span<const std::byte>> views;
        for (const nibble_test::exact_copy& copy : copies) views.push_back(copy.view());
        nb::gguf_file file;
        const nb::status s = nb::gguf_file::parse(views, file);
        CHECK(s.ok() == !file.tensors().empty());
        if (!s.ok()) CHECK(!s.message().empty());
        good += s.ok();
        unsigned sum = 0;
        for (const nb::tensor_info& tensor : file.tensors()) {
            bool inside = false;
            for (const auto& view : views) inside = inside || nibble_test::inside(view, tensor.data, tensor.bytes);
            CHECK(inside);
            for (std::size_t i = 0; i < tensor.bytes; ++i) sum += static_cast<unsigned>(tensor.data[i]);
            for (const char c : tensor.name) sum += static_cast<unsigned char>(c);
        }
        CHECK(sum + 1 > 0);
    }
    CHECK(good > 100);
    CHECK(good < 5900);
}
