// safetensors_model.cpp: models of several safetensors files, by index and by folder, and indices that do not fit.
#include <support/catch.hpp>

#include <nibble/io/model_file.hpp>
#include <nibble/io/read_layer.hpp>
#include <nibble/io/safetensors_model.hpp>

#include "layer_support.hpp"
#include "scratch_folder.hpp"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace nibble_test;

namespace {

using formats = nb::format_list<nb::named_format<"int4_g32_asym", nb::int4_g32_asym>>;
using tensors = std::vector<layer_tensor>;

bytes text(std::string_view content) {
    return byte_writer().raw(content).take();
}

// As transformers' save_pretrained writes it: indented, sorted by tensor, total_size before the map.
std::string index_of(const std::vector<std::pair<std::string, std::string>>& map, const std::string& total) {
    std::string json = "{\n  \"metadata\": {\n    \"total_parameters\": 7,\n    \"total_size\": " + total +
                       "\n  },\n  \"weight_map\": {\n";
    for (std::size_t i = 0; i < map.size(); ++i)
        json += "    \"" + map[i].first + "\": \"" + map[i].second + (i + 1 < map.size() ? "\",\n" : "\"\n");
    return json + "  }\n}\n";
}

const std::string first = "model-00001-of-00002.safetensors";
const std::string second = "model-00002-of-00002.safetensors";

// A GPTQ layer torn apart between two shards.
struct torn_layer {
    made_layer made = make_gptq(77, 32, 64, 4, 32, "F16", true, true);
    tensors one{made.tensors[0], made.tensors[2], {"a", "F32", {2}, byte_writer().number(1.0f).number(2.0f).take()}};
    tensors two{made.tensors[1], made.tensors[3]};
    std::size_t total = 0;
    std::vector<std::pair<std::string, std::string>> map;
    torn_layer() {
        for (const layer_tensor& t : one) {
            map.emplace_back(t.name, first);
            total += t.data.size();
        }
        for (const layer_tensor& t : two) {
            map.emplace_back(t.name, second);
            total += t.data.size();
        }
    }
    void write(const scratch_folder& folder) const {
        (void)folder.write(first, layer_file(one));
        (void)folder.write(second, layer_file(two));
    }
};

void check_whole(const nb::safetensors_model& model, const torn_layer& torn) {
    REQUIRE(model.shards().size() == 2);
    CHECK(model.shards()[0].name == first);
    CHECK(model.shards()[1].name == second);
    REQUIRE(model.tensors().size() == 5);
    CHECK(model.tensors()[0].name == "l.qweight");
    CHECK(model.tensors()[3].name == "l.qzeros");
    for (const nb::tensor_info& tensor : model.tensors()) CHECK(model.find(tensor.name) == &tensor);
    CHECK(model.find("l.bias") == nullptr);
    CHECK(nb::detect_layout(model, "l") == nb::layer_layout::gptq);
    const auto listed = nb::list_layers(model);
    REQUIRE(listed.size() == 1);
    CHECK(listed[0].prefix == "l");
    nb::quantized_layer<formats> layer;
    nb::layer_options options;
    options.gptq.checkpoint_format = nb::gptq_checkpoint_format::gptq_v2;
    const nb::status s = nb::read_layer(model, "l", layer, options);
    INFO(s.message());
    REQUIRE(s.ok());
    std::vector<float> weights(32 * 64);
    nb::dequantize_layer(layer, {weights.data(), 32, 64});
    CHECK(same_bits(weights, torn.made.weights));
    // One shard alone has half of the layer.
    CHECK(nb::read_layer(model.shards()[0].file, "l", layer, options).code() != nb::status_code::ok);
}

} // namespace

