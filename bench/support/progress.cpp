// progress.cpp: the bar.
#include "progress.hpp"

#include <algorithm>
#include <cstdio>

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

namespace bench {

bool is_terminal(int stream) {
#if defined(__unix__) || defined(__APPLE__)
    return ::isatty(stream) == 1;
#else
    (void)stream;
    return false;
#endif
}

progress::progress(std::size_t steps) : steps_(std::max<std::size_t>(steps, 1)), visible_(is_terminal(2)) {}

void progress::show(std::size_t done, std::string_view what) {
    if (!visible_) return;
    constexpr std::size_t width = 28;
    const std::size_t full = std::min(width, width * done / steps_);
    std::string bar(full, '#');
    bar.append(width - full, '.');
    std::string left;
    if (done > 0 && done < steps_) {
        const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
        const double rest = passed / static_cast<double>(done) * static_cast<double>(steps_ - done);
        left = ", " + std::to_string(static_cast<int>(rest) + 1) + " s left";
    }
    std::fprintf(stderr, "\r\033[K[%s] %zu/%zu  %.40s%s", bar.c_str(), done, steps_, std::string(what).c_str(),
                 left.c_str());
    std::fflush(stderr);
    drawn_ = true;
}

void progress::clear() {
    if (!drawn_) return;
    std::fputs("\r\033[K", stderr);
    std::fflush(stderr);
    drawn_ = false;
}

} // namespace bench
