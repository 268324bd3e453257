// gguf_quantized.cpp: tensors of GGUF files as quantized weights: what is refused, and a product of what was read.
#include <support/catch.hpp>
#include <support/random.hpp>

#include <nibble/any.hpp>
#include <nibble/gemm.hpp>
#include <nibble/io/gguf.hpp>
#include <nibble/io/gguf_quantized.hpp>
#include <nibble/io/gguf_writer.hpp>
#include <nibble/pack.hpp>
#include <nibble/quantize.hpp>
#include <nibble/scheme/ggml_formats.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace nb = nibble;

namespace {

using two_formats = nb::format_list<nb::named_format<"q4_0", nb::q4_0>, nb::named_format<"q4_k", nb::q4_k>>;

// A tensor of zeros as a reader would describe it.
template <nb::ggml_type Type> struct zeros_tensor {
    std::vector<std::byte> data;
    nb::tensor_info tensor;
    zeros_tensor(std::size_t rows, std::size_t cols) : data(rows * nb::detail::ggml_row_bytes<Type>(cols)) {
        tensor = {.name = "w",
                  .type_name = nb::ggml_block_of<Type>.name,
                  .type = nb::tensor_type::blocks,
                  .shape = {rows, cols},
                  .data = data.data(),
                  .bytes = data.size(),
                  .decoder = &nb::detail::ggml_row_decoder<Type>};
    }
};

void refuses(const nb::status& s, nb::status_code code, std::string_view part) {
    INFO(s.message());
    CHECK(s.code() == code);
    CHECK(s.message().find("tensor 'w'") != std::string::npos);
    CHECK(s.message().find(part) != std::string::npos);
}

} // namespace

TEST_CASE("a tensor that is not as long as its type needs is refused", "[io]") {
    nb::for_each_ggml_type([&]<class Type>() {
        INFO(nb::ggml_block_of<Type>.name);
        const std::size_t cols = 512;
        zeros_tensor<Type> good(3, cols);
        nb::quantized<typename Type::scheme> q;
        nb::any_quantized<nb::ggml_formats> any;
        std::vector<float> values(3 * cols);
        REQUIRE(nb::read_quantized(good.tensor, q).ok());
        REQUIRE(nb::read_quantized(good.tensor, any).ok());
        REQUIRE(nb::read_matrix(good.tensor, {values.data(), 3, cols}).ok());
        const auto all_refuse = [&](const nb::tensor_info& tensor) {
            nb::quantized<typename Type::scheme> other;
            nb::any_quantized<nb::ggml_formats> empty;
            std::vector<float> floats(tensor.rows() * tensor.cols());
            refuses(nb::read_quantized(tensor, other), nb::status_code::mismatch, "");
            refuses(nb::read_quantized(tensor, empty), nb::status_code::mismatch, "");
            refuses(nb::read_matrix(tensor, {floats.data(), tensor.rows(), tensor.cols()}), nb::status_code::mismatch,
                    "");
            CHECK(other.rows() == 0);
            CHECK(empty.empty());
        };
        for (const std::size_t change : {std::size_t{1}, std::size_t{nb::ggml_block_of<Type>.bytes}}) {
            nb::tensor_info tensor = good.tensor;
            tensor.bytes -= change; // cut off
            all_refuse(tensor);
            tensor.bytes += 2 * change;
            all_refuse(tensor);
        }
        nb::tensor_info tensor = good.tensor;
        tensor.shape = {3, cols + 1}; // no whole number of blocks
        all_refuse(tensor);
        tensor.shape = {4, cols};
        all_refuse(tensor);
        tensor.shape = {3, cols, std::size_t{1} << 60}; // too many weights for a number
        nb::quantized<typename Type::scheme> other;
        refuses(nb::read_quantized(tensor, other), nb::status_code::mismatch, "");
        tensor = good.tensor;
        tensor.data = nullptr;
        all_refuse(tensor);
        tensor = good.tensor;
        tensor.decoder = nullptr;
        refuses(nb::read_quantized(tensor, other), nb::status_code::unsupported, "no scheme carries type");
        refuses(nb::read_matrix(tensor, {values.data(), 3, cols}), nb::status_code::mismatch, "");
    });
}

TEST_CASE("a row that is no whole number of blocks is said to be that", "[io]") {
    zeros_tensor<nb::ggml_q4_k> w(1, 256);
    w.tensor.shape = {1, 288};
    nb::quantized<nb::q4_k> q;
    refuses(nb::read_quantized(w.tensor, q), nb::status_code::mismatch,
            "Q4_K has blocks of 256 weights, which do not divide a row of 288");
}

