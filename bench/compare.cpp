// compare.cpp: nibble_compare: what each number format costs in bits, error and time, on one weight matrix or a
// model's.
#include "support/evaluate.hpp"
#include "support/machine.hpp"
#include "support/measure.hpp"
#include "support/pareto.hpp"
#include "support/progress.hpp"
#include "support/report.hpp"
#include "support/scheme.hpp"
#include "support/workload.hpp"

#include <nibble/adapt/thread_pool.hpp>
#include <nibble/version.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <fstream>
#include <new>
#include <regex>
#include <string>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace {

constexpr int exit_usage = 2; // what the user gave cannot be used

struct arguments {
    std::string weights;
    std::string tensor;
    std::string schemes;
    std::size_t threads = std::max(1u, std::thread::hardware_concurrency());
    std::size_t tokens = 128;
    bool quick = false;
    bool all = false;
    bool list = false;
    std::string json;
    std::string csv;
    std::string plot;
};

std::string one_line(std::string text) {
    for (char& c : text)
        if (c == '\n' || c == '\r') c = ' ';
    while (!text.empty() && text.back() == ' ') text.pop_back();
    return text;
}

int fail(const std::string& message, int code = exit_usage) {
    std::fprintf(stderr, "nibble_compare: %s\n", one_line(message).c_str());
    return code;
}

std::vector<const bench::scheme*> choose_schemes(const std::string& pattern) {
    std::regex wanted;
    try {
        wanted = std::regex(pattern, std::regex::ECMAScript);
    } catch (const std::regex_error& error) {
        throw bench::user_error("--schemes '" + pattern + "' is not a regular expression: " + error.what());
    }
    std::vector<const bench::scheme*> chosen;
    for (const auto& one : bench::all_schemes())
        if (std::regex_search(std::string(one->name()), wanted)) chosen.push_back(one.get());
    if (chosen.empty())
        throw bench::user_error("no scheme has a name matching '" + pattern + "'; --list names all " +
                                std::to_string(bench::all_schemes().size()));
    return chosen;
}

// A run takes minutes: whether its result can be kept is asked before, without touching the file.
void require_writable(const char* option, const std::string& path) {
    if (path.empty()) return;
#if defined(__unix__) || defined(__APPLE__)
    const auto refuse = [&](int error) {
        throw bench::user_error(std::string(option) + ": cannot write '" + path + "': " + std::strerror(error));
    };
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0) {
        if (S_ISDIR(info.st_mode)) refuse(EISDIR);
        if (::access(path.c_str(), W_OK) != 0) refuse(errno);
        return;
    }
    if (errno != ENOENT) refuse(errno);
    const auto slash = path.find_last_of('/');
    const std::string folder = slash == std::string::npos ? "." : slash == 0 ? "/" : path.substr(0, slash);
    if (::stat(folder.c_str(), &info) != 0) refuse(errno);
    if (!S_ISDIR(info.st_mode)) refuse(ENOTDIR);
    if (path.back() == '/') refuse(EISDIR);
    if (::access(folder.c_str(), W_OK) != 0) refuse(errno);
#else
    (void)option;
#endif
}

void write_file(const char* option, const std::string& path, const std::string& text) {
    if (path.empty()) return;
    errno = 0;
    std::ofstream file(path, std::ios::binary);
    file << text;
    file.close();
    if (!file)
        throw bench::user_error(std::string(option) + ": cannot write '" + path + "'" +
                                (errno != 0 ? std::string(": ") + std::strerror(errno) : std::string()));
}

int run(const arguments& given) {
    const auto schemes = choose_schemes(given.schemes);
    require_writable("--json", given.json);
    require_writable("--csv", given.csv);
    require_writable("--plot", given.plot);

    const nibble::thread_pool pool(given.threads);
    const bench::executor_ref threads(pool);

    const std::size_t tokens = std::max(given.tokens, bench::evaluator::error_tokens);
    const std::size_t edge = given.quick ? 2048 : 4096;
    const std::size_t largest = std::size_t{1} << (given.quick ? 26 : 28);
    const bench::workload work = given.weights.empty()
                                     ? bench::synthetic_workload(edge, edge, tokens, threads)
                                     : bench::file_workload(given.weights, given.tensor, largest, tokens, threads);
    for (const std::string& note : work.notes) std::fprintf(stderr, "nibble_compare: note: %s\n", note.c_str());

    bench::comparison result;
    result.machine = bench::describe_machine();
    result.threads = threads.concurrency();
    result.tokens = given.tokens;
    result.workload = work.title;
    result.cold_bytes = std::max(std::size_t{160} << 20, 2 * result.machine.last_level_cache_bytes);

    bench::evaluation_settings settings;
    settings.tokens = given.tokens;
    settings.cold_bytes = result.cold_bytes;
    settings.quantize = {.wanted = given.quick ? 2 : 3, .most = given.quick ? 3 : 6, .budget_seconds = 0.5};
    settings.gemv = {.wanted = given.quick ? 3 : 7, .most = given.quick ? 9 : 21, .budget_seconds = 1.0};
    settings.gemm = {.wanted = given.quick ? 3 : 5, .most = given.quick ? 6 : 15, .budget_seconds = 1.2};

    bench::progress bar(schemes.size());
    bar.show(0, "what the machine can do");
    bench::machine_limits limits(threads);
    bench::evaluator evaluator(work, settings, limits);
    bar.show(0, "Eigen fp32");
    result.eigen = evaluator.eigen();
    for (std::size_t i = 0; i < schemes.size(); ++i) {
        const std::string name(schemes[i]->name());
        result.rows.push_back(evaluator.evaluate(
            *schemes[i], [&](std::string_view stage) { bar.show(i, name + ": " + std::string(stage)); }));
    }
    bar.clear();
    result.read_bandwidth_GBps = limits.read_bandwidth_GBps();
    result.fma_peak_GFLOPs = limits.fma_peak_GFLOPs();
    result.undisturbed_share = limits.undisturbed_share();

    // Smallest first: the front then climbs from row to row.
    std::stable_sort(result.rows.begin(), result.rows.end(), [](const bench::row& a, const bench::row& b) {
        return a.bits_per_weight != b.bits_per_weight ? a.bits_per_weight < b.bits_per_weight
                                                      : a.gemm_sqnr_db < b.gemm_sqnr_db;
    });
    bench::mark_pareto(result.rows);

    const bool styled = bench::is_terminal(1) && std::getenv("NO_COLOR") == nullptr;
    // What was asked for by name is shown.
    const auto shown = given.all || !given.schemes.empty() ? bench::table_rows::every : bench::table_rows::chosen;
    std::fputs(bench::to_table(result, shown, styled).c_str(), stdout);
    if (std::fflush(stdout) != 0) throw bench::user_error("cannot write the table to standard output");
    if (!given.json.empty()) write_file("--json", given.json, bench::to_json(result));
    if (!given.csv.empty()) write_file("--csv", given.csv, bench::to_csv(result));
    if (!given.plot.empty()) write_file("--plot", given.plot, bench::to_svg(result));
    return 0;
}

} // namespace

