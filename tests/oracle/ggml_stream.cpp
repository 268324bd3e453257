// ggml_stream.cpp: nibble's GGUF tensor types as a filter, for the comparison with Python's gguf package in gguf.py.
//   ggml_stream TYPE decode      reads blocks, writes their values as fp32
//   ggml_stream TYPE reference   reads fp32 values, writes the blocks of ggml_encoding::reference
//   ggml_stream TYPE best        reads fp32 values, writes the blocks of ggml_encoding::best
//   ggml_stream FILE write       writes a GGUF file with metadata of every type, and of 2 x 512 fp32 values read a
//   tensor of
//                                every type, named like it
//   ggml_stream FILE dump        reads a GGUF file, or all parts of one from the first, writes the values of its
//   tensors
//                                in order as fp32
//   ggml_stream FILE split N TO  writes that as TO-00001-of-... with N tensors each
// Exit code 2: not a name or a command.
#include <nibble/io/ggml_quantize.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_writer.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nb = nibble;

namespace {

template <class T> std::vector<T> read_all() {
    std::vector<T> all;
    std::vector<T> part(1 << 16);
    while (const std::size_t count = std::fread(part.data(), sizeof(T), part.size(), stdin))
        all.insert(all.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(count));
    return all;
}

template <class T> int write_all(const std::vector<T>& all) {
    if (std::fwrite(all.data(), sizeof(T), all.size(), stdout) != all.size()) return 1;
    return std::fflush(stdout) == 0 ? 0 : 1;
}

template <nb::ggml_type Type> int decode() {
    const std::vector<std::byte> blocks = read_all<std::byte>();
    const std::size_t cols = blocks.size() / nb::ggml_block_of<Type>.bytes * nb::ggml_block_of<Type>.elements;
    std::vector<float> values(cols);
    const std::size_t shape[] = {1, cols};
    const nb::tensor_info tensor{.name = "stdin",
                                 .type_name = nb::ggml_block_of<Type>.name,
                                 .type = nb::tensor_type::blocks,
                                 .shape = {shape, shape + 2},
                                 .data = blocks.data(),
                                 .bytes = blocks.size(),
                                 .decoder = &nb::detail::ggml_row_decoder<Type>};
    if (!nb::read_matrix(tensor, {values.data(), 1, cols}).ok()) return 1;
    return write_all(values);
}

template <nb::ggml_type Type, nb::ggml_encoding Encoding> int encode() {
    const std::vector<float> values = read_all<float>();
    const auto q = nb::quantize_ggml<Type, Encoding>({values.data(), 1, values.size()});
    std::vector<std::byte> blocks(nb::detail::ggml_row_bytes<Type>(values.size()));
    if (!nb::detail::write_ggml_row<Type>(q, 0, blocks.data())) return 1;
    return write_all(blocks);
}

int complain(const nb::status& s) {
    if (!s.ok()) std::fprintf(stderr, "ggml_stream: %s\n", s.message().c_str());
    return s.ok() ? 0 : 1;
}

int write_file(const char* path) {
    const std::vector<float> values = read_all<float>();
    nb::gguf_writer file(64);
    bool good = values.size() == 1024;
    const auto add = [&](const nb::status& s) { good = complain(s) == 0 && good; };
    add(file.add_metadata("general.architecture", "nibble"));
    add(file.add_metadata("u8", std::uint8_t{200}));
    add(file.add_metadata("i8", std::int8_t{-5}));
    add(file.add_metadata("u16", std::uint16_t{60000}));
    add(file.add_metadata("i16", std::int16_t{-30000}));
    add(file.add_metadata("u32", std::uint32_t{4000000000}));
    add(file.add_metadata("i32", std::int32_t{-2000000000}));
    add(file.add_metadata("u64", std::uint64_t{1} << 63));
    add(file.add_metadata("i64", -(std::int64_t{1} << 40)));
    add(file.add_metadata("f32", 1.5f));
    add(file.add_metadata("f64", 0.1));
    add(file.add_metadata("flag", true));
    const std::int32_t numbers[] = {1, -2, 3};
    const std::string_view texts[] = {"a", "", "\xc3\xa9"};
    add(file.add_array<std::int32_t>("numbers", numbers));
    add(file.add_array<std::string_view>("texts", texts));
    for (const std::string_view type : {"F32", "F16", "BF16"})
        if (good) add(file.add_matrix(type, {values.data(), 2, 512}, type));
    nb::for_each_ggml_type([&]<class Type>() {
        // Python's package knows neither ik_llama.cpp's types nor Q2_0.
        if (good && Type::id < 42)
            add(file.add_matrix(nb::ggml_block_of<Type>.name, {values.data(), 2, 512}, nb::ggml_block_of<Type>.name));
    });
    const std::size_t cube[] = {2, 3, 5};
    std::vector<std::byte> integers(30);
    for (std::size_t i = 0; i < 30; ++i) integers[i] = static_cast<std::byte>(i);
    add(file.add_tensor("I8", "I8", cube, integers));
    if (good) add(file.write(path));
    return good ? 0 : 1;
}

int dump(const char* path) {
    nb::gguf_file file;
    nb::status s = nb::gguf_file::open(path, file);
    for (const nb::tensor_info& tensor : file.tensors()) {
        if (!s.ok()) break;
        std::vector<float> values(tensor.rows() * tensor.cols());
        s = nb::read_matrix(tensor, {values.data(), tensor.rows(), tensor.cols()});
        if (s.ok() && write_all(values) != 0) return 1;
    }
    return complain(s);
}

int split(const char* path, std::size_t tensors, const char* prefix) {
    nb::gguf_file file;
    nb::gguf_writer writer;
    nb::status s = nb::gguf_file::open(path, file);
    for (const nb::gguf_value& value : file.metadata())
        if (s.ok() && value.key != "general.alignment") s = writer.add_metadata(value);
    for (const nb::tensor_info& tensor : file.tensors())
        if (s.ok()) s = writer.add_tensor(tensor);
    if (s.ok()) s = writer.write_parts(prefix, {.max_tensors = tensors});
    return complain(s);
}

} // namespace

int main(int argc, char** argv) {
    const std::string_view name = argc > 1 ? argv[1] : "";
    const std::string_view command = argc > 2 ? argv[2] : "";
    if (command == "write") return write_file(argv[1]);
    if (command == "dump") return dump(argv[1]);
    if (command == "split" && argc == 5) return split(argv[1], std::strtoul(argv[3], nullptr, 10), argv[4]);
    int result = 2;
    nb::for_each_ggml_type([&]<class Type>() {
        if (nb::ggml_block_of<Type>.name != name) return;
        if (command == "decode") result = decode<Type>();
        if (command == "best") result = encode<Type, nb::ggml_encoding::best>();
        if constexpr (nb::has_ggml_reference<Type>)
            if (command == "reference") result = encode<Type, nb::ggml_encoding::reference>();
    });
    if (result == 2)
        std::fprintf(stderr, "ggml_stream: no type %s, or no command %s\n", argc > 1 ? argv[1] : "",
                     argc > 2 ? argv[2] : "");
    return result;
}
