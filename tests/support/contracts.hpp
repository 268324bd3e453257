// contracts.hpp: what a broken contract says, without ending the program.
#pragma once

#include <nibble/core/check.hpp>

#include <string>

namespace gemm_test {

struct contract_broken {
    std::string message;
};

// Broken contracts are exceptions while one of these lives.
class throwing_handler {
public:
    throwing_handler()
        : before_(nibble::set_failure_handler(
              [](const char* message, const char*, int) { throw contract_broken{message}; })) {}
    throwing_handler(const throwing_handler&) = delete;
    throwing_handler& operator=(const throwing_handler&) = delete;
    ~throwing_handler() { nibble::set_failure_handler(before_); }

private:
    nibble::failure_handler before_;
};

// The message of the contract that `call` breaks, or "".
template <class Call> std::string broken_by(const Call& call) {
    const throwing_handler installed;
    try {
        call();
    } catch (const contract_broken& what) {
        return what.message;
    }
    return {};
}

} // namespace gemm_test
