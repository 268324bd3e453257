// report.hpp: a finished comparison as a table for people and as JSON and CSV for programs.
#pragma once

#include "evaluate.hpp"
#include "machine.hpp"
#include "row.hpp"

#include <cstddef>
#include <string>
#include <vector>

namespace bench {

struct comparison {
    machine_facts machine;
    std::size_t threads = 1;
    std::size_t tokens = 0;
    std::size_t cold_bytes = 0;
    std::string workload;
    double read_bandwidth_GBps = 0;
    double fma_peak_GFLOPs = 0;
    double undisturbed_share = 1; // of the probes
    baseline eigen;
    std::vector<row> rows;
};

// Which rows a table has: every one; or those on the Pareto front and a dozen formats that most people know.
enum class table_rows { every, chosen };

// At most 120 columns of ASCII. `styled`: for a terminal, with the Pareto rows in bold. Below it the most exact format
// within some budgets of bits.
[[nodiscard]] std::string to_table(const comparison& result, table_rows rows, bool styled);

// One object: machine, date, compiler, flags, threads, read_bandwidth_GBps, fma_peak_GFLOPs, rows. A row has the
// members of bench::row; an SQNR of 200 means exact. What is not a number is null.
[[nodiscard]] std::string to_json(const comparison& result);

// A line of names and a line per row, with the members of bench::row.
[[nodiscard]] std::string to_csv(const comparison& result);

// SVG, 1200 x 800: bits per weight against SQNR, the area of a circle by the speed of GEMV, the Pareto front as a line.
[[nodiscard]] std::string to_svg(const comparison& result);

} // namespace bench
