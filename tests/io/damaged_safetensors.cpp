// damaged_safetensors.cpp: safetensors files with one fault each; the message must say field, offset and reason, word
// for word.
#include <support/catch.hpp>

#include <nibble/io/safetensors.hpp>

#include "broken_safetensors.hpp"

namespace nb = nibble;

TEST_CASE("a broken safetensors file is refused with field, offset and reason", "[io]") {
    const std::vector<nibble_test::broken_file> files = nibble_test::broken_safetensors_files();
    CHECK(files.size() >= 90);
    for (const nibble_test::broken_file& test : files) {
        const nibble_test::exact_copy copy(test.file);
        nb::safetensors_file file;
        const nb::status s = nb::safetensors_file::parse(copy.view(), file);
        INFO(test.what);
        CHECK(s.code() == test.code);
        CHECK(s.message() == "safetensors: " + test.message);
        CHECK(nibble_test::complaint_about(s, copy.view()) == "");
        CHECK(file.tensors().empty());
        CHECK(file.metadata().empty());
    }
}
