// scratch_folder.hpp: a folder of its own for a test that writes files.
#pragma once

#include <support/catch.hpp>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <ios>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

#include <stdlib.h>

namespace nibble_test {

// A directory of its own that goes away with the test.
class scratch_folder {
public:
    scratch_folder() {
        std::string name = (std::filesystem::temp_directory_path() / "nibble-io-XXXXXX").string();
        REQUIRE(::mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    scratch_folder(const scratch_folder&) = delete;
    scratch_folder& operator=(const scratch_folder&) = delete;
    ~scratch_folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path_, ignored);
    }
    [[nodiscard]] std::string at(std::string_view name) const { return (path_ / name).string(); }
    std::string write(std::string_view name, std::span<const std::byte> content) const {
        std::ofstream file(path_ / name, std::ios::binary);
        file.write(reinterpret_cast<const char*>(content.data()), static_cast<std::streamsize>(content.size()));
        return at(name);
    }

private:
    std::filesystem::path path_;
};

} // namespace nibble_test
