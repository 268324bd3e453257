// broken_layers.cpp: layers whose tensors do not fit together: a message that says which, and nothing read out of
// bounds.
#include "support/catch.hpp"

#include <nibble/io/read_layer.hpp>

#include "layer_support.hpp"
#include "mx_layer_support.hpp"

#include <functional>
#include <string>
#include <vector>

namespace nb = nibble;
using namespace nibble_test;

namespace {

using formats =
    nb::format_list<nb::named_format<"int4_g32_asym", nb::int4_g32_asym>, nb::named_format<"int4_g32", nb::int4_g32>,
                    nb::named_format<"int4_channel_asym_f16",
                                     nb::scheme<nb::uint4, nb::per_channel, nb::scale<nb::f16>, nb::integer_zero>>,
                    nb::named_format<"int8_channel_f16", nb::scheme<nb::int8, nb::per_channel, nb::scale<nb::f16>>>,
                    nb::named_format<"nf4_b64", nb::bitsandbytes_scheme<nb::nf4, 64>>,
                    nb::named_format<"nvfp4", nb::nvfp4>>;
using formats_and_mxfp4 = nb::join_formats<formats, nb::mxfp4_formats, nb::mxfp8_formats>;

using tensors = std::vector<layer_tensor>;
using damage = std::function<void(tensors&)>;

struct broken_layer {
    const char* what;
    tensors made;
    damage break_it;
    nb::status_code code;
    std::string fragment; // of the message
    nb::layer_options options = {};
};

layer_tensor& named(tensors& all, const std::string& suffix) {
    for (layer_tensor& tensor : all)
        if (tensor.name == "l." + suffix) return tensor;
    FAIL("no tensor " << suffix);
    return all.front();
}
damage without(std::string suffix) {
    return [=](tensors& all) {
        tensors rest;
        for (const layer_tensor& tensor : all)
            if (tensor.name != "l." + suffix) rest.push_back(tensor);
        all = rest;
    };
}
// Another type of the same width, or another shape, with as many bytes as it needs.
damage retyped(std::string suffix, std::string type) {
    return [=](tensors& all) {
        layer_tensor& tensor = named(all, suffix);
        tensor.type = type;
        std::size_t count = type == "F64" || type == "I64" ? 8 : type_bytes(type);
        for (const std::size_t extent : tensor.shape) count *= extent;
        tensor.data.resize(count);
    };
}
damage reshaped(std::string suffix, std::vector<std::size_t> shape) {
    return [=](tensors& all) {
        layer_tensor& tensor = named(all, suffix);
        tensor.shape = shape;
        std::size_t count = tensor.type == "I64" ? 8 : type_bytes(tensor.type);
        for (const std::size_t extent : shape) count *= extent;
        tensor.data.resize(count);
    };
}
damage words(std::string suffix, std::vector<std::uint32_t> values) {
    return [=](tensors& all) { named(all, suffix).data = int32_bytes(values); };
}
damage says_shape(std::uint64_t n, std::uint64_t k) {
    return [=](tensors& all) { named(all, "weight_shape").data = byte_writer().u64(n).u64(k).take(); };
}
damage state(std::string text) {
    return [=](tensors& all) {
        layer_tensor& tensor = named(all, "weight.quant_state.bitsandbytes__nf4");
        tensor.data = byte_writer().raw(text).take();
        tensor.shape = {text.size()};
    };
}
std::vector<std::uint32_t> index_of(std::size_t cols, std::size_t group) {
    std::vector<std::uint32_t> index(cols);
    for (std::size_t k = 0; k < cols; ++k) index[k] = static_cast<std::uint32_t>(k / group);
    return index;
}

std::vector<broken_layer> broken_layers() {
    constexpr auto missing = nb::status_code::not_found;
    constexpr auto mismatch = nb::status_code::mismatch;
    constexpr auto malformed = nb::status_code::malformed;
    constexpr auto unsupported = nb::status_code::unsupported;
    constexpr std::size_t huge = std::size_t{1} << 61;
    const tensors gptq = make_gptq(1, 32, 64, 4, 32, "F16", false, false).tensors;
    const tensors awq = make_awq(2, 32, 64, 32, "F16").tensors;
    const tensors packed = make_compressed_tensors(3, 8, 64, 4, 32, "F16", true, false).tensors;
    const tensors zeros = make_compressed_tensors(4, 8, 64, 4, 32, "F16", false, true).tensors;
    const tensors naive = make_naive(5, 8, 64, "I8", {8, 1}, "F16", true, false).tensors;
    const tensors naive_zeros = make_naive(5, 8, 64, "I8", {8, 1}, "F16", false, false).tensors;
    const tensors fp8 = make_naive(5, 8, 64, "F8_E4M3", {8, 1}, "F16", true, false).tensors;
    const tensors plain = make_bitsandbytes(6, 8, 64, true, 64, 0).tensors;
    const tensors nested = make_bitsandbytes(7, 8, 64, true, 64, 256).tensors;
    const tensors times = make_nvfp4(8, 8, 64, false, 0.5f).tensors;
    const tensors divided = make_nvfp4(9, 8, 64, true, 0.5f).tensors;
    const tensors mxfp4 = make_mxfp4(10, 8, 64, "U8").tensors;
    const tensors int8 = {{"l.weight", "I8", {8, 64}, bytes(512)}, {"l.SCB", "F32", {8}, bytes(32)}};
    const tensors mxfp8 = make_mxfp8(10, 8, 64, "F8_E4M3", "U8").tensors;
    const tensors experts = make_gpt_oss(11, 2, 4, 64).tensors;
    const auto gptq_options = [](int bits, int group) {
        nb::layer_options o;
        o.gptq.bits = bits;
        o.gptq.group_size = group;
        return o;
    };
    const auto ct_options = [](int bits, int group) {
        nb::layer_options o;
        o.compressed_tensors.num_bits = bits;
        o.compressed_tensors.group_size = group;
        return o;
    };
    const auto naive_options = [](int group, int block) {
        nb::layer_options o;
        o.naive.group_size = group;
        o.naive.block_size = block;
        return o;
    };
    std::vector<std::uint32_t> uneven = index_of(64, 32);
    uneven[0] = 1;
    std::vector<std::uint32_t> outside = index_of(64, 32);
    outside[5] = 2;
    std::vector<std::uint32_t> negative = index_of(64, 32);
    negative[5] = 0xffffffffu;
    const std::string good = R"({"quant_type":"nf4","blocksize":64,"shape":[8,64])";

    return {
        // GPTQ
        {"no qzeros", gptq, without("qzeros"), missing, "layer 'l': tensor 'l.qzeros': is missing"},
        {"no scales", gptq, without("scales"), missing, "layer 'l': tensor 'l.scales': is missing"},
        {"words of floats", gptq, retyped("qweight", "F32"), mismatch, "tensor 'l.qweight': is F32, expected I32"},
        {"zeros of bytes", gptq, retyped("qzeros", "U8"), mismatch, "tensor 'l.qzeros': is U8, expected I32"},
        {"scales of int32", gptq, retyped("scales", "I32"), mismatch,
         "tensor 'l.scales': is I32, expected F16 or BF16 or F32"},
        {"a vector of words", gptq, reshaped("qweight", {256}), mismatch,
         "tensor 'l.qweight': has shape [256], expected a matrix that is not empty"},
        {"no words", gptq, reshaped("qweight", {0, 32}), mismatch,
         "tensor 'l.qweight': has shape [0, 32], expected a matrix"},
        {"words of no output, more than fit", gptq, reshaped("qweight", {huge, 0}), mismatch,
         "tensor 'l.qweight': has shape [2305843009213693952, 0], expected a matrix that is not empty"},
        {"zeros of no group", gptq, reshaped("qzeros", {0, huge}), mismatch,
         "tensor 'l.qzeros': has shape [0, 2305843009213693952]"},
        {"scales of other outputs", gptq, reshaped("scales", {2, 31}), mismatch,
         "tensor 'l.scales': has shape [2, 31], expected [2, 32] (as many columns as qweight)"},
        {"zeros of five bits", gptq, reshaped("qzeros", {2, 5}), unsupported,
         "tensor 'l.qzeros': has shape [2, 5], which for 32 outputs is no width of 2, 3, 4 or 8 bits"},
        {"zeros of no whole bits", make_gptq(1, 64, 64, 4, 32, "F16", false, false).tensors, reshaped("qzeros", {2, 7}),
         unsupported, "which for 64 outputs is no width"},
        {"zeros of other groups", gptq, reshaped("qzeros", {3, 4}), mismatch,
         "tensor 'l.qzeros': has shape [3, 4], expected [2, 4] (as many rows as scales)"},
        {"other bits than the configuration's",
         gptq,
         {},
         mismatch,
         "tensor 'l.qzeros': has codes of 4 bits, expected 3",
         gptq_options(3, 0)},
        {"other groups than the configuration's",
         gptq,
         {},
         mismatch,
         "tensor 'l.scales': has 2 groups, expected 1 (64 columns in groups of 64)",
         gptq_options(4, 64)},
        {"a group size of -2",
         gptq,
         {},
         unsupported,
         "layer 'l': group_size: -2 is no group size",
         gptq_options(0, -2)},
        {"one group where there are two",
         gptq,
         {},
         mismatch,
         "has 2 groups, expected 1 (64 columns in groups of 64)",
         gptq_options(0, -1)},
        {"three bits in four words", make_gptq(1, 32, 64, 3, 32, "F16", false, false).tensors,
         reshaped("qweight", {4, 32}), mismatch,
         "tensor 'l.qweight': has 4 rows of words, no whole number of codes of 3 bits"},
        {"more groups than columns", gptq,
         [](tensors& all) {
             reshaped("scales", {65, 32})(all);
             reshaped("qzeros", {65, 4})(all);
         },
         mismatch, "tensor 'l.scales': has 65 groups for 64 columns"},
        {"an index of int64", gptq, retyped("g_idx", "I64"), mismatch, "tensor 'l.g_idx': is I64, expected I32"},
        {"an index of fewer columns", gptq, reshaped("g_idx", {63}), mismatch,
         "tensor 'l.g_idx': has shape [63], expected [64] (one group per column)"},
        {"an index that is a matrix", gptq, reshaped("g_idx", {64, 1}), mismatch,
         "tensor 'l.g_idx': has shape [64, 1], expected [64]"},
        {"a group that is not there", gptq, words("g_idx", outside), malformed,
         "tensor 'l.g_idx': column 5 is in group 2 of 2"},
        {"a negative group", gptq, words("g_idx", negative), malformed,
         "tensor 'l.g_idx': column 5 is in group -1 of 2"},
        {"groups of 31 and 33 columns", gptq, words("g_idx", uneven), malformed,
         "tensor 'l.g_idx': group 1 has 33 columns, expected 31 (groups of 31)"},
        {"the same, with the size given", gptq, words("g_idx", uneven), malformed,
         "tensor 'l.g_idx': group 0 has 31 columns, expected 32 (groups of 32)", gptq_options(0, 32)},
        {"all columns in the last group", gptq, words("g_idx", std::vector<std::uint32_t>(64, 1)), malformed,
         "tensor 'l.g_idx': group 0 has 0 columns, expected 1 (groups of 1)"},
        {"all columns in the first group", gptq, words("g_idx", std::vector<std::uint32_t>(64, 0)), malformed,
         "tensor 'l.g_idx': group 1 has 0 columns, expected at least 1 (groups of 64)"},
        {"a format that is not listed",
         make_gptq(1, 32, 64, 4, 32, "BF16", false, false).tensors,
         {},
         unsupported,
         "layer 'l': gptq: the list of formats has none that holds uint4 in groups of 32, bf16 scales, integer zero "
         "points"},
        {"groups of 16",
         make_gptq(1, 32, 64, 4, 16, "F16", false, false).tensors,
         {},
         unsupported,
         "none that holds uint4 in groups of 16, fp16 scales, integer zero points; nibble's own lists have groups of "
         "32, 64 and 128 columns and whole rows, other groups need a scheme of yours with per_group<16> in the list"},
        {"groups of 30, which no scheme has",
         make_gptq(1, 32, 64, 4, 30, "F16", false, false).tensors,
         {},
         unsupported,
         "none that holds uint4 in groups of 30, fp16 scales, integer zero points; groups of a scheme are multiples of "
         "4 columns"},
        // AWQ
        {"AWQ without zeros", awq, without("qzeros"), missing, "tensor 'l.qzeros': is missing"},
        {"AWQ zeros like GPTQ's", awq, reshaped("qzeros", {2, 32}), mismatch,
         "tensor 'l.qzeros': has shape [2, 32], expected [2, 4] (rows of scales, columns of qweight)"},
        {"AWQ scales that are no multiple", awq, reshaped("scales", {2, 33}), mismatch,
         "tensor 'l.scales': has shape [2, 33], expected [2, 32] (eight columns per word of qweight)"},
        {"AWQ groups that do not divide the columns", awq,
         [](tensors& all) {
             reshaped("scales", {3, 32})(all);
             reshaped("qzeros", {3, 4})(all);
         },
         mismatch,
         "tensor 'l.scales': has 3 groups for 64 columns, which groups of 22 to 31 columns make: say the "
         "q_group_size of the checkpoint's configuration"},
        {"AWQ groups that divide, as other sizes make them too",
         awq,
         {},
         mismatch,
         "tensor 'l.scales': has 2 groups for 64 columns, which groups of 32 to 63 columns make: say the q_group_size"},
        {"AWQ groups of a number that no size makes", awq,
         [](tensors& all) {
             reshaped("scales", {63, 32})(all);
             reshaped("qzeros", {63, 4})(all);
         },
         mismatch, "tensor 'l.scales': has 63 groups for 64 columns, which no size of groups makes"},
        {"AWQ of another size than the configuration's",
         awq,
         {},
         mismatch,
         "tensor 'l.scales': has 2 groups, expected 4 (64 columns in groups of 16)",
         {.group_size = 16}},
        {"a group size of -2 for all layouts",
         awq,
         {},
         unsupported,
         "layer 'l': q_group_size: -2 is no group size",
         {.group_size = -2}},
        {"AWQ words that are too many", awq, reshaped("qweight", {0, huge}), mismatch, "expected"},
        // compressed-tensors
        {"no weight_shape", packed, without("weight_shape"), missing, "tensor 'l.weight_shape': is missing"},
        {"no weight_scale", packed, without("weight_scale"), missing, "tensor 'l.weight_scale': is missing"},
        {"a shape of floats", packed, retyped("weight_shape", "F32"), mismatch,
         "tensor 'l.weight_shape': is F32, expected I64 or I32"},
        {"a shape of three", packed, reshaped("weight_shape", {3}), mismatch,
         "tensor 'l.weight_shape': has shape [3], expected [2] (outputs and inputs)"},
        {"a shape of no inputs", packed, says_shape(8, 0), malformed,
         "tensor 'l.weight_shape': says 8 x 0, expected two positive numbers"},
        {"a negative shape", packed, says_shape(~std::uint64_t{0}, 64), malformed,
         "tensor 'l.weight_shape': says -1 x 64"},
        {"a shape of other outputs", packed, says_shape(9, 64), mismatch,
         "tensor 'l.weight_packed': has 8 rows, expected 9 (weight_shape)"},
        {"a shape of far more inputs", packed, says_shape(8, 0x7fffffffffffffffu), mismatch,
         "tensor 'l.weight_packed': has 8 words per row, too few for 9223372036854775807 codes (weight_shape)"},
        {"no width fits", packed, says_shape(8, 100), unsupported,
         "tensor 'l.weight_packed': has 8 words per row for 100 columns, which no width of 2, 3, 4 or 8 bits fits"},
        {"several widths fit",
         make_compressed_tensors(3, 8, 4, 4, 4, "F16", true, false).tensors,
         {},
         mismatch,
         "has 1 words per row for 4 columns, which several widths fit: say the num_bits"},
        {"other bits than num_bits",
         packed,
         {},
         mismatch,
         "has 8 words per row for 64 columns, which does not fit num_bits 8",
         ct_options(8, 0)},
        {"num_bits 5", packed, {}, mismatch, "does not fit num_bits 5 (2, 3, 4 and 8 are read)", ct_options(5, 0)},
        {"scales of other outputs", packed, reshaped("weight_scale", {9, 2}), mismatch,
         "tensor 'l.weight_scale': has shape [9, 2], expected [8, 2] (a row for each of weight_packed)"},
        {"groups that may have several sizes",
         packed,
         {},
         mismatch,
         "tensor 'l.weight_scale': has 2 groups for 64 columns, which groups of 32 to 63 columns make: say the "
         "group_size of the checkpoint's configuration (read_quantization_config takes it from there)"},
        {"one group where the configuration has two", packed, reshaped("weight_scale", {8, 1}), mismatch,
         "has 1 groups, expected 2 (64 columns in groups of 32)", ct_options(4, 32)},
        {"scales of no group", packed, reshaped("weight_scale", {8, 0}), mismatch,
         "tensor 'l.weight_scale': has shape [8, 0]"},
        {"zeros that are not packed", zeros, reshaped("weight_zero_point", {8, 2}), mismatch,
         "tensor 'l.weight_zero_point': has shape [8, 2], expected [1, 2] (8 outputs per word, columns of "
         "weight_scale)"},
        {"zeros of int8", zeros, retyped("weight_zero_point", "I8"), mismatch,
         "tensor 'l.weight_zero_point': is I8, expected I32"},
        {"an uneven index", zeros, words("weight_g_idx", uneven), malformed,
         "tensor 'l.weight_g_idx': group 1 has 33 columns"},
        // one code per byte
        {"scales of other rows", naive, reshaped("weight_scale", {7, 1}), mismatch,
         "tensor 'l.weight_scale': has shape [7, 1], expected one number, 8 rows of one, or 1 x 1 tiles of 128 x 128 "
         "(weight [8, 64])"},
        {"tiles of another size", fp8, reshaped("weight_scale", {1, 2}), mismatch,
         "tensor 'l.weight_scale': has shape [1, 2], expected one number, 8 rows of one, or 1 x 1 tiles of 128 x 128"},
        {"tiles of 32 that are not listed", fp8, reshaped("weight_scale", {1, 2}), unsupported,
         "none that holds e4m3 in tiles of 32 x 32, fp16 scales; nibble's own lists have tiles of 128 x 128, others "
         "need a scheme of yours with per_tile<32, 32> in the list",
         naive_options(0, 32)},
        {"tiles of 0", fp8, {}, unsupported, "layer 'l': block_size: 0 is no size of tiles", naive_options(0, 0)},
        {"int8 in groups that may have several sizes", naive, reshaped("weight_scale", {8, 2}), mismatch,
         "tensor 'l.weight_scale': has 2 groups for 64 columns, which groups of 32 to 63 columns make: say the "
         "group_size"},
        {"int8 in other groups than the configuration's", naive, reshaped("weight_scale", {8, 2}), mismatch,
         "has 2 groups, expected 4 (64 columns in groups of 16)", naive_options(16, 128)},
        {"scales of rank 3", naive, reshaped("weight_scale", {8, 1, 1}), mismatch,
         "tensor 'l.weight_scale': has shape [8, 1, 1]"},
        {"zeros of another shape", naive_zeros, reshaped("weight_zero_point", {8, 2}), mismatch,
         "tensor 'l.weight_zero_point': has shape [8, 2], expected [8, 1] (weight_scale)"},
        {"zeros of fp8 weights", naive_zeros, [](tensors& all) { named(all, "weight").type = "F8_E4M3"; }, unsupported,
         "tensor 'l.weight_zero_point': zero points of F8_E4M3 weights are not read"},
        {"fp8 in groups", fp8, reshaped("weight_scale", {8, 2}), mismatch, "tensor 'l.weight_scale': has shape [8, 2]"},
        {"fp8 that is not listed", fp8, {}, unsupported, "none that holds e4m3 per channel, fp16 scales"},
        // bitsandbytes
        {"no absmax", plain, without("weight.absmax"), missing, "tensor 'l.weight.absmax': is missing"},
        {"no map", plain, without("weight.quant_map"), missing, "tensor 'l.weight.quant_map': is missing"},
        {"a map of 17", plain, reshaped("weight.quant_map", {17}), mismatch,
         "tensor 'l.weight.quant_map': has shape [17], expected [16] (a value per code)"},
        {"a map of other values", plain, [](tensors& all) { named(all, "weight.quant_map").data[4] = std::byte{1}; },
         unsupported, "tensor 'l.weight.quant_map': entry 1 is -0.69"},
        {"weights of another length", plain, reshaped("weight", {255, 1}), mismatch,
         "tensor 'l.weight': has 255 bytes, expected two codes in each for 8 x 64 (quant_state)"},
        {"absmax of other blocks", plain, reshaped("weight.absmax", {9}), mismatch,
         "tensor 'l.weight.absmax': has shape [9], expected [8] (blocks of 64 in 8 x 64)"},
        {"an empty state", plain, state(""), malformed,
         "bitsandbytes__nf4': safetensors: tensor 'l.weight.quant_state.bitsandbytes__nf4' JSON at byte 0: expected "
         "'{', found"},
        {"a state that ends", plain, state(good), malformed, "JSON at byte 49: expected '}', found"},
        {"a state with more behind it", plain, state(good + "} x"), malformed,
         "end of the JSON at byte 51: expected nothing but spaces"},
        {"a state that is not UTF-8", plain, state("{\"\xff\":1}"), malformed, "JSON at byte 2: is not valid UTF-8"},
        {"a blocksize that comes twice", plain, state(good + ",\"blocksize\":64}"), malformed,
         "blocksize at byte 50: comes twice"},
        {"a blocksize of 0", plain, state(R"({"quant_type":"nf4","blocksize":0,"shape":[8,64]})"), malformed,
         "has no blocksize, or says 0"},
        {"a fractional blocksize", plain, state(R"({"quant_type":"nf4","blocksize":64.5,"shape":[8,64]})"), malformed,
         "blocksize at byte 34: expected an integer without fraction or exponent"},
        {"another quant_type", plain, state(R"({"quant_type":"fp4","blocksize":64,"shape":[8,64]})"), mismatch,
         "says quant_type 'fp4', expected 'nf4'"},
        {"no shape", plain, state(R"({"quant_type":"nf4","blocksize":64})"), malformed,
         "says shape [], expected two positive numbers"},
        {"a shape of one", plain, state(R"({"quant_type":"nf4","blocksize":64,"shape":[512]})"), malformed,
         "says shape [512], expected"},
        {"a shape that overflows", plain,
         state(R"({"quant_type":"nf4","blocksize":64,"shape":[9223372036854775808,9223372036854775808]})"), mismatch,
         "tensor 'l.weight': has 256 bytes, expected two codes in each for 9223372036854775808 x 9223372036854775808"},
        {"a shape beyond 64 bits", plain,
         state(R"({"quant_type":"nf4","blocksize":64,"shape":[99999999999999999999,1]})"), malformed,
         "shape at byte 44: the number does not fit in 64 bits"},
        {"blocks of 32", plain,
         [](tensors& all) {
             state(R"({"quant_type":"nf4","blocksize":32,"shape":[8,64]})")(all);
             reshaped("weight.absmax", {16})(all);
         },
         unsupported,
         "bitsandbytes: the list of formats has none that holds nf4 in blocks of 32 weights of the flattened matrix, "
         "fp32 scales; bitsandbytes_block_formats<32> has it"},
        {"blocks of 256",
         make_bitsandbytes(6, 8, 64, true, 256, 0).tensors,
         {},
         unsupported,
         "none that holds nf4 in blocks of 256 weights of the flattened matrix, fp32 scales; "
         "bitsandbytes_block_formats<256> has it"},
        {"blocks of 65",
         make_bitsandbytes(6, 8, 65, true, 65, 0).tensors,
         {},
         unsupported,
         "none that holds nf4 in blocks of 65 weights of the flattened matrix, fp32 scales; blocks of a scheme are "
         "multiples of 4 weights"},
        {"double quantization without nested_absmax", nested, without("weight.nested_absmax"), missing,
         "tensor 'l.weight.nested_absmax': is missing"},
        {"double quantization without a map", nested, without("weight.nested_quant_map"), missing,
         "tensor 'l.weight.nested_quant_map': is missing"},
        {"double quantization without an offset", nested, state(good + "}"), malformed,
         "has no nested_blocksize and nested_offset, which absmax of U8 needs, or says 0"},
        {"nested blocks of 0", nested, state(good + ",\"nested_blocksize\":0,\"nested_offset\":0.5}"), malformed,
         "has no nested_blocksize and nested_offset"},
        {"an offset beyond fp32", nested, state(good + ",\"nested_blocksize\":256,\"nested_offset\":1e39}"), malformed,
         "nested_offset at byte 89: is beyond fp32"},
        {"an offset that is no number", nested, state(good + ",\"nested_blocksize\":256,\"nested_offset\":NaN}"),
         malformed, "nested_offset at byte 89: expected a JSON value, found 'N'"},
        {"a nested map of 255", nested, reshaped("weight.nested_quant_map", {255}), mismatch,
         "tensor 'l.weight.nested_quant_map': has shape [255], expected [256] (a value per absmax code)"},
        {"nested blocks of another number", nested, reshaped("weight.nested_absmax", {2}), mismatch,
         "tensor 'l.weight.nested_absmax': has shape [2], expected [1] (blocks of 256 absmax codes)"},
        {"weights of I32", plain, retyped("weight", "I32"), mismatch,
         "tensor 'l.weight': is I32, expected U8 or BF16 or F16 or F32 or F64 or I8"},
        // LLM.int8
        {"int8 that is not listed with a magnitude per row",
         int8,
         {},
         unsupported,
         "bitsandbytes int8: the list of formats has none that holds int8 per channel, fp32 magnitudes of the code "
         "127; "
         "llm_int8_formats has it"},
        {"magnitudes of other rows", int8, reshaped("SCB", {9}), mismatch,
         "tensor 'l.SCB': has shape [9], expected [8] (one per row of l.weight)"},
        {"magnitudes of fp16", int8, retyped("SCB", "F16"), mismatch, "tensor 'l.SCB': is F16, expected F32"},
        {"an order for GPUs", int8,
         [](tensors& all) {
             all.push_back({"l.weight_format", "U8", {}, bytes(1, std::byte{2})});
         },
         unsupported, "tensor 'l.weight_format': is 2, an order of older versions for GPUs: only rows (0) are read"},
        {"two orders", int8,
         [](tensors& all) {
             all.push_back({"l.weight_format", "U8", {2}, bytes(2)});
         },
         mismatch, "tensor 'l.weight_format': has shape [2], expected one number"},
        {"no order", int8,
         [](tensors& all) {
             all.push_back({"l.weight_format", "U8", {0}, {}});
         },
         mismatch, "tensor 'l.weight_format': has shape [0], expected one number"},
        // NVFP4
        {"no block scales", times, without("weight_scale"), missing, "tensor 'l.weight_scale': is missing"},
        {"block scales of bytes", times, [](tensors& all) { named(all, "weight_scale").type = "U8"; }, mismatch,
         "tensor 'l.weight_scale': is U8, expected F8_E4M3"},
        {"24 codes per row", times, reshaped("weight", {8, 12}), mismatch,
         "tensor 'l.weight': has 24 codes per row, expected a multiple of 16"},
        {"other block scales", times, reshaped("weight_scale", {8, 5}), mismatch,
         "tensor 'l.weight_scale': has shape [8, 5], expected [8, 4] (one per 16 codes of l.weight)"},
        {"two global scales", divided, reshaped("weight_global_scale", {2}), mismatch,
         "tensor 'l.weight_global_scale': has shape [2], expected one number"},
        {"no global scale", divided, without("weight_global_scale"), missing,
         "tensor 'l.weight_global_scale': is missing"},
        {"a global scale of fp16", times, retyped("weight_scale_2", "F16"), mismatch,
         "tensor 'l.weight_scale_2': is F16, expected F32"},
        {"no global scale, and block scales of E4M3", divided, without("weight_global_scale"), missing,
         "tensor 'l.weight_global_scale': is missing"},
        // MXFP4
        {"MXFP4 that is not listed",
         mxfp4,
         {},
         unsupported,
         "layer 'l': mxfp4-pack-quantized: the list of formats has none that holds e2m1 in groups of 32, e8m0 scales; "
         "mxfp4_formats has it"},
        {"48 codes per row of MXFP4", mxfp4, reshaped("weight_packed", {8, 24}), mismatch,
         "tensor 'l.weight_packed': has 48 codes per row, expected a multiple of 32"},
        {"exponents per 16", mxfp4, reshaped("weight_scale", {8, 4}), mismatch,
         "tensor 'l.weight_scale': has shape [8, 4], expected [8, 2] (one per 32 codes of l.weight_packed)"},
        {"MXFP4 codes in a vector", mxfp4, reshaped("weight_packed", {256}), mismatch,
         "tensor 'l.weight_packed': has shape [256], expected a matrix"},
        {"MXFP4 with zero points", mxfp4,
         [](tensors& all) {
             all.push_back({"l.weight_zero_point", "U8", {8, 2}, bytes(16)});
         },
         unsupported, "tensor 'l.weight_zero_point': zero points of MXFP4 weights are not read"},
        {"exponents with a number for the whole tensor", mxfp4,
         [](tensors& all) {
             all.push_back({"l.weight_global_scale", "F32", {1}, bytes(4)});
         },
         mismatch, "tensor 'l.weight_scale': is U8, expected F8_E4M3"},
        // MXFP8
        {"MXFP8 that is not listed",
         mxfp8,
         {},
         unsupported,
         "layer 'l': mxfp8-quantized: the list of formats has none that holds e4m3 in groups of 32, e8m0 scales; "
         "mxfp8_formats has it"},
        {"exponents per 64", mxfp8, reshaped("weight_scale", {8, 1}), mismatch,
         "tensor 'l.weight_scale': has shape [8, 1], expected [8, 2] (one per 32 codes of l.weight)"},
        {"MXFP8 codes in a vector", mxfp8, reshaped("weight", {512}), mismatch,
         "tensor 'l.weight': has shape [512], expected a matrix"},
        {"MXFP8 with zero points", mxfp8,
         [](tensors& all) {
             all.push_back({"l.weight_zero_point", "U8", {8, 2}, bytes(16)});
         },
         unsupported, "tensor 'l.weight_zero_point': zero points of MXFP8 weights are not read"},
        // gpt-oss
        {"experts that are not listed",
         experts,
         {},
         unsupported,
         "gpt-oss: the list of formats has none that holds e2m1"},
        {"blocks of 8 bytes", experts,
         [](tensors& all) {
             all[0].shape = {2, 4, 4, 8};
         },
         mismatch,
         "tensor 'l_blocks': has shape [2, 4, 4, 8], expected experts x outputs x blocks x 16 that is not empty"},
        {"blocks of no expert", experts,
         [](tensors& all) {
             all[0].shape = {0, 4, 2, 16};
             all[0].data.clear();
         },
         mismatch, "tensor 'l_blocks': has shape [0, 4, 2, 16], expected"},
        {"scales of other blocks", experts,
         [](tensors& all) {
             all[1].shape = {2, 8, 1};
         },
         mismatch, "tensor 'l_scales': has shape [2, 8, 1], expected [2, 4, 2] (one per block of l_blocks)"},
        {"blocks of I8", experts, [](tensors& all) { all[0].type = "I8"; }, mismatch, "tensor 'l_blocks': is I8"},
    };
}

} // namespace

