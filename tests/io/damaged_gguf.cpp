// damaged_gguf.cpp: GGUF files with one fault each; the message must say field, offset and reason, word for word.
#include <support/catch.hpp>

#include <nibble/io/gguf.hpp>

#include "broken_gguf.hpp"

namespace nb = nibble;

TEST_CASE("a broken GGUF file is refused with field, offset and reason", "[io]") {
    const std::vector<nibble_test::broken_file> files = nibble_test::broken_gguf_files();
    CHECK(files.size() >= 60);
    for (const nibble_test::broken_file& test : files) {
        const nibble_test::exact_copy copy(test.file);
        nb::gguf_file file;
        const nb::status s = nb::gguf_file::parse(copy.view(), file);
        INFO(test.what);
        CHECK(s.code() == test.code);
        CHECK(s.message() == "gguf: " + test.message);
        CHECK(nibble_test::complaint_about(s, copy.view()) == "");
        CHECK(file.tensors().empty());
        CHECK(file.metadata().empty());
    }
}
