// thread_pool.hpp: an executor with threads of its own, for many short calls on cores that others may want too.
#pragma once

#include <nibble/adapt/helper_limit.hpp>
#include <nibble/adapt/parking.hpp>
#include <nibble/core/bits.hpp>
#include <nibble/core/check.hpp>
#include <nibble/core/executor.hpp>

#include <pthread.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <type_traits>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI {

struct thread_pool_options {
    // How long a thread that has nothing to do looks for work before it sleeps, and the caller for the end of the last
    // task. A sleeping thread comes some 5 to 50 us late, and waking it costs its waker 1 or 2.
    std::size_t spin_microseconds = 100;
};

namespace detail {

// The threads of a pool and the one job they share. `ticket_` has the number of tasks that nobody has begun: whoever
// takes one off has that task, so a job nobody helps with is over as soon as the caller has done it, and no thread has
// to be asked.
class pool_state {
public:
    using call_task = void (*)(void* task, std::size_t index, std::size_t worker) noexcept;

    pool_state(std::size_t threads, std::uint64_t spin)
        : threads_(threads), spin_(spin), limit_(threads - 1), active_(threads - 1), helpers_(new helper[threads - 1]) {
        for (std::size_t id = 1; id < threads; ++id) {
            helper& one = helpers_[id - 1];
            one.pool = this;
            one.id = id;
            const bool started = ::pthread_create(&one.thread, nullptr, &begin, &one) == 0;
            if (!started) {
                join(id - 1);
                NIBBLE_CHECK(started, "thread_pool: the system starts no more threads; ask for fewer");
            }
        }
    }
    pool_state(const pool_state&) = delete;
    pool_state& operator=(const pool_state&) = delete;
    ~pool_state() { join(threads_ - 1); }

    [[nodiscard]] std::size_t threads() const noexcept { return threads_; }

    void run(std::size_t count, call_task call, void* task) noexcept {
        if (count < 2 || calling_.exchange(true, std::memory_order_acquire)) return alone(count, call, task);
        const std::size_t allowed = look_at_clock();
        if (allowed == 0) {
            alone(count, call, task);
        } else {
            const int core = ::sched_getcpu();
            done_.store(0, std::memory_order_relaxed);
            job_ = {call, task, count};
            caller_core_.store(core, std::memory_order_relaxed);
            wanted_.store(min_of(allowed, count - 1), std::memory_order_relaxed);
            ticket_.store(static_cast<std::int64_t>(count), std::memory_order_seq_cst);
            wake_children(0);
            const std::size_t others = count - take(0);
            if (done_.load(std::memory_order_acquire) != others) wait_for(others);
        }
        calling_.store(false, std::memory_order_release);
    }

private:
    // Kept from running for less than this, a thread has not lost its core to another program.
    static constexpr std::uint64_t least_loss = 250000;
    // Calls further apart are not measured together.
    static constexpr std::uint64_t longest_gap = 100000000;
    static constexpr unsigned looks_per_clock = 64;

    struct job {
        call_task call = nullptr;
        void* task = nullptr;
        std::size_t count = 0;
    };
    struct moment {
        std::uint64_t wall = 0;
        std::uint64_t cpu = 0;    // of this thread
        std::uint64_t helped = 0; // all helpers' work
    };
    struct helper {
        alignas(64) std::atomic<std::uint32_t> asleep{
            0}; // read by its waker in every call: nothing beside it is written often
        pool_state* pool = nullptr;
        std::size_t id = 0;
        pthread_t thread{};
        alignas(64) std::atomic<std::uint64_t> worked{0}; // nanoseconds in tasks
    };

    static void alone(std::size_t count, call_task call, void* task) noexcept {
        for (std::size_t i = 0; i < count; ++i) call(task, i, 0);
    }

    // How many helpers may work, by what the last window showed. The caller alone asks, and no more than one thread is
    // the caller.
    [[nodiscard]] std::size_t look_at_clock() noexcept {
        const std::uint64_t now = wall_time();
        const bool same = ::pthread_equal(caller_, ::pthread_self()) != 0 && now - last_call_ < longest_gap;
        last_call_ = now;
        if (!same || now - window_.wall >= helper_limit::window) end_window(now, same);
        return limit_.helpers();
    }
    NIBBLE_NOINLINE void end_window(std::uint64_t now, bool same) noexcept {
        moment end{now, thread_time(), 0};
        for (std::size_t i = 0; i + 1 < threads_; ++i) end.helped += helpers_[i].worked.load(std::memory_order_relaxed);
        if (same) {
            const std::uint64_t ran = end.cpu - window_.cpu;
            limit_.measured(now, now - window_.wall, ran - min_of(ran, waited_) + (end.helped - window_.helped));
        }
        caller_ = ::pthread_self();
        window_ = end;
        waited_ = 0;
        active_.store(limit_.helpers(), std::memory_order_relaxed);
    }

