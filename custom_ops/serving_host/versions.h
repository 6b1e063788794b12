// The versions of a model in a folder, as TensorFlow Serving has them: models/lenet/1, models/lenet/2, …
#ifndef KERAS_PRUNE_SERVING_HOST_VERSIONS_H_
#define KERAS_PRUNE_SERVING_HOST_VERSIONS_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "served_model.h"

namespace keras_prune_serving {

class Versions {
 public:
  Versions(std::string folder, int num_threads) : folder_(std::move(folder)), num_threads_(num_threads) {}

  // The folders whose names are numbers, ascending.
  std::vector<int64_t> Available() const;

  // Loads a version, then serves it in place of the one before. Requests under way end on the one that they began on;
  // the last of them frees it. Returns what is wrong, and then goes on with the one before; or nothing.
  std::string Serve(int64_t version);

  // Null before the first.
  std::shared_ptr<const ServedModel> current() const;

 private:
  std::string folder_;
  int num_threads_;
  mutable std::mutex mutex_;
  std::shared_ptr<const ServedModel> current_;
};

}  // namespace keras_prune_serving

#endif  // KERAS_PRUNE_SERVING_HOST_VERSIONS_H_
