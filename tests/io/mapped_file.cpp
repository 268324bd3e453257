// mapped_file.cpp: files that map, and everything else that a path may name.
#include <support/catch.hpp>

#include <nibble/io/model_file.hpp>

#include "io_support.hpp"
#include "scratch_folder.hpp"

#include <filesystem>
#include <string>
#include <utility>

#include <sys/stat.h>
#include <unistd.h>

namespace nb = nibble;
using nibble_test::scratch_folder;

namespace {

template <class File> void cannot_open(const char* path, const char* fragment) {
    File file;
    const nb::status s = File::open(path, file);
    INFO(s.message());
    CHECK(s.code() == nb::status_code::cannot_open);
    CHECK(s.message().find(fragment) != std::string::npos);
}

} // namespace

TEST_CASE("a file is mapped as it is, and the mapping moves", "[io]") {
    const scratch_folder folder;
    const std::string path = folder.write("file", nibble_test::byte_writer().raw("hello").take());
    nb::mapped_file file;
    CHECK(file.bytes().empty());
    REQUIRE(nb::mapped_file::open(path.c_str(), file).ok());
    REQUIRE(file.bytes().size() == 5);
    CHECK(file.bytes()[4] == std::byte{'o'});
    const std::byte* where = file.bytes().data();
    nb::mapped_file other = std::move(file);
    CHECK(other.bytes().data() == where);
    CHECK(file.bytes().empty()); // NOLINT: a moved-from mapping is empty
    file = std::move(other);
    CHECK(file.bytes().data() == where);
    CHECK(!nb::mapped_file::open(folder.at("none").c_str(), file).ok());
    CHECK(file.bytes().data() == where); // a failure leaves it alone
}

TEST_CASE("what is no readable file is refused with the reason", "[io]") {
    const scratch_folder folder;
    const std::string missing = folder.at("missing");
    const std::string empty = folder.write("empty", {});
    const std::string pipe = folder.at("pipe");
    REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
    cannot_open<nb::mapped_file>(nullptr, "no file name");
    cannot_open<nb::mapped_file>("", "no file name");
    cannot_open<nb::mapped_file>(missing.c_str(), "missing: there is no such file");
    cannot_open<nb::mapped_file>((missing + "/below").c_str(), "there is no such file");
    cannot_open<nb::mapped_file>(folder.at("").c_str(), "it is a directory");
    cannot_open<nb::mapped_file>(empty.c_str(), "it is empty");
    cannot_open<nb::mapped_file>(pipe.c_str(), "it is not a regular file"); // and does not wait for a writer
    cannot_open<nb::gguf_file>(missing.c_str(), "there is no such file");
    cannot_open<nb::safetensors_file>(empty.c_str(), "it is empty");
    cannot_open<nb::model_file>(folder.at("").c_str(), "it is a directory");
    if (::geteuid() != 0) { // the superuser may read everything
        const std::string locked = folder.write("locked", nibble_test::byte_writer().raw("x").take());
        REQUIRE(::chmod(locked.c_str(), 0) == 0);
        cannot_open<nb::mapped_file>(locked.c_str(), "no permission");
    }
}

