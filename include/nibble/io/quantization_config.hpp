// quantization_config.hpp: what the configuration beside a checkpoint says and its tensors do not, as layer_options.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/json.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/read_layer.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/status.hpp>

#include <charconv>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

namespace detail {

// A number that several places tell: 0 before the first of them, and again as soon as two differ.
struct agreed_number {
    int value = 0;
    bool differ = false;
    void add(int told) noexcept {
        differ = differ || (value != 0 && value != told);
        value = differ ? 0 : told;
    }
};

class quantization_config_parser {
public:
    explicit quantization_config_parser(std::string_view text) : text_(text), json_(text, 0, "configuration", "text") {
        json_.allow_nonfinite();
    }

    [[nodiscard]] status run(layer_options& out) {
        const std::size_t invalid = find_invalid_utf8(text_);
        if (invalid != text_.size()) {
            json_.fail(status_code::malformed, "JSON", invalid, "is not valid UTF-8");
            return json_.error();
        }
        config inner;
        config whole;
        const auto top = [&](std::string_view key, std::size_t at) {
            if (key == "quantization" && json_.peek() == '{') return mlx_quantization(whole);
            return is_inner(key) || key == "text_config" ? model(key, inner) : quantization(key, at, whole);
        };
        if (!json_.object(escaped_, "JSON", top) || !json_.end("end of the JSON")) return json_.error();
        // A file of its own (quantize_config.json, quant_config.json) has the fields of the quantization outermost.
        if (!inner.found && !whole.found && !whole.mlx_found) {
            json_.fail(status_code::not_found, "quantization_config", text_.size(),
                       "is missing, and so are the fields of a quantize_config.json or quant_config.json");
            return json_.error();
        }
        const config& told = inner.found ? inner : whole;
        if (!is_read(told)) return json_.error();
        take(told, out);
        if (whole.mlx_found) {
            out.mlx.group_size = whole.mlx.group_size;
            out.mlx.bits = whole.mlx.bits;
            out.mlx.layers = std::move(whole.mlx.layers);
        }
        return {};
    }

private:
    struct word {
        std::string text; // in small letters
        std::size_t at = 0;
    };
    struct config {
        bool found = false;
        bool single_layers = false;
        int group_size = 0;
        int bits = 0;
        agreed_number num_bits;
        agreed_number sizes;
        agreed_number byte_sizes; // of codes of 8 bits, floats too
        agreed_number tile_rows;
        agreed_number tile_cols;
        word method;
        word checkpoint_format;
        word version;
        bool mlx_found = false;
        mlx_options mlx;
    };

    [[nodiscard]] static bool is_inner(std::string_view key) noexcept {
        return key == "quantization_config" || key == "compression_config";
    }
    // A field of config.json, or of its text_config: the language model of one with several.
    [[nodiscard]] bool model(std::string_view key, config& out) {
        if (json_.peek() != '{' || !(is_inner(key) || key == "text_config")) return json_.skip_value(escaped_, key);
        if (!is_inner(key))
            return json_.object(escaped_, key, [&](std::string_view k, std::size_t) {
                return k == "text_config" ? json_.skip_value(escaped_, k) : model(k, out);
            });
        const bool good =
            json_.object(escaped_, key, [&](std::string_view k, std::size_t at) { return quantization(k, at, out); });
        out.found = true;
        return good;
    }

    [[nodiscard]] bool quantization(std::string_view key, std::size_t at, config& out) {
        for (const std::string_view own : {"bits", "w_bit", "quant_method", "config_groups"})
            out.found = out.found || key == own;
        if (key == "group_size" || key == "q_group_size") return number(key, out.group_size);
        if (key == "bits" || key == "w_bit") return number(key, out.bits);
        if (key == "quant_method") return text(key, at, out.method);
        if (key == "checkpoint_format") return text(key, at, out.checkpoint_format);
        if (key == "version") return text(key, at, out.version);
        if (key == "weight_block_size") return block(key, out);
        // Settings of single layers (GPTQModel, AutoRound): what is said for all does not hold for those.
        if ((key == "dynamic" || key == "extra_config") && json_.peek() == '{')
            return json_.object(escaped_, key, [&](std::string_view, std::size_t) {
                out.single_layers = true;
                return json_.skip_value(escaped_, "setting of a layer");
            });
        if (key == "config_groups" && json_.peek() == '{')
            return json_.object(escaped_, key, [&](std::string_view, std::size_t) { return config_group(out); });
        return json_.skip_value(escaped_, key);
    }

