// rotation.hpp: copies of weights, larger together than any cache, so that each product reads memory.
#pragma once

#include "scheme.hpp"
#include "workload.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace bench {

// Copies of a set of tensors, at least `cold_bytes` together; each call gives the next copy's tensor list.
template <class Weights> class rotation {
public:
    rotation(std::vector<Weights> set, std::size_t set_bytes, std::size_t cold_bytes) {
        const std::size_t copies =
            std::max<std::size_t>(1, (cold_bytes + set_bytes - 1) / std::max<std::size_t>(1, set_bytes));
        sets_.push_back(std::move(set));
        for (std::size_t copy = 1; copy < copies; ++copy) {
            std::vector<Weights> next;
            for (const Weights& one : sets_.front()) next.push_back(duplicate(one));
            sets_.push_back(std::move(next));
        }
    }
    [[nodiscard]] std::size_t copies() const noexcept { return sets_.size(); }
    [[nodiscard]] const std::vector<Weights>& first() const noexcept { return sets_.front(); }
    [[nodiscard]] const std::vector<Weights>& next() {
        place_ = (place_ + 1) % sets_.size();
        return sets_[place_];
    }

private:
    static float_matrix duplicate(const float_matrix& one) { return one; }
    static std::unique_ptr<packed_weights> duplicate(const std::unique_ptr<packed_weights>& one) {
        return one->clone();
    }

    std::vector<std::vector<Weights>> sets_;
    std::size_t place_ = 0;
};

} // namespace bench
