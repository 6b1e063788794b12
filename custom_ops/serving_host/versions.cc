#include "versions.h"

#include <algorithm>
#include <filesystem>

namespace keras_prune_serving {

std::vector<int64_t> Versions::Available() const {
  constexpr size_t kMostDigits = 18;  // of an int64_t, whatever they are
  std::vector<int64_t> versions;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    const std::string name = entry.path().filename().string();
    if (name.size() <= kMostDigits && name.find_first_not_of("0123456789") == std::string::npos) {
      versions.push_back(std::stoll(name));
    }
  }
  std::sort(versions.begin(), versions.end());
  return versions;
}

std::string Versions::Serve(int64_t version) {
  std::string error;
  auto loaded = ServedModel::Load(folder_ + "/" + std::to_string(version), version, num_threads_, &error);
  if (loaded == nullptr) return error.empty() ? "serving_host: the version was not loaded" : error;
  std::lock_guard<std::mutex> lock(mutex_);
  current_.swap(loaded);
  return "";
}

std::shared_ptr<const ServedModel> Versions::current() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return current_;
}

}  // namespace keras_prune_serving