    // Tasks until there are no more; how many it were.
    [[nodiscard]] std::size_t take(std::size_t worker) noexcept {
        std::size_t taken = 0;
        while (ticket_.load(std::memory_order_relaxed) > 0) {
            // Acquires the job: of the store of its ticket, through whoever took from it in between.
            const std::int64_t left = ticket_.fetch_sub(1, std::memory_order_acq_rel);
            if (left <= 0) break;
            job_.call(job_.task, job_.count - static_cast<std::size_t>(left), worker);
            ++taken;
        }
        return taken;
    }

    // Until others have finished that many tasks.
    NIBBLE_NOINLINE void wait_for(std::size_t others) noexcept {
        const std::uint64_t begin = wall_time();
        std::uint64_t spun = 0;
        do {
            for (unsigned look = 0; look < looks_per_clock; ++look) {
                if (done_.load(std::memory_order_acquire) == others) {
                    waited_ += wall_time() - begin;
                    return;
                }
                NIBBLE_SPIN_HINT();
            }
            spun = wall_time() - begin;
        } while (spun < spin_);
        waited_ += min_of(spun, 2 * spin_); // of more of it this thread was kept itself
        for (;;) {
            caller_asleep_.store(1, std::memory_order_seq_cst);
            if (done_.load(std::memory_order_seq_cst) == others) break;
            sleep_while(caller_asleep_, 1);
        }
        caller_asleep_.store(0, std::memory_order_relaxed);
    }

    // Threads wake each other as a binary tree. Either the sleeper sees the ticket or its waker sees that it sleeps.
    void wake_children(std::size_t id) noexcept {
        const std::size_t end = min_of(2 * id + 2, wanted_.load(std::memory_order_relaxed));
        for (std::size_t child = 2 * id + 1; child <= end; ++child) wake(helpers_[child - 1]);
    }
    static void wake(helper& one) noexcept {
        if (one.asleep.load(std::memory_order_seq_cst) != 0 && one.asleep.exchange(0, std::memory_order_acq_rel) != 0)
            wake_one(one.asleep);
    }

    [[nodiscard]] bool wanted(std::size_t id) const noexcept {
        return ticket_.load(std::memory_order_seq_cst) > 0 && id <= active_.load(std::memory_order_relaxed);
    }
    void sleep(helper& self) noexcept {
        self.asleep.store(1, std::memory_order_seq_cst);
        if (wanted(self.id) || stop_.load(std::memory_order_seq_cst)) {
            self.asleep.store(0, std::memory_order_relaxed);
            return;
        }
        while (self.asleep.load(std::memory_order_acquire) != 0) sleep_while(self.asleep, 1);
    }

    static void* begin(void* one) noexcept {
        helper& self = *static_cast<helper*>(one);
        self.pool->help(self);
        return nullptr;
    }

