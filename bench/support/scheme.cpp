// scheme.cpp: every format as a bench::scheme.
#include "scheme.hpp"

#include "formats.hpp"
#include "scheme_of.hpp"

#include <memory>
#include <vector>

namespace bench {

const std::vector<std::unique_ptr<scheme>>& all_schemes() {
    static const std::vector<std::unique_ptr<scheme>> schemes = make_schemes(formats{});
    return schemes;
}

} // namespace bench
