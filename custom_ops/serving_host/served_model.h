// A SavedModel in a session, loaded by tensorflow::LoadSavedModel as TensorFlow Serving does. This header needs nothing
// of TensorFlow, so that only one file is compiled with its headers, which takes long.
#ifndef KERAS_PRUNE_SERVING_HOST_SERVED_MODEL_H_
#define KERAS_PRUNE_SERVING_HOST_SERVED_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>

namespace keras_prune_serving {

// What a request gave.
struct Reply {
  int code = 0;         // an absl::StatusCode; 0: fine
  int64_t version = 0;  // of the model that answered
  std::string body;     // a serialized tensorflow.NameAttrList, or what is wrong
};

// Makes the ops of a library known to this process (TF_LoadLibrary). Returns what is wrong, or nothing.
std::string LoadOpLibrary(const std::string& path);

// One version of a model. Any number of threads may call Predict.
class ServedModel {
 public:
  // Loads the SavedModel in `folder`; operators use at most `num_threads` threads (0: as TensorFlow chooses). Null where
  // that fails, with the reason in `error`.
  static std::shared_ptr<const ServedModel> Load(const std::string& folder, int64_t version, int num_threads,
                                                 std::string* error);
  ~ServedModel();
  ServedModel(const ServedModel&) = delete;
  ServedModel& operator=(const ServedModel&) = delete;

  // Runs a signature. The request is a serialized tensorflow.NameAttrList (which Python has too, as its own classes for
  // requests to sessions are in no wheel): `name` is the signature's, "serving_default" where it is empty, `attr` has a
  // tensor for each of its inputs. The answer has one for each of its outputs.
  Reply Predict(const std::string& request) const;
  int64_t version() const { return version_; }

 private:
  struct Parts;
  ServedModel(int64_t version, std::unique_ptr<Parts> parts);
  int64_t version_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace keras_prune_serving

#endif  // KERAS_PRUNE_SERVING_HOST_SERVED_MODEL_H_