TEST_CASE("types without a scheme, and schemes that were not asked for, are refused", "[io]") {
    const zeros_tensor<nb::ggml_q4_k> w(2, 256);
    nb::quantized<nb::q4_0> q(1, 32);
    refuses(nb::read_quantized(w.tensor, q), nb::status_code::mismatch, "type Q4_K has another scheme");
    CHECK(q.rows() == 1); // as it was
    nb::any_quantized<nb::format_list<nb::named_format<"q4_0", nb::q4_0>>> any;
    refuses(nb::read_quantized(w.tensor, any), nb::status_code::unsupported,
            "the list of formats lacks the scheme of Q4_K");
    for (const char* type : {"IQ2_XXS", "IQ3_S", "IQ1_S", "IQ4_KT", "I8", "type 4711"}) {
        const nb::tensor_info tensor{.name = "w", .type_name = type, .shape = {1, 256}};
        refuses(nb::read_quantized(tensor, q), nb::status_code::unsupported,
                std::string("no scheme carries type ") + type);
        refuses(nb::read_quantized(tensor, any), nb::status_code::unsupported, "write the file with one of the types");
        refuses(nb::read_matrix(tensor, {}), nb::status_code::unsupported, type);
    }
}

TEST_CASE("rows of blocks can be read one by one", "[io]") {
    const std::vector<float> x = nibble_test::normal_values(5 * 256, 9);
    nb::gguf_writer writer;
    nb::for_each_ggml_type([&]<class Type>() {
        REQUIRE(writer.add_matrix(nb::ggml_block_of<Type>.name, {x.data(), 5, 256}, nb::ggml_block_of<Type>.name).ok());
    });
    const std::vector<std::byte> bytes = writer.bytes();
    nb::gguf_file file;
    REQUIRE(nb::gguf_file::parse(bytes, file).ok());
    for (const nb::tensor_info& tensor : file.tensors()) {
        INFO(tensor.name);
        std::vector<float> all(5 * 256);
        REQUIRE(nb::read_matrix(tensor, {all.data(), 5, 256}).ok());
        std::vector<float> some(3 * 300, -1.0f);
        REQUIRE(nb::read_rows(tensor, 1, {some.data(), 3, 256, 300}).ok());
        for (std::size_t i = 0; i < 3; ++i)
            for (std::size_t j = 0; j < 300; ++j)
                REQUIRE(some[300 * i + j] == (j < 256 ? all[256 * (i + 1) + j] : -1.0f));
        CHECK(nb::read_rows(tensor, 3, {some.data(), 3, 256, 300}).code() == nb::status_code::mismatch);
    }
}

TEST_CASE("blocks of every type go to panels and back byte for byte", "[io]") {
    const std::vector<float> x = nibble_test::normal_values(19 * 512, 10);
    nb::for_each_ggml_type([&]<class Type>() {
        INFO(nb::ggml_block_of<Type>.name);
        nb::gguf_writer writer;
        REQUIRE(writer.add_matrix("w", {x.data(), 19, 512}, nb::ggml_block_of<Type>.name).ok());
        const std::vector<std::byte> bytes = writer.bytes();
        nb::gguf_file file;
        REQUIRE(nb::gguf_file::parse(bytes, file).ok());
        const nb::tensor_info& tensor = *file.find("w");
        nb::quantized<typename Type::scheme> q;
        REQUIRE(nb::read_quantized(tensor, q).ok());
        const nb::quantized<typename Type::scheme> back = nb::unpack(nb::pack(q));
        const std::size_t row_bytes = nb::detail::ggml_row_bytes<Type>(512);
        std::vector<std::byte> written(19 * row_bytes);
        for (std::size_t i = 0; i < 19; ++i)
            REQUIRE(nb::detail::write_ggml_row<Type>(back, i, written.data() + i * row_bytes));
        REQUIRE(tensor.bytes == written.size());
        CHECK(std::memcmp(written.data(), tensor.data, written.size()) == 0);
    });
}

