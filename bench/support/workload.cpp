// workload.cpp: draws or reads the weights, draws the activations.
#include "workload.hpp"

#include "synthetic.hpp"

#include <nibble/io/model_file.hpp>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <regex>
#include <string_view>
#include <utility>

namespace bench {
namespace {

// Names come from files: for a terminal and for XML, what is not printable ASCII becomes '?'.
std::string printable(std::string_view text, std::size_t longest = 100) {
    std::string out;
    for (const char c : text.substr(0, longest)) out += c >= 0x20 && c < 0x7f ? c : '?';
    if (text.size() > longest) out += "...";
    return out;
}

std::string megaweights(std::size_t count) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f M", static_cast<double>(count) * 1e-6);
    return text;
}

// Rows in blocks over the threads.
template <class Task> void for_each_row(std::size_t rows, executor_ref threads, const Task& task) {
    constexpr std::size_t block = 16;
    threads.parallel_for((rows + block - 1) / block, [&](std::size_t part, std::size_t) {
        for (std::size_t row = part * block; row < std::min(rows, (part + 1) * block); ++row) task(row);
    });
}

void draw_activations(workload& work, std::size_t tokens, executor_ref threads) {
    for (const weight_tensor& tensor : work.tensors) {
        const std::size_t k = tensor.weights.cols();
        if (work.activations.contains(k)) continue;
        float_matrix drawn(tokens, k);
        const auto view = drawn.view();
        for_each_row(tokens, threads, [&](std::size_t row) { synthetic_activation_row(row, view.row(row), k); });
        work.activations.emplace(k, std::move(drawn));
    }
}

bool matches(std::string_view name, const std::regex& pattern) {
    // std::regex recurses once per letter: a hostile name must not overflow the stack.
    if (name.size() > 4096) return false;
    return std::regex_search(name.begin(), name.end(), pattern);
}

// A linear layer, by the names of GGUF and of Hugging Face's models: a matrix that is no table of tokens or positions
// and no head.
bool is_linear_layer(const nibble::tensor_info& tensor) {
    static const std::regex other("embd|embed|(^|[._])(wte|wpe)([._]|$)|lm_head|norm|^output\\.weight$|rotary|rope",
                                  std::regex::ECMAScript | std::regex::icase);
    return tensor.rows() >= 128 && tensor.cols() >= 128 && !matches(tensor.name, other);
}

// A share of the tensors, spread evenly over the file, that has at most `largest` weights (but at least one tensor).
std::vector<const nibble::tensor_info*> thinned(const std::vector<const nibble::tensor_info*>& all,
                                                std::size_t largest) {
    std::size_t total = 0;
    for (const auto* tensor : all) total += tensor->rows() * tensor->cols();
    if (total <= largest) return all;
    const double share = static_cast<double>(largest) / static_cast<double>(total);
    std::vector<const nibble::tensor_info*> some;
    std::size_t taken = 0;
    double due = 0;
    for (const auto* tensor : all) {
        due += share;
        const std::size_t count = tensor->rows() * tensor->cols();
        if (due < 1 || count > largest - taken) continue;
        due -= 1;
        taken += count;
        some.push_back(tensor);
    }
    if (some.empty())
        some.push_back(*std::min_element(all.begin(), all.end(), [](const auto* a, const auto* b) {
            return a->rows() * a->cols() < b->rows() * b->cols();
        }));
    return some;
}

} // namespace

std::size_t workload::weight_count() const noexcept {
    std::size_t count = 0;
    for (const weight_tensor& tensor : tensors) count += tensor.weights.rows() * tensor.weights.cols();
    return count;
}

workload synthetic_workload(std::size_t n, std::size_t k, std::size_t tokens, executor_ref threads) {
    workload work;
    work.title = "synthetic language-model-like weights, N = " + std::to_string(n) + ", K = " + std::to_string(k);
    work.tensors.push_back({"synthetic", float_matrix(n, k)});
    const auto view = work.tensors.back().weights.view();
    for_each_row(n, threads, [&](std::size_t row) { synthetic_weight_row(row, view.row(row), k); });
    draw_activations(work, tokens, threads);
    return work;
}

