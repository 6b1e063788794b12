#include "served_model.h"

#include <utility>
#include <vector>

#include "tensorflow/c/c_api.h"
#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/attr_value.pb.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/lib/strings/proto_serialization.h"

namespace keras_prune_serving {
namespace {

constexpr char kTag[] = "serve";
constexpr char kSignature[] = "serving_default";

using Feeds = std::vector<std::pair<std::string, tensorflow::Tensor>>;

absl::Status Invalid(const std::string& message) { return absl::InvalidArgumentError("serving_host: " + message); }

template <typename Infos>
std::string NamesOf(const Infos& infos) {
  std::string names;
  for (const auto& item : infos) names += (names.empty() ? "" : ", ") + item.first;
  return names;
}

absl::Status ReadFeeds(const tensorflow::NameAttrList& request, const tensorflow::SignatureDef& signature,
                       Feeds* feeds) {
  for (const auto& [name, value] : request.attr()) {
    const auto input = signature.inputs().find(name);
    tensorflow::Tensor tensor;
    if (input == signature.inputs().end() || !tensor.FromProto(value.tensor())) {
      return Invalid("expected tensors for the inputs " + NamesOf(signature.inputs()) + ", got a broken or unknown one, " +
                     name);
    }
    feeds->emplace_back(input->second.name(), std::move(tensor));
  }
  if (feeds->size() == static_cast<size_t>(signature.inputs_size())) return absl::OkStatus();
  return Invalid("expected a tensor for each of the inputs " + NamesOf(signature.inputs()) + ", got " +
                 std::to_string(feeds->size()) + " tensors");
}

absl::Status Run(const tensorflow::SavedModelBundleLite& bundle, const std::string& request, std::string* response) {
  tensorflow::NameAttrList parsed, result;
  if (!parsed.ParseFromString(request)) return Invalid("expected a serialized tensorflow.NameAttrList");
  const auto found = bundle.GetSignatures().find(parsed.name().empty() ? kSignature : parsed.name());
  if (found == bundle.GetSignatures().end()) {
    return Invalid("expected the name of a signature, " + NamesOf(bundle.GetSignatures()) + ", got " + parsed.name());
  }
  Feeds feeds;
  const absl::Status status = ReadFeeds(parsed, found->second, &feeds);
  if (!status.ok()) return status;
  std::vector<std::string> names, fetches;
  for (const auto& [name, info] : found->second.outputs()) {
    names.push_back(name);
    fetches.push_back(info.name());
  }
  std::vector<tensorflow::Tensor> outputs;
  const absl::Status ran = bundle.GetSession()->Run(feeds, fetches, {}, &outputs);
  if (!ran.ok()) return ran;
  for (size_t i = 0; i < outputs.size(); ++i) {
    outputs[i].AsProtoTensorContent((*result.mutable_attr())[names[i]].mutable_tensor());
  }
  // Equal answers have equal bytes.
  if (tensorflow::SerializeToStringDeterministic(result, response)) return absl::OkStatus();
  return absl::InternalError("serving_host: the result is too large for one message");
}

}  // namespace

struct ServedModel::Parts {
  tensorflow::SavedModelBundleLite bundle;
};

std::string LoadOpLibrary(const std::string& path) {
  TF_Status* status = TF_NewStatus();
  TF_LoadLibrary(path.c_str(), status);  // its handle stays: an op cannot be forgotten
  std::string message = TF_GetCode(status) == TF_OK ? "" : TF_Message(status);
  TF_DeleteStatus(status);
  return message;
}

std::shared_ptr<const ServedModel> ServedModel::Load(const std::string& folder, int64_t version, int num_threads,
                                                     std::string* error) {
  tensorflow::SessionOptions options;
  options.config.set_intra_op_parallelism_threads(num_threads);
  // Requests run in the threads that they came in: as many at the same time as there are callers.
  options.config.set_inter_op_parallelism_threads(-1);
  auto parts = std::make_unique<Parts>();
  const absl::Status status =
      tensorflow::LoadSavedModel(options, tensorflow::RunOptions(), folder, {kTag}, &parts->bundle);
  if (!status.ok()) {
    *error = std::string(status.message());
    return nullptr;
  }
  return std::shared_ptr<const ServedModel>(new ServedModel(version, std::move(parts)));
}

ServedModel::ServedModel(int64_t version, std::unique_ptr<Parts> parts) : version_(version), parts_(std::move(parts)) {}

ServedModel::~ServedModel() = default;  // SavedModelBundleLite closes its session

Reply ServedModel::Predict(const std::string& request) const {
  Reply reply;
  reply.version = version_;
  const absl::Status status = Run(parts_->bundle, request, &reply.body);
  if (!status.ok()) {
    reply.code = static_cast<int>(status.code());
    reply.body = std::string(status.message());
  }
  return reply;
}

}  // namespace keras_prune_serving