TEST_CASE("either format opens from disk by its content", "[io]") {
    const scratch_folder folder;
    const nibble_test::bytes gguf_bytes = nibble_test::valid_gguf().write();
    const nibble_test::bytes safe_bytes = nibble_test::valid_safetensors();
    const std::string gguf = folder.write("a.safetensors", gguf_bytes); // the name says nothing
    const std::string safe = folder.write("a.gguf", safe_bytes);
    nb::model_file file;
    CHECK(file.format() == nb::model_format::none);
    CHECK(file.tensors().empty());
    CHECK(file.find("f32") == nullptr);

    REQUIRE(nb::model_file::open(gguf.c_str(), file).ok());
    CHECK(file.format() == nb::model_format::gguf);
    REQUIRE(file.as_gguf() != nullptr);
    CHECK(file.as_safetensors() == nullptr);
    CHECK(file.metadata_text("text") == "llama");
    REQUIRE(file.find("f32") != nullptr);
    float row[3] = {};
    REQUIRE(nb::read_rows(*file.find("f32"), 1, {row, 1, 3}).ok());
    CHECK(row[2] == 5.25f);

    // A failure, of either kind, leaves the open file alone.
    CHECK(!nb::model_file::open(folder.at("none").c_str(), file).ok());
    const std::string broken = folder.write("broken", std::span(gguf_bytes).first(100));
    const nb::status s = nb::model_file::open(broken.c_str(), file);
    CHECK(s.code() == nb::status_code::truncated);
    CHECK(s.message().find("broken: gguf: ") != std::string::npos);
    const std::string text = folder.write("text", nibble_test::byte_writer().raw("neither one nor the other").take());
    CHECK(nb::model_file::open(text.c_str(), file).code() == nb::status_code::malformed);
    CHECK(file.find("f32") != nullptr);

    REQUIRE(nb::model_file::open(safe.c_str(), file).ok());
    CHECK(file.format() == nb::model_format::safetensors);
    CHECK(file.as_gguf() == nullptr);
    REQUIRE(file.as_safetensors() != nullptr);
    CHECK(file.metadata_text("format") == "pt");
    CHECK(file.find("scalar") != nullptr);

    // What the file handed out survives a move: descriptions and data stay where they are.
    const nb::tensor_info* scalar = file.find("scalar");
    const std::byte* data = scalar->data;
    nb::model_file moved = std::move(file);
    CHECK(moved.find("scalar") == scalar);
    CHECK(moved.find("scalar")->data == data);
    CHECK(moved.find("scalar")->name == "scalar");
}

TEST_CASE("a file that is often given in place of a model is named for what it is", "[io]") {
    struct foreign {
        const char* what;
        std::string content;
        const char* says;
    };
    // As transformers writes it, names between spaces and lines.
    std::string many = "{\n  \"metadata\": {\n    \"total_size\": 16060522496\n  },\n  \"weight_map\": {\n";
    for (int i = 0; i < 12; ++i)
        many += "    \"model.layers." + std::to_string(i) + ".weight\": \"model-" + std::to_string(1 + i / 3) +
                "-of-4.safetensors\"" + (i == 11 ? "\n" : ",\n");
    many += "  }\n}\n";
    // A model of one file, and a brace at byte 8, where safetensors has one.
    const std::string one = R"({"abcd":{},"weight_map":{"a.weight":"model.safetensors"}})";
    const foreign files[] = {
        {"an index", many,
         "it is an index of safetensors files; safetensors_model opens it with the 4 files that it names: "
         "'model-1-of-4.safetensors', 'model-2-of-4.safetensors', 'model-3-of-4.safetensors' ..."},
        {"an index of one file", one,
         "it is an index of safetensors files; safetensors_model opens it with the file that it names: "
         "'model.safetensors'"},
        {"a configuration", "{\"architectures\": [\"LlamaForCausalLM\"], \"time_step_limit\": [0.0, Infinity]}",
         "it is JSON; the weights are in the .safetensors or .gguf file beside it"},
        {"an index cut off", many.substr(0, many.size() - 20), "it is JSON; the weights are in"},
        {"an index of other values", R"({"weight_map":{"a.weight":1}})", "it is JSON; the weights are in"},
        {"a pointer of Git LFS", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 3\n",
         "it is a Git LFS pointer, which stands for a file that is not here; git lfs pull fetches it"},
        {"a PyTorch file", std::string("PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl", 26),
         "it is a zip archive, as PyTorch writes it; save the model as safetensors"},
        {"anything else", "neither one nor the other", nullptr},
    };
    const scratch_folder folder;
    for (const foreign& test : files) {
        INFO(test.what);
        const std::string path =
            folder.write("model.safetensors.index.json", nibble_test::byte_writer().raw(test.content).take());
        nb::model_file model;
        nb::safetensors_file safetensors;
        nb::gguf_file gguf;
        for (const nb::status& s :
             {nb::model_file::open(path.c_str(), model), nb::safetensors_file::open(path.c_str(), safetensors),
              nb::gguf_file::open(path.c_str(), gguf)}) {
            INFO(s.message());
            CHECK(s.code() == nb::status_code::malformed);
            CHECK(s.message().find(path + ": ") == 0);
            if (test.says != nullptr)
                CHECK(s.message().find(test.says) != std::string::npos);
            else
                CHECK(s.message().find("it is") == std::string::npos);
        }
    }
}