    // Of MLX, which also writes it as quantization_config: numbers for all layers, and objects by the names of some
    // (false: such a layer is not quantized). Other tools have objects of that name: theirs have no bits beside.
    [[nodiscard]] bool mlx_quantization(config& out) {
        mlx_options told;
        if (!json_.object(escaped_, "quantization", [&](std::string_view key, std::size_t at) {
                if (key == "mode") return mlx_mode(key, at);
                if (key == "group_size") return number(key, told.group_size);
                if (key == "bits") return number(key, told.bits);
                if (json_.peek() != '{') return json_.skip_value(escaped_, "quantization");
                mlx_layer_options own{std::string(key)};
                if (!json_.object(escaped_, "quantization of a layer", [&](std::string_view k, std::size_t inner_at) {
                        if (k == "mode") return mlx_mode(k, inner_at);
                        if (k == "group_size") return number(k, own.group_size);
                        if (k == "bits") return number(k, own.bits);
                        return json_.skip_value(escaped_, "quantization of a layer");
                    }))
                    return false;
                if (own.bits != 0 || own.group_size != 0) told.layers.push_back(std::move(own));
                return true;
            }))
            return false;
        if (told.bits == 0) return true;
        out.mlx_found = true;
        out.mlx = std::move(told);
        return true;
    }
    [[nodiscard]] bool mlx_mode(std::string_view key, std::size_t at) {
        word mode;
        if (!text(key, at, mode)) return false;
        for (const std::string_view known : {"", "affine", "mxfp4", "mxfp8", "nvfp4"})
            if (mode.text == known) return true;
        return json_.fail(status_code::unsupported, key, at,
                          in_quotes(mode.text) + ": of MLX only affine, mxfp4, mxfp8 and nvfp4 are read");
    }

    // Of compressed-tensors: the layers of some names, or of a class.
    [[nodiscard]] bool config_group(config& out) {
        if (json_.peek() != '{') return json_.skip_value(escaped_, "config_groups");
        return json_.object(escaped_, "config_groups", [&](std::string_view key, std::size_t) {
            if (key != "weights" || json_.peek() != '{') return json_.skip_value(escaped_, "config_groups");
            int bits = 8; // the default there
            int size = 0;
            word type{"int"};
            word strategy;
            if (!json_.object(escaped_, "weights", [&](std::string_view k, std::size_t at) {
                    if (k == "num_bits") return number(k, bits);
                    if (k == "group_size") return number(k, size);
                    if (k == "type") return text(k, at, type);
                    if (k == "strategy") return text(k, at, strategy);
                    if (k == "block_structure") return block(k, out);
                    return json_.skip_value(escaped_, "weights");
                }))
                return false;
            const int groups = (strategy.text.empty() || strategy.text == "group") && size > 0 ? size : -1;
            if (type.text == "int" || (bits == 8 && groups > 0)) out.byte_sizes.add(groups);
            if (type.text != "int") return true;
            out.num_bits.add(bits);
            out.sizes.add(groups);
            return true;
        });
    }

    [[nodiscard]] bool number(std::string_view key, int& out) {
        if (json_.peek() == 'n') return json_.skip_value(escaped_, key); // null: not told
        const std::size_t at = json_.offset();
        std::string_view spelt;
        if (!json_.number_text(spelt, key)) return false;
        const char* end = spelt.data() + spelt.size();
        const auto parsed = std::from_chars(spelt.data(), end, out);
        return (parsed.ec == std::errc() && parsed.ptr == end) ||
               json_.fail(status_code::malformed, key, at, "is no integer of 32 bits");
    }
    // Anything but a string: not told.
    [[nodiscard]] bool text(std::string_view key, std::size_t at, word& out) {
        if (json_.peek() != '"') return json_.skip_value(escaped_, key);
        std::string_view spelt;
        if (!json_.string(spelt, escaped_, key)) return false;
        out = {"", at};
        for (const char c : spelt) out.text += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        return true;
    }
    // [128, 128], or "128x128" of older compressed-tensors.
    [[nodiscard]] bool block(std::string_view key, config& out) {
        const std::size_t at = json_.offset();
        int rows = 0;
        int cols = 0;
        if (json_.peek() == '"') {
            word spelt;
            if (!text(key, at, spelt)) return false;
            const char* end = spelt.text.data() + spelt.text.size();
            const auto first = std::from_chars(spelt.text.data(), end, rows);
            if (first.ptr != end) std::from_chars(first.ptr + 1, end, cols);
        } else if (json_.accept('[')) {
            if (!number(key, rows) || !json_.expect(',', key) || !number(key, cols) || !json_.expect(']', key))
                return false;
        } else {
            return json_.skip_value(escaped_, key);
        }
        if (rows < 1 || cols < 1)
            return json_.fail(status_code::unsupported, key, at,
                              std::to_string(rows) + " x " + std::to_string(cols) + " is no size of tiles");
        out.tile_rows.add(rows);
        out.tile_cols.add(cols);
        return true;
    }

