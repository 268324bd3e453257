// safetensors_model.hpp: all safetensors files of one model as if they were one: an index, a folder, or a single file.
#pragma once

#include <nibble/io/file_error.hpp>
#include <nibble/io/mapped_file.hpp>
#include <nibble/io/name_index.hpp>
#include <nibble/io/safetensors.hpp>
#include <nibble/io/safetensors_index.hpp>
#include <nibble/io/tensor_file.hpp>

#include <nibble/core/config.hpp>
#include <nibble/core/reset_on_move.hpp>
#include <nibble/core/status.hpp>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <dirent.h>
#include <sys/stat.h>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct safetensors_model_options {
    // Refuse an index whose total_size is not the bytes of the tensors: it belongs to other files. Some tools write a
    // wrong one.
    bool check_total_size = true;
};

// One file of a model.
struct safetensors_shard {
    std::string name; // as the index has it, or in its folder
    safetensors_file file;
};

// The open safetensors files of a model. Each is checked as safetensors_file does; besides, no two have a tensor of the
// same name, and with an index every tensor that it lists is in the file that it says. Takes the place of a
// safetensors_file in read_layer, detect_layout and list_layers: the tensors of a layer may lie in different files.
class safetensors_model {
public:
    safetensors_model() noexcept = default;

    // Maps the files of the model at `path`, which is
    //   an index      "model.safetensors.index.json" of transformers, or one of another name: the files that it names,
    //                 in its folder or below
    //   a folder      its model.safetensors; without that, its model.safetensors.index.json, or the only other index;
    //                 without any, every .safetensors file in it, of which none may be missing by their names
    //                 ("-00001-of-00003")
    //   another file  which is then the only one
    // `out` stays as it was unless the result is ok: cannot_open for a file that is missing; malformed for an index
    // that is none, names files outside of its folder or a tensor twice, and for tensors in two files; not_found for a
    // tensor that is not in its file; mismatch for a wrong total_size; and the errors of safetensors_file. n log n in
    // the number of tensors.
    [[nodiscard]] static status open(const char* path, safetensors_model& out,
                                     const safetensors_model_options& options = {}) {
        if (path == nullptr || *path == '\0') return {status_code::cannot_open, "no file name given"};
        struct stat facts {};
        content model;
        status s;
        if (::stat(path, &facts) == 0 && S_ISDIR(facts.st_mode)) {
            s = open_folder(std::string(path) + "/", model, options);
        } else {
            mapped_file file;
            s = mapped_file::open(path, file);
            if (s.ok())
                s = is_text(file.bytes()) ? open_index(path, std::move(file), model, options)
                                          : detail::in_file(path, add(path, std::move(file), model));
        }
        if (s.ok()) s = detail::in_file(path, gather(model));
        if (s.ok()) out.content_ = std::move(model);
        return s;
    }

    // Of all files, one file after the other in the order of their names.
    [[nodiscard]] std::span<const tensor_info> tensors() const noexcept { return content_->tensors; }
    // nullptr if there is no tensor of that name.
    [[nodiscard]] const tensor_info* find(std::string_view name) const { return content_->find(name); }
    // From the first file that has it.
    [[nodiscard]] std::optional<std::string_view> metadata_text(std::string_view key) const {
        for (const safetensors_shard& shard : content_->shards)
            if (const auto text = shard.file.metadata_text(key)) return text;
        return std::nullopt;
    }
    [[nodiscard]] std::span<const safetensors_shard> shards() const noexcept { return content_->shards; }

private:
    struct content {
        std::vector<safetensors_shard> shards;
        std::vector<tensor_info> tensors;
        detail::name_index names;

        [[nodiscard]] const tensor_info* find(std::string_view name) const {
            const std::size_t i = names.find(name, [this](std::size_t at) { return tensors[at].name; });
            return i < tensors.size() ? &tensors[i] : nullptr;
        }
        // The shard of tensor i.
        [[nodiscard]] const safetensors_shard& shard_of(std::size_t i) const {
            std::size_t s = 0;
            for (; i >= shards[s].file.tensors().size(); ++s) i -= shards[s].file.tensors().size();
            return shards[s];
        }
    };

