// What the TensorFlow op's Compute adds to the bare kernel, in a session of a real TensorFlow, through its C API.
//
// The op is registered with a Compute that calls ours, and then the kernel alone on the same input and output, and takes
// the time of both; the two take turns in being first. Both find x and the layout in the cache.
// Usage: tf_op_bench <folder of the tensorflow package> [runs of each layer]
#include <dlfcn.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../kernels/fully_connected.h"
#include "../tests/packing.h"
#include "../tf/call.h"
#include "../tf/threads.h"

extern "C" {
struct TF_Graph;
struct TF_Session;
struct TF_SessionOptions;
struct TF_Operation;
struct TF_OperationDescription;
struct TF_Output {
  TF_Operation* operation;
  int index;
};
}

namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a bench of that namespace

// What a host calls; the op itself calls the functions in tf_c_api.h.
#define HOST_API(F)                                                                                                  \
  F(TF_NewGraph, TF_Graph*, (void))                                                                                  \
  F(TF_DeleteGraph, void, (TF_Graph*))                                                                               \
  F(TF_NewSessionOptions, TF_SessionOptions*, (void))                                                                \
  F(TF_SetConfig, void, (TF_SessionOptions*, const void* proto, size_t size, TF_Status*))                            \
  F(TF_DeleteSessionOptions, void, (TF_SessionOptions*))                                                             \
  F(TF_NewSession, TF_Session*, (TF_Graph*, const TF_SessionOptions*, TF_Status*))                                   \
  F(TF_DeleteSession, void, (TF_Session*, TF_Status*))                                                               \
  F(TF_SessionRun, void,                                                                                             \
    (TF_Session*, const TF_Buffer* options, const TF_Output* inputs, TF_Tensor* const* values, int num_inputs,       \
     const TF_Output* outputs, TF_Tensor** results, int num_outputs, const TF_Operation* const* targets,             \
     int num_targets, TF_Buffer* metadata, TF_Status*))                                                              \
  F(TF_NewOperation, TF_OperationDescription*, (TF_Graph*, const char* type, const char* name))                      \
  F(TF_AddInput, void, (TF_OperationDescription*, TF_Output))                                                        \
  F(TF_SetAttrType, void, (TF_OperationDescription*, const char* name, int type))                                    \
  F(TF_SetAttrString, void, (TF_OperationDescription*, const char* name, const void* value, size_t length))         \
  F(TF_SetAttrTensor, void, (TF_OperationDescription*, const char* name, TF_Tensor*, TF_Status*))                    \
  F(TF_FinishOperation, TF_Operation*, (TF_OperationDescription*, TF_Status*))                                       \
  F(TF_AllocateTensor, TF_Tensor*, (int type, const int64_t* dims, int num_dims, size_t size))

struct HostApi {
#define DECLARE(name, result, parameters) result(*name) parameters;
  HOST_API(DECLARE)
#undef DECLARE
} host;

OpRegistration op;

void Die(const char* what) {
  std::fprintf(stderr, "tf_op_bench: %s\n", what);
  std::exit(1);
}

void Check(TF_Status* status) {
  if (tf.TF_GetCode(status) != kTfOk) Die(tf.TF_Message(status));
}

double Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e6 * static_cast<double>(now.tv_sec) + 1e-3 * static_cast<double>(now.tv_nsec);
}

struct Times {
  std::vector<double> compute, kernel;  // microseconds
};

const FcLayout* layout;  // of the layer that is measured
std::vector<float> y;
void* workspace;
Times times;

double TimeOfKernel(const float* x, size_t batch) {
  FcCall call = {x, batch, nullptr, -HUGE_VALF, HUGE_VALF, y.data()};
  call.workspace = workspace;
  const double start = Now();
  FcForward(layout, call);
  return Now() - start;
}

double TimeOfCompute(void* kernel, TF_OpKernelContext* context) {
  const double start = Now();
  op.compute(kernel, context);
  return Now() - start;
}

