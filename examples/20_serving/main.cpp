// A server's loop: requests that share a prompt are decoded together, one call of attend for all of them at every step.
// When pages run out the youngest request is put aside, its pages saved to plain memory, and goes on when there is room
// again, with the same bits as if nothing had happened.
#include <nibble/nibble.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace nb = nibble;

using layer_cache = nb::kv_cache<nb::int8_channel, nb::int8_channel>; // a model has one per layer

const std::size_t key_heads = 2, query_heads = 8, channels = 64, tokens_per_page = 32;
const std::size_t kv_width = key_heads * channels, q_width = query_heads * channels;

// The model: keys, values and queries of the next tokens are drawn from a seed that depends on every bit of what
// attention gave before, so that one wrong bit would change all that follows.
std::vector<float> numbers(std::uint64_t seed, std::size_t count) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> v(count);
    for (float& x : v) x = normal(random);
    return v;
}
std::uint64_t digest(const float* values, std::size_t count, std::uint64_t state) {
    for (std::size_t i = 0; i < count; ++i) {
        std::uint32_t bits;
        std::memcpy(&bits, values + i, sizeof bits);
        state = (state ^ bits) * 0x100000001b3u; // FNV-1a
    }
    return state;
}

struct request {
    layer_cache tokens;
    std::size_t shared;           // pages at the front that others have too: dropping them would free nothing
    std::uint64_t state;          // of the model
    std::size_t next;             // tokens of the next step: the request's own part of the prompt, then one by one
    std::size_t left;             // to generate
    std::vector<std::byte> saved; // pages, while it is put aside
    bool running = false;

    [[nodiscard]] std::size_t pages_to_run() const {
        const std::size_t dropped = saved.size() / tokens.pages()->page_bytes();
        return dropped + tokens.pages_needed(next); // may count the last page twice
    }
};

class server {
public:
    std::size_t preemptions = 0, saved_bytes = 0, most_at_once = 0;

    // A prompt that all requests begin with is stored once.
    server(std::size_t pages, std::size_t prompt_tokens)
        : pages_(std::make_shared<layer_cache::pages_type>(nb::kv_cache_options{.heads = key_heads,
                                                                                .head_size = channels,
                                                                                .capacity = 1024,
                                                                                .pages = pages,
                                                                                .page_tokens = tokens_per_page})),
          prompt_(pages_) {
        const std::vector<float> k = numbers(1, prompt_tokens * kv_width), v = numbers(2, prompt_tokens * kv_width);
        prompt_.append({k.data(), prompt_tokens, kv_width}, {v.data(), prompt_tokens, kv_width});
    }

    void add(std::uint64_t seed, std::size_t own_prompt, std::size_t generate) {
        requests_.push_back({prompt_.fork(), prompt_.size() / tokens_per_page, seed, own_prompt, generate, {}});
    }

    // The last states of all requests, in the order in which they were added.
    std::vector<std::uint64_t> run() {
        while (step()) {
        }
        std::vector<std::uint64_t> states;
        for (const request& r : requests_) states.push_back(r.state);
        return states;
    }

private:
    // False when there is nothing left to do, or too few pages for a single request.
    bool step() {
        std::size_t needed = 0, running = 0;
        for (request& r : requests_)
            if (r.running) needed += r.tokens.pages_needed(r.next);
        // Those that run come first, the oldest of them before all others: so it always ends.
        for (std::size_t i = requests_.size(); needed > pages_->available() && i-- > 0;)
            if (requests_[i].running) {
                needed -= requests_[i].tokens.pages_needed(requests_[i].next);
                put_aside(requests_[i]);
            }
        for (request& r : requests_) {
            if (!r.running && r.left != 0) {
                if (needed + r.pages_to_run() > pages_->available()) break; // nobody overtakes
                bring_back(r);
                needed += r.tokens.pages_needed(r.next);
            }
            running += r.running ? 1 : 0;
        }
        if (running == 0) return false;
        most_at_once = running > most_at_once ? running : most_at_once;

        // All new tokens of the step, whether part of a prompt or decoded, are rows of one matrix.
        std::vector<nb::attended_sequence<nb::int8_channel, nb::int8_channel>> batch;
        std::vector<float> q;
        for (request& r : requests_) {
            if (!r.running) continue;
            const std::vector<float> k = numbers(r.state, r.next * kv_width);
            const std::vector<float> v = numbers(r.state + 1, r.next * kv_width);
            const std::vector<float> queries = numbers(r.state + 2, r.next * q_width);
            r.tokens.append({k.data(), r.next, kv_width}, {v.data(), r.next, kv_width});
            batch.push_back({&r.tokens, q.size() / q_width, r.next});
            q.insert(q.end(), queries.begin(), queries.end());
        }
        std::vector<float> out(q.size());
        const std::size_t rows = q.size() / q_width;
        nb::attend({q.data(), rows, q_width}, batch, {out.data(), rows, q_width}, {.workspace = &scratch_});

        std::size_t row = 0;
        for (request& r : requests_) {
            if (!r.running) continue;
            r.state = digest(out.data() + row * q_width, r.next * q_width, r.state);
            row += r.next;
            r.next = 1;
            if (--r.left == 0) {
                r.running = false;
                r.tokens.clear(); // its pages are free for others
            }
        }
        return true;
    }

    void put_aside(request& r) {
        const std::size_t bytes = pages_->page_bytes(), first = r.shared;
        r.tokens.flush(); // what waits in fp32 into its page: nothing in these formats
        r.saved.resize((r.tokens.page_count() - first) * bytes);
        for (std::size_t i = first; i < r.tokens.page_count(); ++i) {
            r.tokens.save_page(i, {r.saved.data() + (i - first) * bytes, bytes});
            r.tokens.drop_page(i);
        }
        r.running = false;
        ++preemptions;
        saved_bytes += r.saved.size();
    }
    void bring_back(request& r) {
        const std::size_t bytes = pages_->page_bytes(), count = r.saved.size() / bytes;
        for (std::size_t i = 0; i < count; ++i)
            r.tokens.restore_page(r.shared + i, {r.saved.data() + i * bytes, bytes});
        r.saved.clear();
        r.running = true;
    }

    std::shared_ptr<layer_cache::pages_type> pages_;
    layer_cache prompt_;
    std::vector<request> requests_;
    nb::workspace scratch_;
};

int main() {
    const std::size_t prompt = 200, requests = 6, generate = 90;
    const auto own_prompt = [](std::size_t i) { return 3 + 20 * i; };

    server crowded(24, prompt); // the prompt takes 7 pages, each request up to 8 more
    for (std::size_t i = 0; i < requests; ++i) crowded.add(100 + i, own_prompt(i), generate);
    const std::vector<std::uint64_t> states = crowded.run();

    std::size_t same = 0;
    for (std::size_t i = 0; i < requests; ++i) {
        server alone(64, prompt);
        alone.add(100 + i, own_prompt(i), generate);
        if (alone.run().front() == states[i] && alone.preemptions == 0) ++same;
    }
    std::printf("%zu requests, up to %zu at once; put aside %zu times, %zu KiB of pages saved and restored\n", requests,
                crowded.most_at_once, crowded.preemptions, crowded.saved_bytes / 1024);
    std::printf("%zu of %zu gave the same bits as alone with all the pages they want\n", same, requests);
    return same == requests && crowded.preemptions != 0 && crowded.most_at_once > 1 ? 0 : 1;
}