    // JSON has no byte of 0 in its first eight, safetensors has: its header is shorter than 2^56.
    [[nodiscard]] static bool is_text(std::span<const std::byte> bytes) noexcept {
        for (std::size_t i = 0; i < 8 && i < bytes.size(); ++i)
            if (bytes[i] == std::byte{0}) return false;
        const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
        const std::size_t start = text.find_first_not_of(" \t\r\n");
        return start != std::string_view::npos && text[start] == '{';
    }

    [[nodiscard]] static status add(std::string name, mapped_file file, content& model) {
        safetensors_shard& shard = model.shards.emplace_back();
        shard.name = std::move(name);
        return safetensors_file::open(std::move(file), shard.file);
    }
    [[nodiscard]] static status add(const std::string& folder, std::string_view name, content& model) {
        const std::string path = folder + std::string(name);
        mapped_file file;
        status s = mapped_file::open(path.c_str(), file);
        return s.ok() ? detail::in_file(path.c_str(), add(std::string(name), std::move(file), model)) : s;
    }

    // All tensors by name. Once all shards are there: they stay where they are from then on.
    [[nodiscard]] static status gather(content& model) {
        for (const safetensors_shard& shard : model.shards)
            model.tensors.insert(model.tensors.end(), shard.file.tensors().begin(), shard.file.tensors().end());
        const auto name_at = [&](std::size_t i) { return model.tensors[i].name; };
        const std::size_t twice = model.names.build(model.tensors.size(), name_at);
        if (twice == model.tensors.size()) return {};
        std::size_t first = 0;
        while (model.tensors[first].name != model.tensors[twice].name) ++first;
        return {status_code::malformed, "tensor " + detail::in_quotes(model.tensors[twice].name) + " is in both " +
                                            detail::in_quotes(model.shard_of(first).name) + " and " +
                                            detail::in_quotes(model.shard_of(twice).name)};
    }

    [[nodiscard]] static status open_index(const std::string& path, mapped_file file, content& model,
                                           const safetensors_model_options& options) {
        const std::span<const std::byte> bytes = file.bytes();
        detail::safetensors_index index;
        status s =
            detail::safetensors_index_parser({reinterpret_cast<const char*>(bytes.data()), bytes.size()}).run(index);
        if (!s.ok()) return detail::in_file(path.c_str(), s);
        const std::size_t slash = path.rfind('/');
        const std::string folder = slash == std::string::npos ? "" : path.substr(0, slash + 1);
        const auto name_at = [&](std::size_t i) { return index.entries[i].tensor; };
        const auto fail = [&](status_code code, std::string why) { return status(code, path + ": " + std::move(why)); };
        detail::name_index entries;
        if (const std::size_t twice = entries.build(index.entries.size(), name_at); twice != index.entries.size())
            return fail(status_code::malformed,
                        "index: tensor " + detail::in_quotes(index.entries[twice].tensor) + " comes twice");
        for (const std::string_view name : index.files) {
            s = add(folder, name, model);
            if (s.code() == status_code::cannot_open)
                return fail(s.code(), "index: one of its " + std::to_string(index.files.size()) +
                                          " files is not there: " + s.message());
            if (!s.ok()) return s;
        }
        for (const detail::safetensors_index::entry& entry : index.entries)
            if (model.shards[entry.file].file.find(entry.tensor) == nullptr)
                return fail(status_code::not_found, "index: tensor " + detail::in_quotes(entry.tensor) + " is not in " +
                                                        detail::in_quotes(entry.file_name) +
                                                        ", where the index has it");
        std::uint64_t total = 0;
        for (const safetensors_shard& shard : model.shards)
            for (const tensor_info& tensor : shard.file.tensors()) total += tensor.bytes;
        if (options.check_total_size && index.total_size.has_value() && *index.total_size != total)
            return fail(status_code::mismatch,
                        "index: total_size is " + std::to_string(*index.total_size) + ", but the tensors have " +
                            std::to_string(total) +
                            " bytes: the files are of another model, or safetensors_model_options::check_total_size "
                            "is to be false");
        return {};
    }