void Compute(void* kernel, TF_OpKernelContext* context) {
  CallStatus call;
  Tensor x;
  tf.TF_GetInput(context, 0, &x.tensor, call.status);
  Check(call.status);
  const auto* data = static_cast<const float*>(tf.TF_TensorData(x.tensor));
  const auto batch = static_cast<size_t>(tf.TF_Dim(x.tensor, 0));
  const bool kernel_first = times.compute.size() % 2 == 0;
  TimeOfKernel(data, batch);
  if (kernel_first) times.kernel.push_back(TimeOfKernel(data, batch));
  times.compute.push_back(TimeOfCompute(kernel, context));
  if (!kernel_first) times.kernel.push_back(TimeOfKernel(data, batch));
}

void* Open(const std::string& path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr) Die(dlerror());
  return library;
}

void LoadTensorFlow(const std::string& folder) {
  void* framework = Open(folder + "/libtensorflow_framework.so.2");
  void* library = Open(folder + "/libtensorflow_cc.so.2");
#define FIND(name, result, parameters)                                            \
  host.name = reinterpret_cast<result(*) parameters>(dlsym(library, #name));      \
  if (!host.name) host.name = reinterpret_cast<result(*) parameters>(dlsym(framework, #name)); \
  if (!host.name) Die(#name " is not in this TensorFlow");
  HOST_API(FIND)
#undef FIND
  const char* missing = LoadTfApi();
  if (missing != nullptr) Die(missing);
}

void RegisterTimedOp() {
  CallStatus call;
  if (!op.register_op(call.status)) Check(call.status);
  TF_KernelBuilder* builder = tf.TF_NewKernelBuilder(op.name, "CPU", op.create, Compute, op.destroy);
  tf.TF_RegisterKernelBuilder(op.name, builder, call.status);
  Check(call.status);
}

TF_Tensor* NewTensor(int type, const std::vector<int64_t>& dims, const void* data, size_t size) {
  TF_Tensor* tensor = host.TF_AllocateTensor(type, dims.data(), static_cast<int>(dims.size()), size);
  std::memcpy(tf.TF_TensorData(tensor), data, size);
  return tensor;
}

TF_Operation* Finish(TF_OperationDescription* description) {
  CallStatus call;
  TF_Operation* operation = host.TF_FinishOperation(description, call.status);
  Check(call.status);
  return operation;
}

// y = op(x, packed, activations) with a constant for the packed bytes.
struct Model {
  TF_Graph* graph = host.TF_NewGraph();
  TF_Output x, y;
  TF_Session* session;
  CallStatus call;

  Model(const std::vector<uint8_t>& packed, const char* activations) {
    TF_OperationDescription* description = host.TF_NewOperation(graph, "Placeholder", "x");
    host.TF_SetAttrType(description, "dtype", kTfFloat);
    x = {Finish(description), 0};
    description = host.TF_NewOperation(graph, "Const", "packed");
    Tensor bytes;
    bytes.tensor = NewTensor(kTfUint8, {static_cast<int64_t>(packed.size())}, packed.data(), packed.size());
    host.TF_SetAttrType(description, "dtype", kTfUint8);
    host.TF_SetAttrTensor(description, "value", bytes.tensor, call.status);
    Check(call.status);
    const TF_Output constant = {Finish(description), 0};
    description = host.TF_NewOperation(graph, op.name, "y");
    host.TF_AddInput(description, x);
    host.TF_AddInput(description, constant);
    host.TF_SetAttrString(description, "activations", activations, std::strlen(activations));
    y = {Finish(description), 0};
    TF_SessionOptions* options = host.TF_NewSessionOptions();
    const uint8_t one_thread[] = {0x10, 1, 0x28, 1};  // intra_op and inter_op_parallelism_threads of a ConfigProto
    host.TF_SetConfig(options, one_thread, sizeof one_thread, call.status);
    Check(call.status);
    session = host.TF_NewSession(graph, options, call.status);
    Check(call.status);
    host.TF_DeleteSessionOptions(options);
  }
  ~Model() {
    host.TF_DeleteSession(session, call.status);
    host.TF_DeleteGraph(graph);
  }
  void Run(TF_Tensor* value) {
    Tensor result;
    host.TF_SessionRun(session, nullptr, &x, &value, 1, &y, &result.tensor, 1, nullptr, 0, nullptr, call.status);
    Check(call.status);
  }
};

double Percentile(std::vector<double>* values, double part) {
  std::sort(values->begin(), values->end());
  return (*values)[static_cast<size_t>(part * static_cast<double>(values->size() - 1))];
}

struct Layer {
  const char* name;
  uint32_t rows, cols;
  double density;
};

FcLayout* Make(const std::vector<uint8_t>& packed, Activations activations) {
  PackedView view;
  bool ok;
  const Isa isa = SelectIsa(&ok);
  FcLayout* made = nullptr;
  if (ParsePacked(packed.data(), packed.size(), &view) != Status::kOk) Die("cannot read its own packed bytes");
  if (!ok || MakeFcLayout(view, {isa, activations}, &made) != Status::kOk) Die("no layout");
  return made;
}

void Print(const char* name, const char* activations) {
  std::vector<double> added;
  for (size_t i = 0; i < times.compute.size(); ++i) added.push_back(times.compute[i] - times.kernel[i]);
  const double compute = Percentile(&times.compute, 0.01), kernel = Percentile(&times.kernel, 0.01);
  std::printf("%-18s %4ux%-5u %-7s  kernel %7.2f us  Compute %7.2f us  added %5.2f us   (median of pairs %5.2f)\n", name,
              FcRows(layout), FcCols(layout), activations, kernel, compute, compute - kernel, Percentile(&added, 0.5));
}

void Bench(const Layer& layer, const char* activations, int runs) {
  const auto weights = keras_prune_test::RandomLayer(layer.rows, layer.cols, layer.density, 16);
  const auto packed = keras_prune_test::Pack(weights);
  const bool is_int8 = std::strcmp(activations, "int8") == 0;
  FcLayout* made = Make(packed, is_int8 ? Activations::kInt8 : Activations::kFloat32);
  layout = made;
  y.assign(layer.rows, 0.0f);
  if (posix_memalign(&workspace, kWorkspaceAlignment, FcWorkspaceBytes(made, 1, 1) + 1) != 0) Die("no memory");
  const auto values = keras_prune_test::RandomVector(layer.cols);
  Tensor x;
  x.tensor = NewTensor(kTfFloat, {1, layer.cols}, values.data(), values.size() * sizeof(float));
  Model model(packed, activations);
  for (int i = 0; i < 20; ++i) model.Run(x.tensor);
  times = {};
  for (int i = 0; i < runs; ++i) model.Run(x.tensor);
  Print(layer.name, activations);
  FreeFcLayout(made);
  free(workspace);
}

}  // namespace

namespace keras_prune {

// In place of call.cc's: the bench registers the op itself, once TensorFlow is loaded.
void RegisterOpAndKernel(const OpRegistration& registration) { op = registration; }

bool FailCall(TF_Status*, int, const char*, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  Die(" (the op refused its input)");
  return false;
}

}  // namespace keras_prune

int main(int argc, char** argv) {
  if (argc < 2) Die("expected the folder of the tensorflow package, for example .venv/lib/python3.11/site-packages/tensorflow");
  const int runs = argc > 2 ? std::atoi(argv[2]) : 5000;
  if (runs < 1) Die("expected a number of runs of 1 or more");
  LoadTensorFlow(argv[1]);
  RegisterTimedOp();
  SetNumThreads(1);
  std::printf("batch 1, one thread; the 1st percentiles of %d runs (other work on the machine disturbs these least)\n", runs);
  constexpr Layer kLayers[] = {{"a few weights", 8, 8, 0.5},
                               {"LeNet-300-100 fc2", 100, 300, 0.09},
                               {"LeNet-300-100 fc1", 300, 784, 0.08},
                               {"AlexNet fc8", 1000, 4096, 0.25}};
  for (const Layer& layer : kLayers) {
    for (const char* activations : {"float32", "int8"}) Bench(layer, activations, runs);
  }
}
