// random_operations.cpp: sequences of random operations on caches that share pages, against a list of the tokens they
// should hold: each must be as if those had been appended at once.
#include "support/attention_reference.hpp"
#include "support/catch.hpp"
#include "support/contracts.hpp"
#include "support/kv_pair.hpp"
#include "support/kv_transforms.hpp"
#include "support/random.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace nb = nibble;
using namespace attend_test;
using gemm_test::broken_by;

namespace {

class numbers_of_seed {
public:
    explicit numbers_of_seed(std::uint64_t seed) : seed_(seed) {}
    std::size_t below(std::size_t n) { return static_cast<std::size_t>(nibble_test::random64(seed_, next_++) % n); }
    bool one_in(std::size_t n) { return below(n) == 0; }

private:
    std::uint64_t seed_;
    std::uint64_t next_ = 0;
};

// A sequence and what it should hold: rows of keys and values.
struct modelled {
    std::unique_ptr<sequence> real;
    transforms through;
    std::vector<std::vector<float>> k, v;
    std::map<std::size_t, std::vector<std::byte>> dropped;
    std::size_t waiting = 0; // tokens of the last append that are left and may not be stored yet
    // Whether its last pages are its own and have been written to since tokens were taken back: shared ones keep those.
    bool cleared = true;
};

nb::kv_cache_options random_options(const kv_pair& pair, numbers_of_seed& from) {
    nb::kv_cache_options o;
    o.heads = 1 + from.below(3);
    o.head_size = 1 + from.below(70);
    o.value_size = from.one_in(3) ? 0 : 1 + from.below(70);
    o.page_tokens = std::max<std::size_t>(std::size_t{16} << from.below(5), pair.tokens_per_group());
    o.capacity = 300 + from.below(300);
    o.pages = 2 * o.capacity / o.page_tokens + 2;
    o.key_window = from.one_in(2) ? 0 : from.below(60);
    o.value_window = from.one_in(2) ? 0 : from.below(60);
    const std::size_t unit = std::max<std::size_t>(1, pair.tokens_per_group());
    o.key_flush = from.one_in(2) ? 0 : std::min(1 + from.below(4), o.capacity / unit) * unit;
    o.sinks = from.one_in(2) ? 0 : from.below(40);
    o.rollback = from.below(40);
    o.storing = static_cast<nb::kv_storing>(from.below(3));
    o.prompt_tokens = from.below(40);
    o.key_scale = 0.02f;
    o.value_scale = 0.03f;
    return o;
}

matrix matrix_of(const std::vector<std::vector<float>>& rows, std::size_t cols) {
    matrix m(rows.size(), cols);
    for (std::size_t i = 0; i < rows.size(); ++i) std::copy(rows[i].begin(), rows[i].end(), m.row(i));
    return m;
}
bool same_bits(const matrix& a, const matrix& b) {
    return std::memcmp(a.at.data(), b.at.data(), a.at.size() * sizeof(float)) == 0;
}

// The same tokens, appended at once but for those that may wait to be stored.
std::unique_ptr<sequence> anew(const kv_pair& pair, const modelled& m) {
    nb::kv_cache_options o = m.real->options();
    o.pages = 0;
    auto s = pair.make(o);
    m.through.set(*s);
    const matrix k = matrix_of(m.k, o.heads * o.head_size);
    const matrix v = matrix_of(m.v, o.heads * o.value_size);
    const std::size_t settled = m.k.size() - m.waiting;
    s->append(k.part(0, settled), v.part(0, settled));
    s->flush();
    s->append(k.part(settled, m.waiting), v.part(settled, m.waiting));
    return s;
}

void check_contents(const kv_pair& pair, const modelled& m) {
    const auto want = anew(pair, m);
    const nb::kv_cache_options& o = m.real->options();
    REQUIRE(m.real->size() == want->size());
    REQUIRE(m.real->page_count() == want->page_count());
    for (std::size_t i = m.real->begin() / o.page_tokens; i < want->page_count(); ++i) {
        if (m.dropped.count(i) != 0) continue;
        REQUIRE(m.real->has_page(i));
        const bool full = (i + 1) * o.page_tokens <= std::min(m.real->stored_keys(), m.real->stored_values());
        if (full || m.cleared) REQUIRE((m.real->save_page(i) == want->save_page(i)));
    }
    for (std::size_t h = 0; h < o.heads; ++h)
        for (std::size_t t = 0; t < m.real->size(); ++t) {
            if (t >= o.sinks && t < m.real->begin()) continue;
            matrix a(1, o.head_size), b(1, o.head_size), c(1, o.value_size), d(1, o.value_size);
            const bool away = t >= o.sinks && m.dropped.count(t / o.page_tokens) != 0;
            if (!away || t >= m.real->stored_keys()) {
                m.real->read_keys(h, t, a);
                want->read_keys(h, t, b);
                if (!same_bits(a, b)) FAIL("key " << t);
            }
            if (!away || t >= m.real->stored_values()) {
                m.real->read_values(h, t, c);
                want->read_values(h, t, d);
                if (!same_bits(c, d)) FAIL("value " << t);
            }
        }
}

void check_attention(const kv_pair& pair, const modelled& m, numbers_of_seed& from) {
    const nb::kv_cache_options& o = m.real->options();
    const std::size_t size = m.real->size();
    if (size == 0) return;
    const std::size_t heads = o.heads * (1 + from.below(4));
    const std::size_t n = 1 + from.below(std::min<std::size_t>(size, 9));
    const matrix q = matrix::normal(n, heads * o.head_size, from.below(1000));
    const std::vector<float> slopes = nibble_test::normal_values(heads, from.below(1000));
    matrix mask(n, size + from.below(5));
    for (float& x : mask.at) x = from.one_in(3) ? -std::numeric_limits<float>::infinity() : 0.5f;
    nb::attend_options options;
    options.precision = static_cast<nb::attention_precision>(from.below(3));
    options.causal = !from.one_in(4);
    options.window = from.one_in(2) ? 0 : 1 + from.below(400);
    if (from.one_in(4)) options.scale = 0.3f;
    if (from.one_in(4)) options.soft_cap = 3.0f;
    if (from.one_in(4)) options.slopes = slopes;
    if (from.one_in(4)) options.sink_scores = slopes;
    if (from.one_in(4)) options.mask = mask;
    matrix got(n, heads * o.value_size, 1.0f), sums(n, heads, 1.0f), want(n, heads * o.value_size), want_sums(n, heads);
    options.log_sums = sums;
    const std::string refused =
        broken_by([&] { m.real->attend(0, q, got, options, test_executor{1 + from.below(3)}); });
    if (!m.dropped.empty() && !refused.empty()) {
        CHECK(refused.find("dropped") != std::string::npos);
        return;
    }
    REQUIRE(refused.empty());
    const auto alone = anew(pair, m);
    alone->evict_before(m.real->begin());
    if (alone->begin() == m.real->begin()) {
        options.log_sums = want_sums;
        alone->attend(q, want, options);
        REQUIRE(same_bits(got, want));
        REQUIRE(same_bits(sums, want_sums));
    }
    if (m.dropped.empty()) {
        const reference_attention exact = attend_by_definition(pair, *m.real, q, options);
        const std::string wrong = outside(exact, got) + log_sums_outside(exact, sums);
        if (!wrong.empty()) FAIL(wrong);
    }
}

void run(const kv_pair& pair, std::uint64_t seed, std::size_t steps) {
    numbers_of_seed from(seed);
    const nb::kv_cache_options o = random_options(pair, from);
    std::vector<modelled> all;
    all.reserve(4); // references to them stay good
    all.emplace_back();
    all[0].real = pair.make(o);
    const nb::kv_cache_options& real = all[0].real->options();
    const std::vector<transforms> tried = all_transforms(real, tokens(real, 40, seed));
    if (const std::size_t which = numbers_of_seed(~seed).below(2 * tried.size()); which < tried.size())
        all[0].through = tried[which];
    all[0].through.set(*all[0].real);
    const std::size_t key_cols = real.heads * real.head_size;
    const std::size_t value_cols = real.heads * real.value_size;
    std::uint64_t fresh = seed * 100000;
    for (std::size_t step = 0; step < steps; ++step) {
        modelled& m = all[from.below(all.size())];
        sequence& s = *m.real;
        const std::size_t size = s.size();
        const std::size_t operation = from.below(13);
        INFO(pair.name() << " seed " << seed << " step " << step << " operation " << operation << " size " << size);
        switch (operation) {
        case 0:
        case 1:
        case 2:
        case 3: {
            const std::size_t n = from.one_in(3) ? from.below(150) : from.below(8);
            matrix k = matrix::normal(n, key_cols, ++fresh);
            matrix v = matrix::normal(n, value_cols, ++fresh);
            if (n != 0 && from.one_in(12)) k.at[from.below(k.at.size())] = std::numeric_limits<float>::quiet_NaN();
            if (n != 0 && from.one_in(12)) v.at[from.below(v.at.size())] = std::numeric_limits<float>::infinity();
            const std::string refused = broken_by([&] { s.append(k, v, test_executor{1 + from.below(3)}); });
            if (!refused.empty()) {
                const bool expected =
                    size + n > real.capacity || s.pages_needed(n) > s.available() || !m.dropped.empty();
                CHECK(expected);
                break;
            }
            if (n != 0) {
                m.cleared = true;
                for (std::size_t i = std::min(s.stored_keys(), s.stored_values()) / real.page_tokens;
                     i < s.page_count(); ++i)
                    m.cleared = m.cleared && s.has_page(i) && s.owners(i) == 1;
            }
            if (n != 0) m.waiting = n;
            for (std::size_t i = 0; i < n; ++i) {
                m.k.emplace_back(k.row(i), k.row(i) + key_cols);
                m.v.emplace_back(v.row(i), v.row(i) + value_cols);
            }
            break;
        }
        case 4: {
            const std::size_t back = from.one_in(8) ? size : from.below(std::min<std::size_t>(size, 45) + 1);
            if (!s.can_truncate(size - back)) {
                CHECK(broken_by([&] { s.truncate(size - back); }).find("truncate") != std::string::npos);
                break;
            }
            s.truncate(size - back);
            m.k.resize(size - back);
            m.v.resize(size - back);
            m.waiting -= std::min(m.waiting, back);
            m.cleared = false;
            std::erase_if(m.dropped, [&](const auto& page) { return page.first >= s.page_count(); });
            break;
        }
        case 5:
            if (all.size() < 4) {
                modelled copy;
                copy.real = s.fork();
                copy.through = m.through;
                copy.k = m.k;
                copy.v = m.v;
                copy.dropped = m.dropped;
                copy.waiting = m.waiting;
                copy.cleared = m.cleared;
                all.push_back(std::move(copy));
            }
            break;
        case 6:
            if (all.size() > 1) {
                all.erase(all.begin() + static_cast<std::ptrdiff_t>(from.below(all.size())));
                continue;
            }
            break;
        case 7:
            if (from.one_in(3)) {
                s.evict_before(from.below(size + 1));
                std::erase_if(m.dropped, [&](const auto& page) { return page.first * real.page_tokens < s.begin(); });
            }
            break;
        case 8:
            if (s.page_count() != 0) {
                const std::size_t i = from.below(s.page_count());
                if (!s.has_page(i) || i * real.page_tokens < s.begin()) break;
                m.dropped[i] = s.save_page(i);
                s.drop_page(i);
            }
            break;
        case 9:
            while (!m.dropped.empty() && s.available() != 0) {
                s.restore_page(m.dropped.begin()->first, m.dropped.begin()->second);
                m.dropped.erase(m.dropped.begin());
            }
            break;
        case 10: {
            const std::size_t needed = s.pages_needed(0);
            const std::size_t available = s.available();
            const std::string refused = broken_by([&] { s.flush(test_executor{1 + from.below(3)}); });
            if (!refused.empty()) {
                CHECK((needed > available || !m.dropped.empty()));
                break;
            }
            CHECK(available - s.available() == needed);
            m.waiting = 0;
            break;
        }
        default:
            check_attention(pair, m, from);
            break;
        }
        if (from.one_in(4)) check_contents(pair, m);
    }
    for (const modelled& m : all) check_contents(pair, m);
    // All pages come back.
    const std::unique_ptr<sequence> probe = all[0].real->beside();
    all.clear();
    CHECK(probe->available() == probe->options().pages);
}

} // namespace

TEST_CASE("random operations leave a cache as if its tokens had been appended at once") {
    const std::size_t seeds = nibble_test::sample_divisor == 1 ? 6 : 1;
    for (std::size_t p = 0; p < kv_pairs().size(); ++p)
        for (std::uint64_t seed = 1; seed <= seeds; ++seed) run(*kv_pairs()[p], seed * 1000 + p, 60);
}