    [[nodiscard]] static status open_folder(const std::string& folder, content& model,
                                            const safetensors_model_options& options) {
        std::vector<std::string> files;
        std::vector<std::string> indices;
        ::DIR* const listing = ::opendir(folder.c_str());
        if (listing == nullptr) return {status_code::cannot_open, "cannot open " + folder + ": it cannot be listed"};
        while (const ::dirent* entry = ::readdir(listing)) {
            const std::string_view name(entry->d_name);
            if (name.ends_with(".safetensors")) files.emplace_back(name);
            if (name.ends_with(".safetensors.index.json")) indices.emplace_back(name);
        }
        ::closedir(listing);
        const auto less = [](const std::string& a, const std::string& b) { return a < b; };
        detail::heap_sort(files, less);
        detail::heap_sort(indices, less);
        for (const std::string& name : files)
            if (name == "model.safetensors") return add(folder, name, model);
        for (const std::string& name : indices)
            if (name == "model.safetensors.index.json") indices = {name};
        if (indices.size() > 1)
            return {status_code::unsupported, folder + ": has several indices, among them " +
                                                  detail::in_quotes(indices[0]) + " and " +
                                                  detail::in_quotes(indices[1]) + "; open one of them"};
        if (!indices.empty()) {
            const std::string path = folder + indices[0];
            mapped_file file;
            status s = mapped_file::open(path.c_str(), file);
            return s.ok() ? open_index(path, std::move(file), model, options) : s;
        }
        if (files.empty())
            return {status_code::cannot_open, "cannot open " + folder + ": no .safetensors file is in that folder"};
        for (const std::string& name : files) {
            const std::string missing = missing_beside(name, files);
            if (!missing.empty())
                return {status_code::cannot_open, "cannot open " + folder + ": there is " + detail::in_quotes(name) +
                                                      ", but not " + detail::in_quotes(missing)};
            status s = add(folder, name, model);
            if (!s.ok()) return s;
        }
        return {};
    }

    // The shard before or behind "a-00003-of-00005.safetensors" that is not in the list; "" if both are there, or the
    // name counts nothing.
    [[nodiscard]] static std::string missing_beside(const std::string& name, const std::vector<std::string>& files) {
        constexpr std::size_t digits = 5;
        constexpr std::string_view between = "-of-";
        constexpr std::string_view end = ".safetensors";
        if (name.size() < 1 + 2 * digits + between.size() + end.size()) return "";
        const std::size_t count_at = name.size() - end.size() - digits;
        const std::size_t number_at = count_at - between.size() - digits;
        const auto number = [&](std::size_t at) {
            std::size_t value = 0;
            for (std::size_t i = at; i < at + digits; ++i) {
                if (name[i] < '0' || name[i] > '9') return std::size_t{0};
                value = 10 * value + static_cast<std::size_t>(name[i] - '0');
            }
            return value;
        };
        if (number_at == 0 || name[number_at - 1] != '-' || name.compare(number_at + digits, 4, between) != 0)
            return "";
        const std::size_t count = number(count_at);
        if (count == 0 || number(number_at) == 0) return "";
        const auto there = [&](const std::string& wanted) {
            for (const std::string& file : files)
                if (file == wanted) return true;
            return false;
        };
        // One before, and one behind: of all shards together every one then is there, or one is missed.
        for (const std::size_t wanted : {number(number_at) - 1, number(number_at) + 1}) {
            if (wanted == 0 || wanted > count) continue;
            std::string other = name;
            std::size_t rest = wanted;
            for (std::size_t i = number_at + digits; i-- > number_at; rest /= 10)
                other[i] = static_cast<char>('0' + rest % 10);
            if (!there(other)) return other;
        }
        return "";
    }

    detail::reset_on_move<content> content_;
};

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
