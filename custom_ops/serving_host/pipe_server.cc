#include "pipe_server.h"

#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <thread>

namespace keras_prune_serving {
namespace {

constexpr uint32_t kMostBytes = UINT32_C(1) << 30;

struct Request {
  uint32_t id;
  std::string body;
};

class PipeServer {
 public:
  explicit PipeServer(Versions* versions) : versions_(versions) {}

  // Reads until the input ends; false where it ends within a request.
  bool Read() {
    uint32_t header[2];
    while (std::fread(header, 1, sizeof header, stdin) == sizeof header) {
      Request request = {header[1], ""};
      if (header[0] > kMostBytes) return false;
      request.body.resize(header[0]);
      if (std::fread(request.body.data(), 1, header[0], stdin) != header[0]) return false;
      std::lock_guard<std::mutex> lock(mutex_);
      requests_.push_back(std::move(request));
      wake_.notify_one();
    }
    return true;
  }

  void Stop() {
    std::lock_guard<std::mutex> lock(mutex_);
    is_ended_ = true;
    wake_.notify_all();
  }

  void Work() {
    for (;;) {
      Request request;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return is_ended_ || !requests_.empty(); });
        if (requests_.empty()) return;
        request = std::move(requests_.front());
        requests_.pop_front();
      }
      Write(request.id, request.body.empty() ? ServeNewest() : versions_->current()->Predict(request.body));
    }
  }

 private:
  Reply ServeNewest() {
    constexpr int kUnavailable = 14;  // of absl::StatusCode
    const auto available = versions_->Available();
    const std::string error = available.empty() ? "serving_host: no version is there" : versions_->Serve(available.back());
    return {error.empty() ? 0 : kUnavailable, versions_->current()->version(), error};
  }

  void Write(uint32_t id, const Reply& reply) {
    char header[20];
    const uint32_t size = static_cast<uint32_t>(reply.body.size());
    const int32_t code = reply.code;
    std::memcpy(header, &size, 4);
    std::memcpy(header + 4, &id, 4);
    std::memcpy(header + 8, &code, 4);
    std::memcpy(header + 12, &reply.version, 8);
    std::lock_guard<std::mutex> lock(write_mutex_);
    std::fwrite(header, 1, sizeof header, stdout);
    std::fwrite(reply.body.data(), 1, reply.body.size(), stdout);
    std::fflush(stdout);
  }

  Versions* versions_;
  std::mutex mutex_, write_mutex_;
  std::condition_variable wake_;
  std::deque<Request> requests_;
  bool is_ended_ = false;
};

}  // namespace

int RunPipeServer(int num_workers, Versions* versions) {
  PipeServer server(versions);
  std::vector<std::thread> workers;
  for (int i = 0; i < num_workers; ++i) workers.emplace_back([&] { server.Work(); });
  const bool is_whole = server.Read();
  server.Stop();
  for (auto& worker : workers) worker.join();
  if (!is_whole) std::fprintf(stderr, "serving_host: the input ended within a request, or one has more than 2^30 bytes\n");
  return is_whole ? 0 : 1;
}

}  // namespace keras_prune_serving
