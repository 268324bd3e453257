// report.cpp: the table, JSON and CSV; plot.cpp has the SVG.
#include "report.hpp"

#include "sqnr.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <string_view>

namespace bench {
namespace {

template <class... Arguments> std::string format(const char* pattern, Arguments... arguments) {
    char text[512];
    std::snprintf(text, sizeof text, pattern, arguments...);
    return text;
}

std::string db(double value) {
    return value >= exact_db ? std::string("exact") : format("%.2f", value);
}

// Three or four digits, whatever the size: 0.123, 1.23, 12.3, 1234.
std::string compact(double value) {
    const int digits = std::abs(value) >= 99.95 ? 0 : std::abs(value) >= 9.995 ? 1 : std::abs(value) >= 0.9995 ? 2 : 3;
    return format("%.*f", digits, value);
}

// Six significant digits are more than any of these numbers means.
double rounded(double value) {
    return std::isfinite(value) ? std::strtod(format("%.6g", value).c_str(), nullptr) : value;
}

bool well_known(std::string_view scheme) {
    constexpr std::string_view names[] = {"f16",  "int8_g32",  "fp8_e4m3_channel", "q6_k",  "q4_k", "q4_0",
                                          "q3_k", "int4_g128", "nf4_g64",          "mxfp4", "q2_k", "nvfp4"};
    return std::find(std::begin(names), std::end(names), scheme) != std::end(names);
}

// What to take: "Most exact within 8.5 bits: mxint8 (41.0 dB); 6.6: ...", in lines of at most 110 columns. A budget
// that buys no more than the next smaller one is left out.
std::string most_exact_within_budgets(const std::vector<row>& rows) {
    std::string text;
    std::string line = "Most exact output within";
    const row* last = nullptr;
    for (const double budget : {2.7, 3.5, 4.25, 4.5, 5.5, 6.6, 8.5}) {
        const row* best = nullptr;
        for (const row& one : rows)
            if (one.bits_per_weight <= budget && (best == nullptr || one.gemm_sqnr_db > best->gemm_sqnr_db))
                best = &one;
        if (best == nullptr || best == last) continue;
        const std::string piece = format("%s %g bits: %.40s (%s dB)", last == nullptr ? "" : ";", budget,
                                         best->scheme.c_str(), db(best->gemm_sqnr_db).c_str());
        if (line.size() + piece.size() > 110) {
            text += line + (last == nullptr ? "\n" : ";\n");
            line = "  " + piece.substr(last == nullptr ? 1 : 2);
        } else {
            line += piece;
        }
        last = best;
    }
    return last == nullptr ? std::string() : text + line + '\n';
}

// Member names and values of a row, in the order of every report.
template <class Visit> void for_each_member(const row& one, Visit&& visit) {
    visit("scheme", one.scheme);
    visit("bits_per_weight", one.bits_per_weight);
    visit("weight_sqnr_db", one.weight_sqnr_db);
    visit("gemm_sqnr_db", one.gemm_sqnr_db);
    visit("quantize_GBps", one.quantize_GBps);
    visit("dequantize_GBps", one.dequantize_GBps);
    visit("gemv_us", one.gemv_us);
    visit("gemv_GBps", one.gemv_GBps);
    visit("gemv_of_read_bandwidth", one.gemv_of_read_bandwidth);
    visit("gemm_GFLOPs", one.gemm_GFLOPs);
    visit("gemm_of_fma_peak", one.gemm_of_fma_peak);
    visit("speedup_over_eigen", one.speedup_over_eigen);
    visit("pareto", one.pareto);
}

std::string text_of(const std::string& value) {
    return value;
}
std::string text_of(bool value) {
    return value ? "true" : "false";
}
std::string text_of(double value) {
    return std::isfinite(value) ? format("%.6g", value) : std::string();
}

} // namespace

std::string to_table(const comparison& result, table_rows rows, bool styled) {
    const char* bold = styled ? "\033[1m" : "";
    const char* plain = styled ? "\033[0m" : "";

    std::string text;
    text += format("%.118s\n", result.machine.machine.c_str());
    text += format("%.80s; %zu thread%s; %s\n", result.machine.compiler.c_str(), result.threads,
                   result.threads == 1 ? "" : "s", result.machine.date.c_str());
    text += format("%.118s\n", result.workload.c_str());
    text += format("Limits, measured in between: read %s GB/s, fp32 fma %s GFLOP/s\n",
                   compact(result.read_bandwidth_GBps).c_str(), compact(result.fma_peak_GFLOPs).c_str());
    text += format("Eigen fp32: GEMV %s us (%s GB/s, %.2f of read), GEMM %s GFLOP/s (%.2f of fma)\n\n",
                   compact(result.eigen.gemv_us).c_str(), compact(result.eigen.gemv_GBps).c_str(),
                   result.eigen.gemv_of_read_bandwidth, compact(result.eigen.gemm_GFLOPs).c_str(),
                   result.eigen.gemm_of_fma_peak);

    const auto shown = [&](const row& one) {
        return rows == table_rows::every || one.pareto || well_known(one.scheme);
    };
    std::size_t name = 16;
    std::size_t left_out = 0;
    for (const row& one : result.rows) {
        if (shown(one)) name = std::max(name, one.scheme.size());
        left_out += shown(one) ? std::size_t{0} : std::size_t{1};
    }
    name = std::min<std::size_t>(name, 26);
    const int width = static_cast<int>(name);
    text += format("  %-*s %8s  %15s  %13s  %23s  %26s\n", width, "", "size", "---- SQNR ----", "-- codec ---",
                   "-- GEMV, cold weights --", format("---- GEMM, M = %zu ----", result.tokens).c_str());
    text += format("  %-*s %8s  %7s %7s  %6s %6s  %8s %7s %7s  %8s %7s %9s\n", width, "scheme", "bits/w", "weights",
                   "output", "encode", "decode", "time", "packed", "of read", "rate", "of fma", "vs Eigen");
    text += format("  %-*s %8s  %7s %7s  %6s %6s  %8s %7s %7s  %8s %7s %9s\n", width, "", "", "dB", "dB", "GB/s",
                   "GB/s", "us", "GB/s", "", "GFLOP/s", "", "");
    for (const row& one : result.rows) {
        if (!shown(one)) continue;
        text += one.pareto ? bold : "";
        text += format("%c %-*.*s %8.3f  %7s %7s  %6s %6s  %8s %7s %7.2f  %8s %7.2f %9.2f", one.pareto ? '*' : ' ',
                       width, width, one.scheme.c_str(), one.bits_per_weight, db(one.weight_sqnr_db).c_str(),
                       db(one.gemm_sqnr_db).c_str(), compact(one.quantize_GBps).c_str(),
                       compact(one.dequantize_GBps).c_str(), compact(one.gemv_us).c_str(),
                       compact(one.gemv_GBps).c_str(), one.gemv_of_read_bandwidth, compact(one.gemm_GFLOPs).c_str(),
                       one.gemm_of_fma_peak, one.speedup_over_eigen);
        text += one.pareto ? plain : "";
        text += '\n';
    }
    if (result.undisturbed_share < 0.5)
        text += format("\nThe machine was busy: only %.0f %% of the probes ran undisturbed. Times are too long, shares "
                       "rough.\n",
                       100 * result.undisturbed_share);
    text += "\n* on the Pareto front: every other scheme is larger or has more error in the output (or both).\n";
    if (left_out != 0) text += format("%zu more schemes: --all.\n", left_out);
    text += most_exact_within_budgets(result.rows);
    text += "What formats cost a language model: nibble_perplexity.\n";
    return text;
}

std::string to_json(const comparison& result) {
    nlohmann::ordered_json object;
    object["machine"] = result.machine.machine;
    object["date"] = result.machine.date;
    object["compiler"] = result.machine.compiler;
    object["flags"] = result.machine.flags;
    object["threads"] = result.threads;
    object["read_bandwidth_GBps"] = rounded(result.read_bandwidth_GBps);
    object["fma_peak_GFLOPs"] = rounded(result.fma_peak_GFLOPs);
    object["rows"] = nlohmann::ordered_json::array();
    for (const row& one : result.rows) {
        nlohmann::ordered_json members;
        for_each_member(one, [&](const char* member, const auto& value) {
            if constexpr (std::is_same_v<std::decay_t<decltype(value)>, double>)
                members[member] = rounded(value);
            else
                members[member] = value;
        });
        object["rows"].push_back(std::move(members));
    }
    return object.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

std::string to_csv(const comparison& result) {
    std::string text;
    const auto line = [&](const row& one, bool names) {
        std::string cells;
        for_each_member(one, [&](const char* member, const auto& value) {
            if (!cells.empty()) cells += ',';
            cells += names ? std::string(member) : text_of(value);
        });
        text += cells + "\n";
    };
    line(row{}, true);
    for (const row& one : result.rows) line(one, false);
    return text;
}

} // namespace bench