    // Layouts whose tensors have the names of others, but another meaning.
    [[nodiscard]] bool is_read(const config& told) {
        const std::string& version = told.version.text;
        const std::string& checkpoint_format = told.checkpoint_format.text;
        const bool awq = told.method.text == "awq" || (told.method.text.empty() && !version.empty());
        if (awq && version == "marlin")
            return json_.fail(status_code::unsupported, "version", told.version.at,
                              in_quotes(version) + ": of AWQ only gemm, gemv and gemv_fast are read");
        const bool gptq = told.method.text == "gptq" || (told.method.text.empty() && version.empty());
        if (gptq && !checkpoint_format.empty() && checkpoint_format != "gptq" && checkpoint_format != "gptq_v2" &&
            checkpoint_format != "gptq_p")
            return json_.fail(status_code::unsupported, "checkpoint_format", told.checkpoint_format.at,
                              in_quotes(checkpoint_format) + ": of GPTQ only gptq, gptq_v2 and gptq_p are read");
        return !(told.tile_rows.differ || told.tile_cols.differ) ||
               json_.fail(status_code::unsupported, "config_groups", text_.size(),
                          "layers have tiles of different sizes");
    }
    static void take(const config& told, layer_options& out) {
        if (!told.single_layers && told.group_size != 0) out.group_size = told.group_size;
        if (!told.single_layers && told.bits != 0) out.gptq.bits = told.bits;
        if (told.checkpoint_format.text == "gptq") out.gptq.checkpoint_format = gptq_checkpoint_format::gptq;
        if (told.checkpoint_format.text == "gptq_v2") out.gptq.checkpoint_format = gptq_checkpoint_format::gptq_v2;
        if (told.checkpoint_format.text == "gptq_p") out.gptq.checkpoint_format = gptq_checkpoint_format::gptq_p;
        if (told.version.text == "gemv") out.awq.version = awq_version::gemv;
        if (told.version.text == "gemv_fast") out.awq.version = awq_version::gemv_fast;
        if (told.num_bits.value != 0) out.compressed_tensors.num_bits = told.num_bits.value;
        if (told.sizes.value > 0) out.compressed_tensors.group_size = told.sizes.value;
        if (told.byte_sizes.value > 0) out.naive.group_size = told.byte_sizes.value;
        if (told.tile_rows.value != 0) out.naive.block_rows = told.tile_rows.value;
        if (told.tile_cols.value != 0) out.naive.block_cols = told.tile_cols.value;
    }

    std::string_view text_;
    json_reader json_;
    std::vector<char> escaped_;
};

} // namespace detail

// Takes from the JSON text of a checkpoint's configuration what read_layer needs to be told: config.json of Hugging
// Face (its quantization_config), or quantize_config.json and quant_config.json of GPTQ and AWQ:
//   group_size, q_group_size          layer_options::group_size
//   bits                              gptq.bits
//   checkpoint_format                 gptq.checkpoint_format
//   version                           awq.version
//   config_groups.*.weights           num_bits and group_size of integers, for compressed_tensors and naive, and
//                                     group_size of floats of 8 bits, for naive
//   weight_block_size, block_structure  naive.block_rows and block_cols
//   quantization (MLX)                mlx.group_size, mlx.bits, and of single layers mlx.layers
// Where layers differ (two config_groups, GPTQModel's dynamic, AutoRound's extra_config) nothing is taken for those
// numbers: read_layer then asks where the shapes leave a choice. All other options, and all of them unless the result
// is ok, stay as they were:
//   malformed    no JSON (of which Python's NaN and Infinity are taken too), or a field of another type
//   not_found    the configuration of a model that is not quantized
//   unsupported  layouts that are not read: AWQ's and GPTQ's marlin, tiles of different sizes ...
[[nodiscard]] inline status parse_quantization_config(std::string_view json, layer_options& out) {
    return detail::quantization_config_parser(json).run(out);
}

// The same from a file ("model/config.json").
[[nodiscard]] inline status read_quantization_config(const char* path, layer_options& out) {
    mapped_file file;
    status s = mapped_file::open(path, file);
    if (!s.ok()) return s;
    const std::span<const std::byte> bytes = file.bytes();
    return detail::in_file(path,
                           parse_quantization_config({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, out));
}

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