workload file_workload(const std::string& path, const std::string& pattern, std::size_t largest, std::size_t tokens,
                       executor_ref threads) {
    std::regex wanted;
    try {
        wanted = std::regex(pattern, std::regex::ECMAScript);
    } catch (const std::regex_error& error) {
        throw user_error("--tensor '" + printable(pattern) + "' is not a regular expression: " + error.what());
    }
    nibble::model_file file;
    const nibble::status opened = nibble::model_file::open(path.c_str(), file);
    if (!opened.ok()) throw user_error(printable(opened.message(), 400));

    std::vector<const nibble::tensor_info*> chosen;
    std::size_t unreadable = 0;
    std::size_t matching = 0;
    std::string unreadable_type;
    for (const nibble::tensor_info& tensor : file.tensors()) {
        if (!pattern.empty() && !matches(tensor.name, wanted)) continue;
        ++matching;
        if (tensor.shape.size() != 2 || tensor.rows() == 0 || tensor.cols() == 0) continue;
        if (pattern.empty() && !is_linear_layer(tensor)) continue;
        if (tensor.type == nibble::tensor_type::other) {
            ++unreadable;
            unreadable_type = tensor.type_name;
            continue;
        }
        chosen.push_back(&tensor);
    }
    if (chosen.empty()) {
        const std::string where = printable(path, 300) + ": ";
        if (unreadable != 0)
            throw user_error(where + "all " + std::to_string(unreadable) + " matrices chosen are of types like " +
                             printable(unreadable_type) + "; only F32, F16 and BF16 can be read");
        if (pattern.empty())
            throw user_error(where +
                             "no linear layers found (rank 2, both dimensions at least 128, no embedding, head or "
                             "norm); choose tensors with --tensor REGEX");
        if (matching == 0)
            throw user_error(where + "none of " + std::to_string(file.tensors().size()) +
                             " tensors has a name matching '" + printable(pattern) + "'");
        throw user_error(where + "of the " + std::to_string(matching) + " tensors matching '" + printable(pattern) +
                         "' none is a matrix (rank 2)");
    }

    workload work;
    const std::size_t before = chosen.size();
    chosen = thinned(chosen, largest);
    if (chosen.size() != before)
        work.notes.push_back("the model is large: comparing on " + std::to_string(chosen.size()) + " of " +
                             std::to_string(before) + " matrices, spread evenly over the file");
    if (unreadable != 0)
        work.notes.push_back(std::to_string(unreadable) + " matrices of types like " + printable(unreadable_type) +
                             " are left out: only F32, F16 and BF16 can be read");

    for (const nibble::tensor_info* tensor : chosen) {
        weight_tensor read{std::string(tensor->name), float_matrix(tensor->rows(), tensor->cols())};
        const auto view = read.weights.view();
        std::atomic<bool> finite{true};
        std::atomic<bool> complete{true};
        for_each_row(view.rows(), threads, [&](std::size_t row) {
            const nibble::matrix_view<float> one(view.row(row), 1, view.cols());
            if (!nibble::read_rows(*tensor, row, one).ok()) complete = false;
            if (!std::all_of(one.data(), one.data() + one.cols(), [](float value) { return std::isfinite(value); }))
                finite = false;
        });
        if (!complete)
            throw user_error(printable(path, 300) + ": tensor '" + printable(tensor->name) + "' cannot be read");
        if (!finite)
            throw user_error(printable(path, 300) + ": tensor '" + printable(tensor->name) +
                             "' holds a NaN or an infinity");
        work.tensors.push_back(std::move(read));
    }
    const auto slash = path.find_last_of('/');
    work.title = printable(slash == std::string::npos ? path : path.substr(slash + 1)) + ", ";
    if (work.tensors.size() == 1) {
        const auto& only = work.tensors.front();
        work.title += printable(only.name) + ", N = " + std::to_string(only.weights.rows()) +
                      ", K = " + std::to_string(only.weights.cols());
    } else {
        work.title +=
            std::to_string(work.tensors.size()) + " matrices, " + megaweights(work.weight_count()) + " weights";
    }
    draw_activations(work, tokens, threads);
    return work;
}

} // namespace bench