int main(int argc, char** argv) {
    arguments given;
    CLI::App app{
        "Compares number formats for the weights of a language model: bits, error and time of each, by the kernels "
        "that would run.\n"
        "Without --weights: a synthetic 4096 x 4096 matrix with a model's bell shape and outlier channels, the "
        "same on every machine.",
        "nibble_compare"};
    app.set_version_flag("--version", "nibble " + std::to_string(NIBBLE_VERSION_MAJOR) + "." +
                                          std::to_string(NIBBLE_VERSION_MINOR) + "." +
                                          std::to_string(NIBBLE_VERSION_PATCH));
    const CLI::Validator named([](std::string& path) { return path.empty() ? "the file name is empty" : ""; }, "",
                               "named");
    auto* weights = app.add_option("--weights", given.weights, "model to take weights from: .gguf or .safetensors")
                        ->type_name("FILE")
                        ->check(named);
    app.add_option("--tensor", given.tensor,
                   "use the matrices whose names match (anywhere in the name);\n"
                   "default: the linear layers, no embedding, head or norm")
        ->type_name("REGEX")
        ->needs(weights);
    app.add_option("--schemes", given.schemes, "compare only schemes whose names match, for example '^int4|mxfp4'")
        ->type_name("REGEX");
    app.add_flag("--all", given.all,
                 "print every scheme, not the Pareto front and the best known alone (files have them all)")
        ->disable_flag_override();
    app.add_flag("--list", given.list, "print the names of all schemes and stop")->disable_flag_override();
    app.add_option("--threads", given.threads, "threads of every kernel and probe")
        ->type_name("T")
        ->check(CLI::Range(1, 1024))
        ->capture_default_str();
    app.add_option("--tokens", given.tokens, "M of the GEMM that is timed; GEMV has one token")
        ->type_name("M")
        ->check(CLI::Range(1, 65536))
        ->capture_default_str();
    app.add_flag("--quick", given.quick, "a smaller matrix (2048 x 2048) and fewer samples")->disable_flag_override();
    app.add_option("--json", given.json, "also write machine, limits and rows as JSON")
        ->type_name("FILE")
        ->check(named);
    app.add_option("--csv", given.csv, "also write the rows as CSV")->type_name("FILE")->check(named);
    app.add_option("--plot", given.plot, "also draw error against size, as SVG")->type_name("FILE.svg")->check(named);
    app.footer(
        "Columns\n"
        "  size      bits per weight of codes, scales and zero points\n"
        "  SQNR      signal over noise energy, dB: of the dequantized weights; of the GEMM's output over 64 tokens\n"
        "            against fp64 on the original weights and activations\n"
        "  codec     fp32 bytes read by quantize (encode) and written by dequantize (decode), per second\n"
        "  GEMV      one token through all weights, rotating over copies larger than twice the last-level cache\n"
        "            (at least 160 MiB); bytes are those of the packed weights\n"
        "  GEMM      2 M N K operations per second; vs Eigen: the time of Eigen's fp32 product of the same shape\n"
        "            on the same threads over the time of the kernel\n"
        "  of read, of fma: shares of the read bandwidth and fp32 fma rate probed between the samples\n"
        "\n"
        "Exit status: 0; 2 if an argument or a file cannot be used; 1 if anything else failed.");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        if (error.get_exit_code() == 0) return app.exit(error);
        return fail(one_line(error.what()) + " (see --help)");
    }

    try {
        if (given.list) {
            for (const auto& one : bench::all_schemes()) std::printf("%s\n", std::string(one->name()).c_str());
            return 0;
        }
        return run(given);
    } catch (const bench::user_error& error) {
        return fail(error.what());
    } catch (const std::bad_alloc&) {
        return fail("out of memory", 1);
    } catch (const std::exception& error) {
        return fail(error.what(), 1);
    }
}
