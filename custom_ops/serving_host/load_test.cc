#include "load_test.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <sstream>
#include <thread>

namespace keras_prune_serving {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Counts of times by their logarithm, in steps of about 1 %: constant memory however long it runs.
class Histogram {
 public:
  void Add(double seconds) {
    const double step = std::log2(std::max(seconds, kLeast) / kLeast) * kStepsPerOctave;
    counts_[std::min(static_cast<size_t>(step), kSize - 1)].fetch_add(1, std::memory_order_relaxed);
  }
  double Percentile(double part) const {
    uint64_t total = 0, seen = 0;
    for (const auto& count : counts_) total += count;
    for (size_t i = 0; i < kSize; ++i) {
      seen += counts_[i];
      if (static_cast<double>(seen) > part * static_cast<double>(total)) {
        return kLeast * std::exp2((static_cast<double>(i) + 0.5) / kStepsPerOctave);
      }
    }
    return 0;
  }

 private:
  static constexpr double kLeast = 1e-7;
  static constexpr int kStepsPerOctave = 64;
  static constexpr size_t kSize = 40 * kStepsPerOctave;  // up to a day
  std::atomic<uint64_t> counts_[kSize] = {};
};

struct Plan {
  int num_threads = 1;
  long num_requests = 0;
  double seconds = 0;
  int reload_ms = 0;
};

class LoadTest {
 public:
  LoadTest(const std::string& request, const std::string& responses, Versions* versions)
      : request_(request), responses_(responses), versions_(versions) {}

  void Run(const Plan& plan) {
    const auto start = Clock::now();
    std::vector<std::thread> threads;
    std::atomic<int> num_running{plan.num_threads};
    for (int i = 0; i < plan.num_threads; ++i) {
      threads.emplace_back([&] {
        for (long k = 0; k < plan.num_requests && (plan.seconds == 0 || SecondsSince(start) < plan.seconds); ++k) Send();
        --num_running;
      });
    }
    while (plan.reload_ms > 0 && num_running > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(plan.reload_ms));
      Reload();
    }
    for (auto& thread : threads) thread.join();
    seconds_ += SecondsSince(start);
  }

  void Print() const {
    std::string error = first_error_;
    for (char& c : error) {
      if (c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' ') c = '\'';
    }
    std::printf(
        "{\"requests\": %ld, \"errors\": %ld, \"first_error\": \"%s\", \"reloads\": %ld, \"versions\": %zu, "
        "\"seconds\": %.3f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"resident_bytes\": %ld}\n",
        num_requests_.load(), num_errors_.load(), error.c_str(), num_reloads_, first_.size(), seconds_,
        1e3 * times_.Percentile(0.5), 1e3 * times_.Percentile(0.99), ResidentBytes());
    std::fflush(stdout);
  }

 private:
  void Send() {
    const auto start = Clock::now();
    const Reply reply = versions_->current()->Predict(request_);
    times_.Add(SecondsSince(start));
    ++num_requests_;
    if (reply.code != 0) return Fail(reply.body);
    std::lock_guard<std::mutex> lock(mutex_);
    const auto [first, is_new] = first_.try_emplace(reply.version, reply.body);
    if (is_new) std::ofstream(responses_ + "." + std::to_string(reply.version), std::ios::binary) << reply.body;
    if (first->second == reply.body) return;
    ++num_errors_;
    if (first_error_.empty()) first_error_ = "version " + std::to_string(reply.version) + " gave different answers";
  }

  void Reload() {
    const auto available = versions_->Available();
    const int64_t now = versions_->current()->version();
    size_t next = 0;
    while (next < available.size() && available[next] <= now) ++next;
    const std::string error = versions_->Serve(available[next % available.size()]);
    if (!error.empty()) return Fail(error);
    ++num_reloads_;
  }

  void Fail(const std::string& message) {
    ++num_errors_;
    std::lock_guard<std::mutex> lock(mutex_);
    if (first_error_.empty()) first_error_ = message;
  }

  const std::string& request_;
  const std::string& responses_;
  Versions* versions_;
  Histogram times_;
  std::atomic<long> num_requests_{0}, num_errors_{0};
  long num_reloads_ = 0;
  double seconds_ = 0;
  std::mutex mutex_;
  std::string first_error_;
  std::map<int64_t, std::string> first_;  // answers of each version
};

}  // namespace

long ResidentBytes() {
  long pages = 0, ignored = 0;
  std::ifstream("/proc/self/statm") >> ignored >> pages;
  return pages * sysconf(_SC_PAGESIZE);
}

int RunLoadTests(const std::string& request, const std::string& responses, Versions* versions) {
  LoadTest test(request, responses, versions);
  std::string line;
  while (std::getline(std::cin, line)) {
    Plan plan;
    if (!(std::istringstream(line) >> plan.num_threads >> plan.num_requests >> plan.seconds >> plan.reload_ms)) {
      std::fprintf(stderr, "serving_host: expected threads, requests, seconds and milliseconds, got: %s\n", line.c_str());
      return 1;
    }
    test.Run(plan);
    test.Print();
  }
  return 0;
}

}  // namespace keras_prune_serving