TEST_CASE("A layer is read whose tensors lie in different shards") {
    const scratch_folder folder;
    const torn_layer torn;
    torn.write(folder);
    const std::string index =
        folder.write("model.safetensors.index.json", text(index_of(torn.map, std::to_string(torn.total))));
    // By its index, by its folder; and where total_size is a float, as divided bits make it.
    for (const std::string& path : {index, folder.at(""), folder.at(".")}) {
        INFO(path);
        nb::safetensors_model model;
        const nb::status s = nb::safetensors_model::open(path.c_str(), model);
        INFO(s.message());
        REQUIRE(s.ok());
        check_whole(model, torn);
        nb::safetensors_model moved(std::move(model));
        check_whole(moved, torn);
        CHECK(model.tensors().empty());
        CHECK(model.find("a") == nullptr);
        CHECK(model.shards().empty());
    }
    for (const char* total : {".0", ".5e0"}) {
        (void)folder.write("model.safetensors.index.json",
                           text(index_of(torn.map, std::to_string(torn.total) + total)));
        nb::safetensors_model model;
        REQUIRE(nb::safetensors_model::open(index.c_str(), model).ok());
    }
    // Without a total_size, and with one that is no number of bytes: not told.
    for (const char* total : {"null", "\"7\"", "1e99", "99999999999999999999999", "-5", "{}"}) {
        INFO(total);
        (void)folder.write("model.safetensors.index.json", text(index_of(torn.map, total)));
        nb::safetensors_model model;
        CHECK(nb::safetensors_model::open(index.c_str(), model).ok());
    }
    // An index of another name, without a folder in front of it, and files in a folder below.
    std::filesystem::remove(index);
    std::filesystem::create_directory(folder.at("below"));
    std::filesystem::rename(folder.at(second), folder.at("below/" + second));
    auto map = torn.map;
    map[3].second = map[4].second = "below/" + second;
    (void)folder.write("other.safetensors.index.json", text(index_of(map, std::to_string(torn.total))));
    nb::safetensors_model model;
    REQUIRE(nb::safetensors_model::open(folder.at("").c_str(), model).ok());
    CHECK(model.tensors().size() == 5);
    CHECK(model.find("l.g_idx") != nullptr);
}

TEST_CASE("A folder without an index is its files, of which none may be missing") {
    const scratch_folder folder;
    const torn_layer torn;
    torn.write(folder);
    nb::safetensors_model model;
    REQUIRE(nb::safetensors_model::open(folder.at("").c_str(), model).ok());
    check_whole(model, torn);

    std::filesystem::remove(folder.at(first));
    nb::safetensors_model other;
    nb::status s = nb::safetensors_model::open(folder.at("").c_str(), other);
    CHECK(s.code() == nb::status_code::cannot_open);
    CHECK(s.message().find("there is '" + second + "', but not '" + first + "'") != std::string::npos);
    torn.write(folder);
    std::filesystem::remove(folder.at(second));
    s = nb::safetensors_model::open(folder.at("").c_str(), other);
    CHECK(s.code() == nb::status_code::cannot_open);
    CHECK(s.message().find("there is '" + first + "', but not '" + second + "'") != std::string::npos);
    CHECK(other.tensors().empty());
    // Names that count nothing are files like others.
    std::filesystem::remove(folder.at(first));
    for (const char* name : {"b-0001-of-00002.safetensors", "-00000-of-00002.safetensors", "-of-.safetensors",
                             ".safetensors", "c-00001-of-00000.safetensors", "d-0000x-of-00002.safetensors"}) {
        INFO(name);
        const std::string path = folder.write(name, layer_file({{std::string("t") + name[0], "U8", {1}, bytes(1)}}));
        CHECK(nb::safetensors_model::open(folder.at("").c_str(), other).ok());
        std::filesystem::remove(path);
    }

    // model.safetensors is the whole model, whatever lies beside it; and so is any file that is named.
    torn.write(folder);
    (void)folder.write("model.safetensors.index.json", text("{}"));
    const std::string alone = folder.write("model.safetensors", layer_file(torn.two));
    for (const std::string& path : {alone, folder.at("")}) {
        REQUIRE(nb::safetensors_model::open(path.c_str(), other).ok());
        CHECK(other.shards().size() == 1);
        CHECK(other.tensors().size() == 2);
    }
    CHECK(other.metadata_text("format") == std::nullopt);
    nb::safetensors_writer writer;
    REQUIRE(writer.add_metadata("format", "pt").ok());
    (void)folder.write("model.safetensors", writer.bytes());
    REQUIRE(nb::safetensors_model::open(alone.c_str(), other).ok());
    CHECK(other.metadata_text("format") == "pt");
    CHECK(other.tensors().empty());
}

