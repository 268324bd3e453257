// command_line.cpp: parsing, the head, and what becomes of exceptions.
#include "command_line.hpp"

#include "machine.hpp"
#include "workload.hpp"

#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>
#include <new>

namespace bench {
namespace {

int fail(const CLI::App& app, std::string message, int code) {
    for (char& c : message)
        if (c == '\n' || c == '\r') c = ' ';
    std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), message.c_str());
    return code;
}

} // namespace

std::regex parse_pattern(std::string_view option, const std::string& pattern) {
    try {
        return std::regex(pattern, std::regex::ECMAScript);
    } catch (const std::regex_error& error) {
        throw user_error(std::string(option) + " '" + pattern + "' is not a regular expression: " + error.what());
    }
}

std::vector<weight_shape> parse_shapes(std::string_view option, const std::vector<std::string>& texts) {
    std::vector<weight_shape> shapes;
    for (const std::string& text : texts) {
        const auto shape = parse_shape(text);
        if (!shape)
            throw user_error(std::string(option) + ": '" + text + "' is no size; N = 4096, K = 11008 is 4096x11008");
        shapes.push_back(*shape);
    }
    drop_repeated(shapes);
    return shapes;
}

void describe_build() {
    const machine_facts facts = describe_machine();
    benchmark::AddCustomContext("machine", facts.machine);
    benchmark::AddCustomContext("compiler", facts.compiler);
    benchmark::AddCustomContext("flags", facts.flags);
}

int bench_main(CLI::App& app, int argc, char** argv, const std::function<int(std::vector<char*> rest)>& run) {
    app.allow_extras();
    app.footer("Google Benchmark's own options work too: --benchmark_filter=REGEX (on the names of lines),\n"
               "--benchmark_list_tests, --benchmark_format=json, --benchmark_out=FILE, --benchmark_repetitions=N,\n"
               "--benchmark_min_time=SECONDS for more samples.\n"
               "\n"
               "Exit status: 0; 2 if an argument cannot be used; 1 if anything else failed.");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);
        return fail(app, std::string(error.what()) + " (see --help)", exit_usage);
    }
    std::vector<std::string> texts{app.get_name(), "--benchmark_min_time=0.000001"};
    for (const std::string& rest : app.remaining()) texts.push_back(rest);
    std::vector<char*> pointers;
    for (std::string& text : texts) pointers.push_back(text.data());
    try {
        return run(std::move(pointers));
    } catch (const user_error& error) {
        return fail(app, error.what(), exit_usage);
    } catch (const std::bad_alloc&) {
        return fail(app, "out of memory", 1);
    } catch (const std::exception& error) {
        return fail(app, error.what(), 1);
    }
}

} // namespace bench
