// progress.hpp: one line on stderr that says how far a long run is; silent where nobody looks.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <string_view>

namespace bench {

class progress {
public:
    explicit progress(std::size_t steps);
    progress(const progress&) = delete;
    progress& operator=(const progress&) = delete;
    ~progress() { clear(); }

    // What is being done now, and how many steps are behind.
    void show(std::size_t done, std::string_view what);
    // Takes the line away again.
    void clear();

private:
    std::size_t steps_;
    bool visible_; // stderr is a terminal
    bool drawn_ = false;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Is the standard stream (1: output, 2: error) a terminal?
[[nodiscard]] bool is_terminal(int stream);

} // namespace bench
