// helper_limit.hpp: how many threads are worth having where other programs take the cores: what thread_pool goes by.
#pragma once

#include <nibble/core/bits.hpp>
#include <nibble/core/config.hpp>

#include <cstddef>
#include <cstdint>

NIBBLE_HEADER_BEGIN;
namespace nibble::inline NIBBLE_ABI::detail {

// On a core that others want, a helper keeps its caller waiting for a time slice of the system whenever it loses the
// core within a task: often a hundred times the call. So what is done is compared: the work of caller and helpers, in
// time of processors, over the time that passed, with as many helpers as there may be and with fewer. Levels are no
// helper, 1, 2, 4, ... and all; a level that does less than a lower one is left for a time that doubles from try to
// try. Times are nanoseconds of one clock.
class helper_limit {
public:
    static constexpr std::uint64_t window = 16000000;   // that is measured: several time slices
    static constexpr std::uint64_t shortest = 64000000; // that a level is left for
    static constexpr std::uint64_t longest = 512000000;
    static constexpr double gain = 1.25;                   // that helpers must bring on cores that are busy
    static constexpr double loss = 0.95;                   // and may cost on others
    static constexpr std::uint64_t forgotten = 4000000000; // after which nothing is known of how the caller does alone

    explicit helper_limit(std::size_t most) noexcept : most_(most) {
        while (helpers() < most_) ++level_;
        top_ = level_;
    }

    [[nodiscard]] std::size_t helpers() const noexcept {
        return level_ == 0 ? 0 : min_of(most_, std::size_t{1} << (level_ - 1));
    }
    // At `now`, `passed` after the last call of this and with helpers() in between, of which `worked` was spent on
    // tasks and whatever the caller does by itself.
    void measured(std::uint64_t now, std::uint64_t passed, std::uint64_t worked) noexcept {
        const double rate = static_cast<double>(worked) / static_cast<double>(max_of<std::uint64_t>(passed, 1));
        if (level_ != 0) {
            if (now - alone_known_ > forgotten) rates_[0] = 1.0;            // at most
            rates_[level_] = fresh_ ? rate : 0.5 * (rates_[level_] + rate); // one disturbance is none
        } else {
            rates_[0] = now - alone_known_ > forgotten ? rate : 0.75 * rates_[0] + 0.25 * rate;
            alone_known_ = now;
        }
        fresh_ = false;
        double fewer = 0.0;
        for (std::size_t i = 0; i < level_; ++i) fewer = max_of(fewer, rates_[i]);
        // A caller that alone does not keep a core to itself does better, seen for longer than a window: less disturbs
        // it.
        if (rates_[level_] < fewer * (rates_[0] < 0.9 ? gain : loss)) {
            --level_;
            fresh_ = true;
            left_for_ = min_of(longest, max_of(shortest, 2 * left_for_));
            next_ = now + left_for_;
        } else if (level_ < top_ && now >= next_) {
            ++level_;
            fresh_ = true;
        } else if (level_ == top_) {
            left_for_ -= min_of(left_for_, passed);
        }
    }

private:
    std::size_t most_;
    std::size_t level_ = 0;
    std::size_t top_ = 0;
    bool fresh_ = true;        // not measured since it came to this level
    double rates_[16] = {1.0}; // of each level when it was last tried; a caller alone: of a core of its own
    std::uint64_t alone_known_ = 0;
    std::uint64_t next_ = 0; // when one more level is tried
    std::uint64_t left_for_ = 0;
};

} // namespace nibble::inline NIBBLE_ABI::detail
NIBBLE_HEADER_END;
