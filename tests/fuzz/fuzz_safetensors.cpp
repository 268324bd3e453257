// fuzz_safetensors.cpp: libFuzzer's entry for the safetensors reader, and mutations that keep its length right.
#include "fuzz_support.hpp"

#include <nibble/io/quantization_config.hpp>
#include <nibble/io/read_layer.hpp>
#include <nibble/io/safetensors.hpp>

#include <bit>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nb = nibble;
using nibble_test::byte_writer;
using nibble_test::bytes;
using nibble_test::choices;

namespace {

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

// A random position of the header where `wanted` says yes; its size if there is none.
template <class Wanted> std::size_t some_position(const std::string& header, choices& random, const Wanted& wanted) {
    if (header.empty()) return 0;
    const std::size_t start = random.below(header.size());
    for (std::size_t i = 0; i < header.size(); ++i) {
        const std::size_t at = (start + i) % header.size();
        if (wanted(at)) return at;
    }
    return header.size();
}

// Another number where one stands.
void change_number(std::string& header, choices& random, std::size_t file_size) {
    std::size_t begin = some_position(header, random, [&](std::size_t i) { return is_digit(header[i]); });
    if (begin == header.size()) return;
    std::size_t end = begin;
    while (begin > 0 && is_digit(header[begin - 1])) --begin;
    while (end < header.size() && is_digit(header[end])) ++end;
    header.replace(begin, end - begin, std::to_string(random.number(file_size)));
}

// A copy of one part of the JSON in front of another, or in its place. Parts end at the signs of JSON.
void copy_part(std::string& header, choices& random) {
    const auto sign = [&](std::size_t i) {
        return std::string_view("{}[],:\"").find(header[i]) != std::string_view::npos;
    };
    const std::size_t from = some_position(header, random, sign);
    const std::size_t to = some_position(header, random, sign);
    if (from == header.size()) return;
    std::size_t end = from + 1;
    for (std::size_t parts = 1 + random.below(20); end < header.size() && parts > 0; ++end) parts -= sign(end);
    const std::string part = header.substr(from, end - from);
    header.replace(to, random.once_in(2) ? 0 : part.size(), part);
}

// A file as it should be: tensors of known types in any order of their data.
bytes well_formed(choices& random) {
    struct tensor {
        std::string type;
        std::string shape;
        std::size_t size;
    };
    std::vector<tensor> tensors(random.below(6));
    std::vector<std::size_t> order;
    for (tensor& t : tensors) {
        const auto& type = nb::detail::safetensors_types[random.below(std::size(nb::detail::safetensors_types))];
        t.type = type.name;
        std::size_t bits = type.bits;
        for (std::size_t rank = random.below(4); rank > 0; --rank) {
            const std::size_t extent = random.below(5) * (random.once_in(2) ? 4 : 1);
            bits *= extent;
            t.shape += (t.shape.empty() ? "" : ",") + std::to_string(extent);
        }
        t.size = (bits + 7) / 8;
        order.insert(order.begin() + static_cast<std::ptrdiff_t>(random.below(order.size() + 1)), order.size());
    }
    std::vector<std::size_t> begin(tensors.size());
    std::size_t end = 0;
    for (const std::size_t i : order) begin[i] = std::exchange(end, end + tensors[i].size);
    std::string header = random.once_in(3) ? R"({"__metadata__":{"format":"pt","k":"v"})" : "{";
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        header += header.size() > 1 ? "," : "";
        header += "\"t" + std::to_string(i) + R"(":{"dtype":")" + tensors[i].type + R"(","shape":[)" +
                  tensors[i].shape + R"(],"data_offsets":[)" + std::to_string(begin[i]) + "," +
                  std::to_string(begin[i] + tensors[i].size) + "]}";
    }
    return nibble_test::safetensors(header + "}", end);
}

// A few formats of every layout: small groups, as inputs are small.
template <int Bits, class Granularity, nb::element Scale>
using with_zeros = nb::detail::integer_format<nb::unsigned_integer<Bits>, true, Granularity, Scale>;
using signed_codes = nb::integer<4, nb::integer_range::full>;
using signed_bytes = nb::integer<8, nb::integer_range::full>;
using formats = nb::join_formats<
    nb::format_list<with_zeros<2, nb::per_channel, nb::f32>, with_zeros<3, nb::per_channel, nb::bf16>,
                    with_zeros<3, nb::per_channel, nb::f32>, with_zeros<4, nb::per_channel, nb::f16>,
                    with_zeros<8, nb::per_channel, nb::f16>, with_zeros<8, nb::per_channel, nb::f32>,
                    with_zeros<4, nb::per_group<32>, nb::f16>, with_zeros<5, nb::per_group<32>, nb::f16>,
                    nb::detail::integer_format<signed_codes, false, nb::per_group<32>, nb::f16>,
                    nb::detail::integer_format<signed_codes, false, nb::per_channel, nb::bf16>,
                    nb::detail::integer_format<signed_bytes, false, nb::per_channel, nb::f16>,
                    nb::detail::integer_format<signed_bytes, false, nb::per_tensor, nb::f32>,
                    nb::named_format<"e4m3_tile", nb::scheme<nb::e4m3, nb::per_tile<128, 128>, nb::scale<nb::f32>>>,
                    nb::named_format<"e5m2_channel", nb::scheme<nb::e5m2, nb::per_channel, nb::scale<nb::bf16>>>,
                    nb::named_format<"nf4", nb::bitsandbytes_scheme<nb::nf4, 64>>,
                    nb::named_format<"nf4_nested", nb::bitsandbytes_nested_scheme<nb::nf4, 64>>,
                    nb::named_format<"fp4", nb::bitsandbytes_scheme<nb::bnb_fp4, 64>>>,
    nb::nvfp4_formats, nb::mxfp4_formats, nb::mxfp8_formats, nb::llm_int8_formats,
    nb::format_list<nb::named_format<"int4_g32_min", nb::int4_g32_min>>>;
using fuzzed_layer = nb::quantized_layer<formats>;

std::vector<float> weights_of(const fuzzed_layer& layer) {
    const std::size_t rows = layer.weights.rows();
    const std::size_t cols = layer.weights.cols();
    std::vector<float> values(rows * cols);
    nb::dequantize_layer(layer, nb::matrix_view<float>(values.data(), rows, cols));
    return values;
}

// What tells a reader the size of the layer's groups: a file written anew has no index of them.
nb::layer_options size_of_groups(const fuzzed_layer& layer) {
    nb::layer_options options;
    layer.weights.visit([&]<class S>(const nb::quantized<S>&) {
        constexpr nb::detail::layer_format format = nb::detail::format_of<S>;
        if (format.granularity == nb::detail::layer_granularity::group)
            options.group_size = static_cast<int>(format.size);
        if (format.granularity == nb::detail::layer_granularity::channel) options.group_size = -1;
    });
    return options;
}

// A layer is refused by its name, or its weights are as many as the file can hold, and the same when written and read.
std::string touch_layer(const nb::safetensors_file& file, const nb::stored_layer& stored, std::size_t file_size) {
    if (nb::detect_layout(file, stored.prefix) != stored.layout) return "a layer of two layouts";
    fuzzed_layer layer;
    nb::status s = nb::read_layer(file, stored.prefix, layer);
    if (!s.ok()) s = nb::read_layer(file, stored.prefix, layer, {.group_size = 32});
    if (!s.ok()) {
        const bool named = s.message().find(nb::detail::in_quotes(stored.prefix).substr(0, 80)) != std::string::npos ||
                           s.message().find("tensor '") != std::string::npos;
        return named && layer.weights.empty() ? "" : "a refused layer that is not named, or is there: " + s.message();
    }
    if (layer.weights.rows() > 16 * file_size / layer.weights.cols()) return "a layer larger than the file";
    const std::vector<float> values = weights_of(layer);

    nb::safetensors_writer writer;
    nb::layer_options as_read;
    as_read.gptq.write_qzeros = false;
    if (!nb::write_layer(layer, stored.prefix, writer, as_read).ok())
        return ""; // not everything that is read can be written
    const std::vector<std::byte> written = writer.bytes();
    nb::safetensors_file again;
    fuzzed_layer same;
    if (!nb::safetensors_file::parse(written, again).ok()) return "a written file that does not open";
    if (!nb::read_layer(again, stored.prefix, same, size_of_groups(layer)).ok())
        return "a written layer that is refused";
    const std::vector<float> second = weights_of(same);
    if (second.size() != values.size()) return "a written layer of another size";
    for (std::size_t i = 0; i < values.size(); ++i)
        if (std::bit_cast<std::uint32_t>(values[i]) != std::bit_cast<std::uint32_t>(second[i]) &&
            !(std::isnan(values[i]) && std::isnan(second[i])))
            return "a written layer of other weights: " + std::string(layer.weights.name());
    return "";
}

} // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    choices random(seed);
    if (random.once_in(4)) return LLVMFuzzerMutate(data, size, max_size);
    std::uint64_t length = size < 8 ? 0 : nb::detail::load_little<std::uint64_t>(reinterpret_cast<std::byte*>(data));
    if (size < 8 || length > size - 8 || random.once_in(20))
        return nibble_test::replace_input(well_formed(random), data, size, max_size);
    std::string header(reinterpret_cast<const char*>(data) + 8, static_cast<std::size_t>(length));
    std::string rest(reinterpret_cast<const char*>(data) + 8 + header.size(), size - 8 - header.size());
    const auto& type = nb::detail::safetensors_types[random.below(std::size(nb::detail::safetensors_types))];
    std::size_t at = 0;
    switch (random.below(8)) {
    case 0:
    case 1:
        nibble_test::mutate_part(header, max_size - 8 - rest.size());
        break;
    case 2:
        change_number(header, random, size);
        break;
    case 3:
        change_number(header, random, rest.size());
        break;
    case 4:
        copy_part(header, random);
        break;
    case 5:
        rest.resize(random.once_in(2) ? random.below(64) : rest.size() + random.below(16), 'x');
        break;
    case 6: // one type of the format for another
        at = header.find("\"dtype\"", random.below(header.size() + 1));
        at = at == std::string::npos ? at : header.find('"', at + 7);
        if (at != std::string::npos) header.replace(at + 1, header.find('"', at + 1) - at - 1, std::string(type.name));
        break;
    default:
        nibble_test::mutate_part(rest, 256);
    }
    length = random.once_in(40) ? random.number(size) : header.size();
    return nibble_test::replace_input(byte_writer().u64(length).raw(header).raw(rest).take(), data, size, max_size);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> input(reinterpret_cast<const std::byte*>(data), size);
    // The JSON of a header stands for that of a configuration too.
    nb::layer_options options;
    const nb::status told = nb::parse_quantization_config(
        {reinterpret_cast<const char*>(data) + (size < 8 ? 0 : 8), size < 8 ? size : size - 8}, options);
    if (!told.ok() && !told.message().starts_with("configuration: "))
        nibble_test::report("a refusal without its format");
    nibble_test::examine<nb::safetensors_file>(input, nb::model_format::safetensors);

    const nibble_test::exact_copy copy(input);
    nb::safetensors_file file;
    if (!nb::safetensors_file::parse(copy.view(), file).ok()) return 0;
    for (const nb::stored_layer& layer : nb::list_layers(file)) nibble_test::report(touch_layer(file, layer, size));
    return 0;
}