TEST_CASE("ternary weights in TQ1_0 and in TQ2_0 give the same products and become each other", "[io]") {
    constexpr std::size_t rows = 37, cols = 768, tokens = 5;
    const std::vector<float> w = nibble_test::normal_values(rows * cols, 23);
    const std::vector<float> x = nibble_test::normal_values(tokens * cols, 24);
    const auto q = nb::quantize<nb::ternary_g256>(nb::matrix_view<const float>(w.data(), rows, cols));
    nb::gguf_writer writer;
    REQUIRE(writer.add_quantized<nb::ggml_tq1_0>("TQ1_0", q).ok());
    REQUIRE(writer.add_quantized<nb::ggml_tq2_0>("TQ2_0", q).ok());
    const std::vector<std::byte> bytes = writer.bytes();
    nb::gguf_file file;
    REQUIRE(nb::gguf_file::parse(bytes, file).ok());
    const nb::tensor_info& by_five = *file.find("TQ1_0");
    const nb::tensor_info& by_four = *file.find("TQ2_0");
    REQUIRE(by_five.bytes == rows * cols / 256 * 54);
    REQUIRE(by_four.bytes == rows * cols / 256 * 66);
    const auto packed_of = [](const nb::tensor_info& tensor) {
        nb::quantized<nb::ternary_g256> read;
        REQUIRE(nb::read_quantized(tensor, read).ok());
        return nb::pack(read);
    };
    const auto product = [&](const nb::packed<nb::ternary_g256>& p) {
        std::vector<float> y(tokens * rows);
        nb::gemm({x.data(), tokens, cols}, p, {y.data(), tokens, rows});
        return y;
    };
    const auto five = packed_of(by_five);
    const auto four = packed_of(by_four);
    const std::vector<float> y = product(four);
    CHECK(product(five) == y);
    CHECK(product(nb::pack(q)) == y);
    double power = 0.0;
    for (const float value : y) power += std::fabs(static_cast<double>(value));
    CHECK(power > 0.0);
    // Out of the panels of one into the blocks of the other.
    const auto blocks = [&]<class Type>(const nb::packed<nb::ternary_g256>& from) {
        const auto plain = nb::unpack(from);
        std::vector<std::byte> out(rows * nb::detail::ggml_row_bytes<Type>(cols));
        for (std::size_t i = 0; i < rows; ++i)
            REQUIRE(nb::detail::write_ggml_row<Type>(plain, i, out.data() + i * out.size() / rows));
        return out;
    };
    CHECK(std::memcmp(blocks.template operator()<nb::ggml_tq2_0>(five).data(), by_four.data, by_four.bytes) == 0);
    CHECK(std::memcmp(blocks.template operator()<nb::ggml_tq1_0>(four).data(), by_five.data, by_five.bytes) == 0);
}

TEST_CASE("what was read from a GGUF file is packed and multiplied", "[io]") {
    constexpr std::size_t rows = 37;
    constexpr std::size_t cols = 512;
    constexpr std::size_t tokens = 3;
    const std::vector<float> w = nibble_test::normal_values(rows * cols, 21);
    const std::vector<float> x = nibble_test::normal_values(tokens * cols, 22);
    for (const char* type : {"Q4_0", "Q4_K"}) {
        INFO(type);
        nb::gguf_writer writer;
        REQUIRE(writer.add_matrix("w", {w.data(), rows, cols}, type).ok());
        const std::vector<std::byte> bytes = writer.bytes();
        nb::gguf_file file;
        REQUIRE(nb::gguf_file::parse(bytes, file).ok());
        nb::any_quantized<two_formats> weights;
        REQUIRE(nb::read_quantized(*file.find("w"), weights).ok());
        std::vector<float> values(rows * cols);
        REQUIRE(nb::read_matrix(*file.find("w"), {values.data(), rows, cols}).ok());
        std::vector<float> y(tokens * rows);
        nb::gemm({x.data(), tokens, cols}, nb::pack(weights), {y.data(), tokens, rows});
        for (std::size_t m = 0; m < tokens; ++m) {
            double top = 0.0;
            for (std::size_t k = 0; k < cols; ++k)
                top = std::fmax(top, std::fabs(static_cast<double>(x[m * cols + k])));
            for (std::size_t n = 0; n < rows; ++n) {
                double exact = 0.0;
                double magnitude = 0.0; // of the weights
                double products = 0.0;
                for (std::size_t k = 0; k < cols; ++k) {
                    const double value = static_cast<double>(values[n * cols + k]);
                    exact += value * static_cast<double>(x[m * cols + k]);
                    magnitude += std::fabs(value);
                    products += std::fabs(value * static_cast<double>(x[m * cols + k]));
                }
                // Activations become int8, half a step of max|x| / 127 off at most; sums are fp32.
                const double bound =
                    top / 127.0 / 2.0 * magnitude * (1.0 + 0x1p-20) + static_cast<double>(cols) * 0x1p-21 * products;
                CHECK(std::fabs(static_cast<double>(y[m * rows + n]) - exact) <= bound);
                CHECK(std::fabs(static_cast<double>(y[m * rows + n])) > 0.0);
            }
        }
    }
}