TEST_CASE("Models whose files do not fit together are refused with what is wrong") {
    const torn_layer torn;
    const std::string total = std::to_string(torn.total);
    const auto with_map = [&](std::size_t entry, const std::string& tensor, const std::string& file) {
        auto map = torn.map;
        map[entry] = {tensor, file};
        return index_of(map, total);
    };
    struct broken_index {
        const char* what;
        std::string index;
        nb::status_code code;
        std::string fragment;
    };
    constexpr auto malformed = nb::status_code::malformed;
    const std::string outside = " is not in the folder of the index";
    const broken_index indices[] = {
        {"a shard that is missing", with_map(4, "l.g_idx", "model-00003-of-00003.safetensors"),
         nb::status_code::cannot_open, "index: one of its 3 files is not there: cannot open "},
        {"a step upwards", with_map(0, "l.qweight", "../" + first), malformed, "file '../" + first + "'" + outside},
        {"a step upwards further in", with_map(0, "l.qweight", "a/../../" + first), malformed, outside},
        {"an absolute name", with_map(0, "l.qweight", "/etc/passwd"), malformed, "file '/etc/passwd'" + outside},
        {"an empty name", with_map(0, "l.qweight", ""), malformed, "file ''" + outside},
        {"the folder itself", with_map(0, "l.qweight", "."), malformed, "file '.'" + outside},
        {"a name with an end of its own", with_map(0, "l.qweight", "a\\u0000b"), malformed, "file 'a\\x00b'" + outside},
        {"a name of Windows", with_map(0, "l.qweight", "..\\\\" + first), malformed, outside},
        {"a folder", with_map(0, "l.qweight", "below"), nb::status_code::cannot_open, "it is a directory"},
        {"a tensor in another shard", with_map(0, "l.qweight", second), nb::status_code::not_found,
         "index: tensor 'l.qweight' is not in '" + second + "', where the index has it"},
        {"a tensor in none", with_map(0, "l.bias", first), nb::status_code::not_found,
         "index: tensor 'l.bias' is not in"},
        {"a tensor twice in the index", with_map(1, "l.qweight", first), malformed,
         "index: tensor 'l.qweight' comes twice"},
        {"a total_size of another model", index_of(torn.map, "12345"), nb::status_code::mismatch,
         "index: total_size is 12345, but the tensors have " + total + " bytes: the files are of another model"},
        {"a tensor in two shards", with_map(4, "l.g_idx", "copy.safetensors"), malformed,
         "tensor 'l.g_idx' is in both 'copy.safetensors' and '" + second + "'"},
        {"a shard that is damaged", with_map(4, "l.g_idx", "damaged.safetensors"), nb::status_code::truncated,
         "damaged.safetensors: safetensors: header length at byte 0: "},
        {"a shard that is the index", with_map(4, "l.g_idx", "model.safetensors.index.json"), malformed,
         "it is an index of safetensors files"},
        {"no weight_map", "{}", malformed, "index: weight_map at byte 2: is missing"},
        {"two weight_maps", R"({"weight_map":{},"weight_map":{}})", malformed,
         "index: weight_map at byte 17: comes twice"},
        {"a weight_map of numbers", R"({"weight_map":{"a":1}})", malformed,
         "index: weight_map at byte 19: expected '\"'"},
        {"a weight_map that is a list", R"({"weight_map":[]})", malformed,
         "index: weight_map at byte 14: expected '{'"},
        {"no UTF-8", "{\"\xff\":1}", malformed, "index: JSON at byte 2: is not valid UTF-8"},
        {"text behind it", index_of(torn.map, total) + "x", malformed, "end of the index at byte "},
    };
    const scratch_folder folder;
    torn.write(folder);
    std::filesystem::create_directory(folder.at("below"));
    (void)folder.write("copy.safetensors", layer_file({torn.two[1]}));
    (void)folder.write("damaged.safetensors", bytes(7));
    const std::string path = folder.at("model.safetensors.index.json");
    for (const broken_index& broken : indices) {
        INFO(broken.what);
        (void)folder.write("model.safetensors.index.json", text(broken.index));
        nb::safetensors_model model;
        // The copy is no part of the model's size.
        const nb::status s = nb::safetensors_model::open(
            path.c_str(), model, {.check_total_size = broken.code == nb::status_code::mismatch});
        INFO(s.message());
        CHECK(s.code() == broken.code);
        CHECK(s.message().find(broken.fragment) != std::string::npos);
        CHECK(s.message().find(folder.at("")) != std::string::npos);
        CHECK(model.tensors().empty());
    }
    (void)folder.write("model.safetensors.index.json", text(index_of(torn.map, "12345")));
    nb::safetensors_model model;
    CHECK(nb::safetensors_model::open(path.c_str(), model, {.check_total_size = false}).ok());

    (void)folder.write("model.safetensors.index.json", text("{"));
    std::filesystem::rename(path, folder.at("a.safetensors.index.json"));
    (void)folder.write("b.safetensors.index.json", text("{"));
    const scratch_folder empty;
    for (const auto& [where, code, fragment] : std::vector<std::tuple<std::string, nb::status_code, std::string>>{
             {"", nb::status_code::cannot_open, "no file name given"},
             {folder.at("nothing"), nb::status_code::cannot_open, "there is no such file"},
             {empty.at(""), nb::status_code::cannot_open, "no .safetensors file is in that folder"},
             {folder.at(""), nb::status_code::unsupported,
              "has several indices, among them 'a.safetensors.index.json' and 'b.safetensors.index.json'; open one"}}) {
        nb::safetensors_model none;
        const nb::status s = nb::safetensors_model::open(where.c_str(), none);
        INFO(s.message());
        CHECK(s.code() == code);
        CHECK(s.message().find(fragment) != std::string::npos);
    }
}

