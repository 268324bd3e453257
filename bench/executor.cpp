// executor.cpp: what handing out work costs: fork and join, and the calls of a decode loop, on an idle machine and on a
// busy one. Needs nothing but nibble's headers: c++ -std=c++20 -O3 -march=native -fopenmp -I include bench/executor.cpp
// -DNIBBLE_BENCH_TBB -ltbb adds oneTBB; without -fopenmp there is no line for OpenMP.
#include <nibble/adapt/thread_pool.hpp>
#include <nibble/core/buffer.hpp>
#include <nibble/core/executor.hpp>
#include <nibble/core/work_region.hpp>
#if defined(_OPENMP)
#include <nibble/adapt/openmp.hpp>
#endif
#if defined(NIBBLE_BENCH_TBB)
#include <nibble/adapt/tbb.hpp>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace nb = nibble;

namespace {

using clock_type = std::chrono::steady_clock;

[[nodiscard]] double seconds_since(clock_type::time_point begin) {
    return std::chrono::duration<double>(clock_type::now() - begin).count();
}

// Arithmetic that no compiler removes and that takes as long wherever it runs: work is counted in it, not in time, so
// that a thread that was kept from running has not done it.
[[nodiscard]] std::uint64_t turn(std::uint64_t x, std::size_t times) {
    for (std::size_t i = 0; i < times; ++i) x = x * 6364136223846793005u + 1442695040888963407u;
    return x;
}
std::atomic<std::uint64_t> kept{0};

struct settings {
    std::size_t threads = std::max(1u, std::thread::hardware_concurrency());
    std::size_t busy = std::max(1u, std::thread::hardware_concurrency());
    double seconds = 3;
    std::string only;
};

// Threads that leave no core idle while one of these lives.
class background {
public:
    explicit background(std::size_t count) {
        for (std::size_t i = 0; i < count; ++i)
            threads_.emplace_back([this] {
                std::uint64_t x = 1;
                while (!stop_.load(std::memory_order_relaxed)) x = turn(x, 1000);
                kept.fetch_add(x);
            });
    }
    background(const background&) = delete;
    background& operator=(const background&) = delete;
    ~background() {
        stop_.store(true);
        for (std::thread& thread : threads_) thread.join();
    }

private:
    std::atomic<bool> stop_{false};
    std::vector<std::thread> threads_;
};

struct percentiles {
    double median = 0, p99 = 0, worst = 0;
};
[[nodiscard]] percentiles of(std::vector<double>& values) {
    std::sort(values.begin(), values.end());
    const auto at = [&](double share) {
        return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
    };
    return {at(0.5), at(0.99), values.back()};
}

// Calls of as many tasks of 10 us as there are threads, one after the other or each after turns of other work: what a
// call takes beyond the 10 us that one task takes here, in between, by itself.
template <class Executor>
[[nodiscard]] percentiles fork_and_join(const Executor& threads, double seconds, std::size_t turns_per_microsecond,
                                        std::size_t between) {
    std::vector<double> microseconds, task;
    std::uint64_t x = 1;
    const auto one = [&](std::size_t i) {
        const std::uint64_t y = turn(i, 10 * turns_per_microsecond);
        if (y == 0) kept.fetch_add(1);
    };
    const auto begin = clock_type::now();
    while (microseconds.size() < 100 || seconds_since(begin) < seconds) {
        auto start = clock_type::now();
        one(x);
        task.push_back(seconds_since(start) * 1e6);
        x = turn(x, between * turns_per_microsecond);
        start = clock_type::now();
        threads.parallel_for(threads.concurrency(), [&](std::size_t i, std::size_t) { one(i); });
        microseconds.push_back(seconds_since(start) * 1e6);
    }
    kept.fetch_add(x);
    const double alone = of(task).median;
    percentiles p = of(microseconds);
    return {p.median - alone, p.p99 - alone, p.worst - alone};
}

// A decode step of a small model: 42 products of 16 pieces of 2 us, shared out as gemm does it, 2 us of other work
// after each.
struct decode_step {
    std::size_t turns_per_microsecond;
    nb::buffer memory;
    decode_step(std::size_t per_microsecond, std::size_t threads)
        : turns_per_microsecond(per_microsecond), memory(threads * 128) {}
    template <class Executor> void run(const Executor& threads) {
        for (int product = 0; product < 42; ++product) {
            nb::detail::for_each_in_regions(16, memory.data(), 128, threads, [&](std::size_t item, bool, std::size_t) {
                const std::uint64_t x = turn(item, 2 * turns_per_microsecond);
                if (x == 0) kept.fetch_add(1);
            });
            kept.store(turn(kept.load(std::memory_order_relaxed), 2 * turns_per_microsecond),
                       std::memory_order_relaxed);
        }
    }
};

// Steps for a tenth of a second on one thread, then on the executor, and so on: steps per second of both, from all the
// time taken.
struct rates {
    double serial = 0, executor = 0;
};
template <class Executor>
[[nodiscard]] rates decode(const Executor& threads, double seconds, std::size_t turns_per_microsecond) {
    decode_step step(turns_per_microsecond, threads.concurrency());
    double times[2] = {};
    std::size_t steps[2] = {};
    const auto slice = [&](std::size_t which, const auto& on) {
        const auto begin = clock_type::now();
        double taken = 0;
        for (; taken < 0.1; taken = seconds_since(begin)) {
            step.run(on);
            ++steps[which];
        }
        times[which] += taken;
    };
    const auto begin = clock_type::now();
    while (seconds_since(begin) < 2 * seconds) {
        slice(0, nb::serial{});
        slice(1, threads);
    }
    return {static_cast<double>(steps[0]) / times[0], static_cast<double>(steps[1]) / times[1]};
}

template <class Executor>
void rows(const char* name, const Executor& threads, const settings& given, std::size_t turns_per_microsecond) {
    if (!given.only.empty() && given.only != name) return;
    const auto row = [&](const char* machine) {
        const percentiles at_once = fork_and_join(threads, given.seconds / 4, turns_per_microsecond, 2);
        const percentiles later = fork_and_join(threads, given.seconds / 4, turns_per_microsecond, 1000);
        const rates steps = decode(threads, given.seconds, turns_per_microsecond);
        std::printf("%-12s %7zu  %-5s %8.2f %8.2f %9.0f   %8.2f %8.2f   %8.0f %8.0f %6.2f\n", name,
                    threads.concurrency(), machine, at_once.median, at_once.p99, at_once.worst, later.median, later.p99,
                    steps.serial, steps.executor, steps.serial / steps.executor);
        std::fflush(stdout);
    };
    row("idle");
    if (given.busy == 0) return;
    const background all_cores(given.busy);
    row("busy");
}

[[nodiscard]] bool read(const char* argument, const char* name, const char*& value) {
    const std::size_t length = std::strlen(name);
    if (std::strncmp(argument, name, length) != 0) return false;
    value = argument + length;
    return true;
}

} // namespace

