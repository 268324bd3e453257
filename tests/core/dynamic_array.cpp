// dynamic_array.cpp: the library's own containers and pointers do what the standard's do under the same names.
#include "support/catch.hpp"

#include <nibble/core/array_view.hpp>
#include <nibble/core/dynamic_array.hpp>
#include <nibble/core/shared_ptr.hpp>

#include <cstddef>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace nb = nibble;

namespace {

struct begins_with_seven {
    int number = 7;
    friend bool operator==(const begins_with_seven&, const begins_with_seven&) = default;
};

struct counted {
    static inline int alive = 0;
    int number;
    explicit counted(int n) : number(n) { ++alive; }
    counted(const counted&) = delete;
    counted& operator=(const counted&) = delete;
    ~counted() { --alive; }
};

// The same operations on both, chosen by a generator.
template <class T> void compare_with_vector(T one, T other) {
    nb::dynamic_array<T> mine;
    std::vector<T> standard;
    unsigned state = 1;
    for (int i = 0; i < 2000; ++i) {
        state = state * 1664525u + 1013904223u;
        const std::size_t n = (state >> 8) % 40;
        const auto both = [&](const auto& act) {
            act(mine);
            act(standard);
        };
        switch ((state >> 24) % 9) {
        case 0:
            both([&](auto& v) { v.resize(n); });
            break;
        case 1:
            both([&](auto& v) { v.resize(n, other); });
            break;
        case 2:
            both([&](auto& v) { v.assign(n, one); });
            break;
        case 3:
            both([&](auto& v) { v.clear(); });
            break;
        case 4:
            both([&](auto& v) { v.reserve(n); });
            break;
        case 5:
            if (!standard.empty()) both([](auto& v) { v.pop_back(); });
            break;
        case 6:
            if (!standard.empty()) both([](auto& v) { v.push_back(v.front()); });
            break;
        case 7:
            if (!standard.empty()) both([](auto& v) { v.assign(v.size() + 3, v.back()); });
            break;
        default:
            both([&](auto& v) { v.push_back(one); });
        }
        REQUIRE(mine.size() == standard.size());
        REQUIRE(mine == standard);
        REQUIRE(mine.empty() == standard.empty());
    }
}

} // namespace

TEST_CASE("dynamic_array does what std::vector does", "[core]") {
    compare_with_vector<float>(1.5f, -2.0f);
    compare_with_vector<unsigned char>(3, 200);
    compare_with_vector<begins_with_seven>({1}, {2});
}

TEST_CASE("dynamic_array comes from containers, goes into them, and is empty when moved from", "[core]") {
    const std::vector<float> from{1.0f, 2.0f, 3.0f};
    nb::dynamic_array<float> a = from;
    const std::vector<float> back = a;
    CHECK(back == from);
    CHECK(nb::dynamic_array<float>(std::span<const float>(from).first(2)) == std::vector<float>{1.0f, 2.0f});
    CHECK(nb::dynamic_array<float>{4.0f, 5.0f} == std::vector<float>{4.0f, 5.0f});
    CHECK(nb::dynamic_array<float>(3, 9.0f) == std::vector<float>{9.0f, 9.0f, 9.0f});
    CHECK(nb::dynamic_array<begins_with_seven>(2)[1].number == 7);
    const nb::dynamic_array<float> copy = a;
    const nb::dynamic_array<float> moved = std::move(a);
    CHECK(moved == copy);
    CHECK(a.empty()); // NOLINT(bugprone-use-after-move): this is what is tested
    CHECK(a == std::vector<float>{});
    a = {6.0f};
    CHECK(a == std::vector<float>{6.0f});
    CHECK(moved != a);
    CHECK_FALSE(std::is_convertible_v<std::vector<double>, nb::dynamic_array<float>>);
    CHECK_FALSE(std::is_convertible_v<nb::dynamic_array<float>, std::vector<double>>);
}

TEST_CASE("array_view borrows from whatever has data and size", "[core]") {
    std::vector<int> v{1, 2, 3};
    int plain[] = {4, 5};
    const nb::dynamic_array<int> own{6};
    const nb::array_view<const int> all[] = {v, std::span<int>(v), plain, own, nb::array_view<int>(v), {v.data(), 1},
                                             {}};
    const std::size_t sizes[] = {3, 3, 2, 1, 3, 1, 0};
    for (std::size_t i = 0; i < 7; ++i) CHECK(all[i].size() == sizes[i]);
    CHECK(all[0].data() == v.data());
    CHECK(all[2][1] == 5);
    CHECK(all[6].empty());
    int sum = 0;
    for (const int x : all[0]) sum += x;
    CHECK(sum == 6);
    CHECK_FALSE(std::is_convertible_v<const std::vector<int>&, nb::array_view<int>>);
    CHECK_FALSE(std::is_convertible_v<std::vector<short>&, nb::array_view<const int>>);
}

TEST_CASE("shared_ptr: the last owner destroys, a std::shared_ptr inside included", "[core]") {
    {
        const auto made = nb::make_shared<counted>(5);
        nb::shared_ptr<const counted> other = made;
        CHECK(other == made);
        CHECK(other->number == 5);
        nb::shared_ptr<const counted> moved = std::move(other);
        CHECK_FALSE(other); // NOLINT(bugprone-use-after-move): this is what is tested
        moved = nullptr;
        CHECK(counted::alive == 1);
        other = made;
        other = nb::make_shared<const counted>(6);
        CHECK((*other).number == 6);
        CHECK(counted::alive == 2);
    }
    CHECK(counted::alive == 0);
    nb::shared_ptr<const counted> kept;
    {
        const auto standard = std::make_shared<const counted>(7);
        kept = standard;
        CHECK(standard.use_count() == 2);
    }
    CHECK(kept.get()->number == 7);
    CHECK(counted::alive == 1);
    kept = std::shared_ptr<const counted>();
    CHECK(kept == nullptr);
    CHECK(counted::alive == 0);
}