    NIBBLE_NOINLINE void help(helper& self) noexcept {
        std::uint64_t seen = wall_time(); // the last look at the clock
        std::uint64_t idle = seen;        // since when it has had nothing to do
        moment before{seen, thread_time(), 0};
        for (unsigned look = 0;;) {
            if (wanted(self.id)) {
                wake_children(self.id);
                const std::uint64_t begin = wall_time();
                if (const std::size_t taken = take(self.id); taken != 0) {
                    done_.fetch_add(taken, std::memory_order_seq_cst);
                    if (caller_asleep_.load(std::memory_order_seq_cst) != 0 &&
                        caller_asleep_.exchange(0, std::memory_order_acq_rel) != 0)
                        wake_one(caller_asleep_);
                    const std::uint64_t now = wall_time();
                    std::uint64_t worked = now - begin;
                    if (worked > least_loss) {
                        // By what wall time gained on the thread's own since both were read, it did not run.
                        const moment end{now, thread_time(), 0};
                        const std::uint64_t passed = now - before.wall;
                        worked -= min_of(worked, passed - min_of(passed, end.cpu - before.cpu));
                        before = end;
                    }
                    self.worked.store(self.worked.load(std::memory_order_relaxed) + worked, std::memory_order_relaxed);
                    seen = idle = now;
                    look = 0;
                    continue;
                }
            }
            if (stop_.load(std::memory_order_relaxed)) return;
            NIBBLE_SPIN_HINT();
            if (++look % looks_per_clock != 0) continue;
            const std::uint64_t now = wall_time();
            const bool disturbed = now - seen > least_loss; // somebody else wants this core
            seen = now;
            if (disturbed || now - idle > spin_ || self.id > active_.load(std::memory_order_relaxed)) {
                sleep(self);
                // Where no core is free the system wakes a thread on that of its waker, who would then wait for the end
                // of its slice.
                leave_core(caller_core_.load(std::memory_order_relaxed));
                seen = idle = wall_time();
            } else if (look != looks_per_clock) {
                continue;
            }
            before = {seen, thread_time(), 0};
        }
    }

    void join(std::size_t started) noexcept {
        stop_.store(true, std::memory_order_seq_cst);
        for (std::size_t i = 0; i < started; ++i) {
            wake(helpers_[i]);
            (void)::pthread_join(helpers_[i].thread, nullptr);
        }
    }

    const std::size_t threads_;
    const std::uint64_t spin_;
    // The caller's own.
    alignas(64) std::atomic<bool> calling_{false};
    helper_limit limit_;
    pthread_t caller_{};
    std::uint64_t last_call_ = 0;
    moment window_{};          // where it began
    std::uint64_t waited_ = 0; // of it, for helpers, awake
    // Written once a call, read by all: the job lies with the ticket, which everybody fetches anyway.
    alignas(64) std::atomic<std::int64_t> ticket_{0};
    job job_{};
    std::atomic<std::size_t> wanted_{0};
    std::atomic<int> caller_core_{-1};
    // Written at the end of a helper's part.
    alignas(64) std::atomic<std::size_t> done_{0};
    std::atomic<std::uint32_t> caller_asleep_{0};
    // Written seldom.
    alignas(64) std::atomic<std::size_t> active_;
    std::atomic<bool> stop_{false};
    std::unique_ptr<helper[]> helpers_;
};

} // namespace detail

// `threads` workers: the calling thread is one, the pool owns the others. Tasks are handed out one by one, in order, to
// whoever is there; a call never waits for a thread that has not begun a task. After a call threads look for work for
// options.spin_microseconds, then sleep. Where other programs take the cores, and a call with helpers does less than
// one without, calls run with fewer of them, down to the caller alone, and try more about twice a second; results do
// not depend on it. Threads may run where the thread that made the pool might.
//
// A call allocates nothing and may come from any thread; one that comes while another runs, or out of a task, runs on
// its own thread alone. A task that throws ends the program. Copies share the threads, which end with the last of them;
// a pool that was moved from has one thread, the caller's.
class thread_pool {
public:
    explicit thread_pool(std::size_t threads, const thread_pool_options& options = {}) {
        NIBBLE_CHECK(threads >= 1 && threads <= 4096, "thread_pool: 1 to 4096 threads");
        NIBBLE_CHECK(options.spin_microseconds <= 1000000, "thread_pool: threads look for work for at most a second");
        if (threads > 1)
            state_ = std::make_shared<detail::pool_state>(threads, std::uint64_t{options.spin_microseconds} * 1000);
    }
    [[nodiscard]] std::size_t concurrency() const noexcept { return state_ != nullptr ? state_->threads() : 1; }

    template <class Task> void parallel_for(std::size_t count, Task&& task) const {
        using plain = std::remove_reference_t<Task>;
        constexpr auto call = [](void* of, std::size_t index, std::size_t worker) noexcept {
            (*static_cast<plain*>(of))(index, worker);
        };
        void* const of = const_cast<std::remove_const_t<plain>*>(std::addressof(task));
        if (state_ != nullptr) return state_->run(count, call, of);
        for (std::size_t i = 0; i < count; ++i) call(of, i, 0);
    }

private:
    std::shared_ptr<detail::pool_state> state_;
};

static_assert(executor<thread_pool>);

} // namespace nibble::inline NIBBLE_ABI
NIBBLE_HEADER_END;