int main(int count, char** arguments) {
    settings given;
    for (int i = 1; i < count; ++i) {
        const char* value = nullptr;
        if (read(arguments[i], "--threads=", value)) {
            given.threads = std::max<std::size_t>(1, std::strtoull(value, nullptr, 10));
        } else if (read(arguments[i], "--busy=", value)) {
            given.busy = std::strtoull(value, nullptr, 10);
        } else if (read(arguments[i], "--seconds=", value)) {
            given.seconds = std::strtod(value, nullptr);
        } else if (read(arguments[i], "--executor=", value)) {
            given.only = value;
        } else {
            std::printf("nibble_executor: what it costs to hand out work\n"
                        "  --threads=N    threads of each executor; default: all\n"
                        "  --busy=N       threads that keep the cores busy in the second row of each; default: one per "
                        "core; 0: none\n"
                        "  --seconds=S    of measuring decode steps on each executor; default 3; fork and join take "
                        "half as long\n"
                        "  --executor=E   one of them alone: serial, thread_pool, openmp, tbb\n"
                        "fork and join: what a call of as many tasks of 10 us as threads takes beyond one task, in us: "
                        "every 12 us, and after\n"
                        "1 ms of other work, when helpers may sleep.\n"
                        "decode steps: 42 calls of 32 us, per second, on one thread and on the executor by turns; x "
                        "serial: the time of\n"
                        "a step on the executor over that on one thread.\n");
            return std::strcmp(arguments[i], "--help") == 0 ? 0 : 2;
        }
    }
    std::size_t turns_per_microsecond = 1;
    for (int i = 0; i < 5; ++i) { // the fastest of five: the others were disturbed
        const auto begin = clock_type::now();
        kept.fetch_add(turn(1, 2000000));
        turns_per_microsecond = std::max(turns_per_microsecond, static_cast<std::size_t>(2.0 / seconds_since(begin)));
    }
    std::printf("%u cores, %zu threads keep them busy in rows that say so\n\n", std::thread::hardware_concurrency(),
                given.busy);
    std::printf(
        "                             fork and join, us             after 1 ms, us     decode steps per second\n");
    std::printf(
        "executor     threads           median      p99     worst     median      p99     serial executor  x serial\n");
    rows("serial", nb::serial{}, given, turns_per_microsecond);
    rows("thread_pool", nb::thread_pool(given.threads), given, turns_per_microsecond);
#if defined(_OPENMP)
    rows("openmp", nb::openmp_executor(given.threads), given, turns_per_microsecond);
#endif
#if defined(NIBBLE_BENCH_TBB)
    rows("tbb", nb::tbb_executor(given.threads), given, turns_per_microsecond);
#endif
}