TEST_CASE("An index of any bytes is read or refused") {
    const scratch_folder folder;
    const torn_layer torn;
    torn.write(folder);
    const std::string whole = index_of(torn.map, std::to_string(torn.total));
    const std::string path = folder.at("model.safetensors.index.json");
    layer_random random(11);
    std::size_t refused = 0;
    for (int round = 0; round < 1500; ++round) {
        std::string damaged = whole;
        for (std::uint32_t changes = 1 + random.below(3); changes > 0; --changes) {
            constexpr std::string_view likely = "{}[]\":,\\u0123456789-+.eE tfnF/";
            const std::size_t at = random.below(static_cast<std::uint32_t>(damaged.size()));
            if (random.below(4) == 0)
                damaged.resize(at + 1);
            else
                damaged[at] = likely[random.below(static_cast<std::uint32_t>(likely.size()))];
        }
        (void)folder.write("model.safetensors.index.json", text(damaged));
        nb::safetensors_model model;
        const nb::status s = nb::safetensors_model::open(path.c_str(), model);
        CHECK(s.ok() == !model.shards().empty());
        refused += s.ok() ? 0u : 1u;
    }
    CHECK(refused > 500);
}

TEST_CASE("A file of a user's own is a source of tensors") {
    // One that renames: the layer "mine" is the file's "l".
    struct renamed {
        const nb::safetensors_file& file;
        [[nodiscard]] std::span<const nb::tensor_info> tensors() const { return file.tensors(); }
        [[nodiscard]] const nb::tensor_info* find(std::string_view name) const {
            return name.starts_with("mine") ? file.find("l" + std::string(name.substr(4))) : nullptr;
        }
        [[nodiscard]] std::optional<std::string_view> metadata_text(std::string_view key) const {
            return file.metadata_text(key);
        }
    };
    const made_layer made = make_gptq(5, 32, 64, 4, 32, "F16", true, false);
    const bytes all = layer_file(made.tensors);
    nb::safetensors_file file;
    REQUIRE(nb::safetensors_file::parse(all, file).ok());
    nb::quantized_layer<formats> layer;
    REQUIRE(nb::read_layer(renamed{file}, "mine", layer).ok());
    CHECK(layer.weights.rows() == 32);
    CHECK(nb::read_layer(renamed{file}, "l", layer).code() == nb::status_code::not_found);
    nb::model_file either;
    REQUIRE(nb::model_file::parse(all, either).ok());
    CHECK(nb::detect_layout(either, "l") == nb::layer_layout::gptq);
}