TEST_CASE("Layers that do not fit together are refused with what is wrong") {
    std::size_t count = 0;
    for (const broken_layer& broken : broken_layers()) {
        INFO(broken.what);
        tensors all = broken.made;
        if (broken.break_it) broken.break_it(all);
        const exact_copy bytes_of_file(layer_file(all));
        nb::safetensors_file file;
        const nb::status parsed = nb::safetensors_file::parse(bytes_of_file.view(), file);
        INFO(parsed.message());
        REQUIRE(parsed.ok());
        nb::quantized_layer<formats> layer;
        const nb::status s = nb::read_layer(file, "l", layer, broken.options);
        INFO(s.message());
        CHECK(s.code() == broken.code);
        CHECK(s.message().find("layer 'l': ") == 0);
        CHECK(s.message().find(broken.fragment) != std::string::npos);
        CHECK(layer.weights.empty());
        ++count;
    }
    CHECK(count >= 80);
}

TEST_CASE("Layers of any bytes are read or refused, never beyond their end") {
    // Every tensor of every layout with its shape changed at random: the address sanitizer watches.
    layer_random random(2026);
    const std::vector<made_layer> layers = {make_gptq(1, 32, 64, 4, 32, "F16", false, true),
                                            make_awq(2, 32, 64, 32, "F16"),
                                            make_compressed_tensors(3, 8, 64, 4, 32, "F16", true, true),
                                            make_compressed_tensors(4, 8, 64, 4, 32, "F16", false, false),
                                            make_naive(5, 8, 64, "I8", {8, 1}, "F16", true, false),
                                            make_bitsandbytes(6, 8, 64, true, 64, 0),
                                            make_bitsandbytes(7, 8, 64, true, 64, 256),
                                            make_nvfp4(8, 8, 64, false, 0.5f),
                                            make_mxfp4(9, 8, 64, "F8_E8M0"),
                                            make_mxfp8(10, 8, 64, "F8_E4M3", "U8"),
                                            make_gpt_oss(11, 2, 4, 64)};
    std::size_t read = 0;
    std::size_t refused = 0;
    for (int round = 0; round < 4000; ++round) {
        tensors all = layers[random.below(static_cast<std::uint32_t>(layers.size()))].tensors;
        for (std::uint32_t changes = 1 + random.below(2); changes > 0; --changes) {
            layer_tensor& tensor = all[random.below(static_cast<std::uint32_t>(all.size()))];
            const std::uint32_t kind = random.below(4);
            if (kind == 0 && !tensor.shape.empty()) {
                std::size_t& extent = tensor.shape[random.below(static_cast<std::uint32_t>(tensor.shape.size()))];
                extent = random.below(3) == 0 ? extent * 2 : extent + random.below(3);
            } else if (kind == 1 && !tensor.data.empty()) {
                for (int i = 0; i < 4; ++i)
                    tensor.data[random.below(static_cast<std::uint32_t>(tensor.data.size()))] =
                        static_cast<std::byte>(random.next() & 255u);
                continue;
            } else if (kind == 2 && !tensor.shape.empty()) {
                --tensor.shape[random.below(static_cast<std::uint32_t>(tensor.shape.size()))];
            } else {
                tensor.shape.push_back(1);
            }
            std::size_t count = tensor.type == "I64" ? 8 : type_bytes(tensor.type);
            for (const std::size_t extent : tensor.shape) count *= extent;
            if (count > 100000) {
                tensor.shape = {1};
                count = tensor.type == "I64" ? 8 : type_bytes(tensor.type);
            }
            tensor.data.resize(count);
        }
        const exact_copy bytes_of_file(layer_file(all));
        nb::safetensors_file file;
        REQUIRE(nb::safetensors_file::parse(bytes_of_file.view(), file).ok());
        nb::quantized_layer<formats_and_mxfp4> layer;
        // One size that fits, and none, which some shapes leave a choice for.
        const nb::status s = nb::read_layer(file, "l", layer, {.group_size = random.below(4) == 0 ? 0 : 32});
        if (s.ok()) {
            std::vector<float> weights(layer.weights.rows() * layer.weights.cols());
            nb::dequantize_layer(layer, {weights.data(), layer.weights.rows(), layer.weights.cols()});
            ++read;
        } else {
            CHECK(s.message().find("layer 'l': ") == 0);
            ++refused;
        }
    }
    CHECK(read > 200);
    CHECK(refused > 1000);
}
