// scheme.cpp: joins the shares of the formats to one list again.
#include "scheme.hpp"

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace bench {

// Declared here and not by scheme_slice.hpp, which would bring every kernel into this unit too.
template <std::size_t Slice> std::vector<placed_scheme> make_slice();
extern template std::vector<placed_scheme> make_slice<0>();
extern template std::vector<placed_scheme> make_slice<1>();
extern template std::vector<placed_scheme> make_slice<2>();
extern template std::vector<placed_scheme> make_slice<3>();
extern template std::vector<placed_scheme> make_slice<4>();
extern template std::vector<placed_scheme> make_slice<5>();
extern template std::vector<placed_scheme> make_slice<6>();
extern template std::vector<placed_scheme> make_slice<7>();

const std::vector<std::unique_ptr<scheme>>& all_schemes() {
    static const std::vector<std::unique_ptr<scheme>> schemes = [] {
        std::vector<placed_scheme> shares[slices] = {make_slice<0>(), make_slice<1>(), make_slice<2>(),
                                                     make_slice<3>(), make_slice<4>(), make_slice<5>(),
                                                     make_slice<6>(), make_slice<7>()};
        std::size_t count = 0;
        for (const auto& share : shares) count += share.size();
        std::vector<std::unique_ptr<scheme>> joined(count);
        for (auto& share : shares)
            for (placed_scheme& one : share) joined[one.place] = std::move(one.is);
        return joined;
    }();
    return schemes;
}

} // namespace bench
