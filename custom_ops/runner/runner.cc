// Runs a packed .tflite file from C++, through LiteRT's C interface and our delegate; no Python, no headers of LiteRT.
//
//   keras_prune_run libLiteRt.so libkeras_prune_delegate.so model.tflite x.bin y.bin [calls]
//
// x.bin holds the values of the model's only input, row by row, in its own type and this machine's byte order (NumPy:
// x.tofile("x.bin")); y.bin gets those of all outputs, one after the other. It prints the time of a call. libLiteRt.so
// is that of the ai-edge-litert wheel, 2.1.6 or newer (ai_edge_litert/libLiteRt.so), or of Google's other packages.
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <algorithm>
#include <vector>

#include "litert_c_abi.h"

namespace keras_prune {
namespace {

[[noreturn]] void Die(const char* what, const char* why) {
  fprintf(stderr, "keras_prune_run: %s: %s\n", what, why);
  exit(1);
}

void* Open(const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) Die("cannot load a library", dlerror());
  return library;
}

void* Find(void* library, const char* name) {
  void* found = dlsym(library, name);
  if (found == nullptr) Die(name, "the library does not have it; ai-edge-litert 2.1.6 or newer has");
  return found;
}

struct LiteRt {
#define DECLARE(name, result, arguments) result(*name) arguments;
  KERAS_PRUNE_LITERT_FUNCTIONS(DECLARE)
#undef DECLARE
};

LiteRt Load(const char* path) {
  void* library = Open(path);
  LiteRt found;
#define LOOK_UP(name, result, arguments) \
  found.name = reinterpret_cast<result(*) arguments>(Find(library, "LiteRt" #name));
  KERAS_PRUNE_LITERT_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
  return found;
}

void Check(Status status, const char* what) {
  if (status != 0) Die(what, "LiteRT refused; it has logged the reason");
}

// What LiteRT asks our delegate's accelerator; its callbacks get nothing of the caller's, hence these two.
LiteRt litert;
void* plugin;

void Report(const char* message) { fprintf(stderr, "%s\n", message); }

Status Name(Handle, const char** name) { return *name = "keras_prune", 0; }
Status Hardware(Handle, int* hardware) { return *hardware = kHwCpu, 0; }
Status CompilesItself(Handle, bool* answer) { return *answer = false, 0; }

Status MakeDelegate(Handle, Handle, Handle, Handle, Handle* wrapper) {
  using Create = void* (*)(const char* const*, const char* const*, size_t, void (*)(const char*));
  void* made = reinterpret_cast<Create>(Find(plugin, "tflite_plugin_create_delegate"))(nullptr, nullptr, 0, Report);
  if (made == nullptr) return 1;
  return litert.WrapDelegate(
      made, reinterpret_cast<void (*)(void*)>(Find(plugin, "tflite_plugin_destroy_delegate")), wrapper);
}

// LiteRT's CompiledModel takes delegates as accelerators of its environment.
void Register(Handle environment) {
  Handle accelerator;
  Check(litert.CreateAccelerator(&accelerator), "LiteRtCreateAccelerator");
  Check(litert.SetAcceleratorGetName(accelerator, Name), "LiteRtSetAcceleratorGetName");
  Check(litert.SetAcceleratorGetHardwareSupport(accelerator, Hardware), "LiteRtSetAcceleratorGetHardwareSupport");
  Check(litert.SetIsAcceleratorDelegateResponsibleForJitCompilation(accelerator, CompilesItself),
        "LiteRtSetIsAcceleratorDelegateResponsibleForJitCompilation");
  Check(litert.SetDelegateFunction(accelerator, MakeDelegate), "LiteRtSetDelegateFunction");
  Check(litert.RegisterAccelerator(environment, accelerator, nullptr, nullptr), "LiteRtRegisterAccelerator");
}

size_t BytesOf(int32_t element) {
  switch (element) {
    case 3: case 6: case 9: return 1;  // uint8, bool, int8
    case 7: case 10: return 2;         // int16, float16
    case 1: case 2: return 4;          // float32, int32
    case 4: return 8;                  // int64
    default: Die("a tensor's type", "expected float32, float16, bool or an integer");
  }
}

int Rank(const Layout& layout) { return static_cast<int>(layout.rank_and_flags & 127); }

size_t BytesOf(const TensorType& type) {
  size_t bytes = BytesOf(type.element);
  for (int i = 0; i < Rank(type.layout); ++i) bytes *= static_cast<size_t>(type.layout.dimensions[i]);
  return bytes;
}

// Memory that becomes a tensor buffer.
struct Values {
  TensorType type;
  char* memory;
  size_t num_bytes;
};

Values Allocate(const TensorType& type) {
  const size_t bytes = BytesOf(type);
  const size_t padded = (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
  auto* memory = static_cast<char*>(aligned_alloc(kBufferAlignment, std::max(padded, kBufferAlignment)));
  if (memory == nullptr) Die("memory", "there is not enough");
  return {type, memory, bytes};
}

std::vector<char> Read(const char* path) {
  FILE* file = fopen(path, "rb");
  if (file == nullptr) Die(path, "cannot be read");
  std::vector<char> data, part(1 << 16);
  while (const size_t count = fread(part.data(), 1, part.size(), file)) {
    data.insert(data.end(), part.begin(), part.begin() + static_cast<std::ptrdiff_t>(count));
  }
  if (ferror(file)) Die(path, "cannot be read");
  fclose(file);
  return data;
}

void Write(const char* path, const std::vector<Values>& all) {
  FILE* file = fopen(path, "wb");
  if (file == nullptr) Die(path, "cannot be written");
  size_t written = 0, wanted = 0;
  for (const Values& values : all) {
    written += fwrite(values.memory, 1, values.num_bytes, file);
    wanted += values.num_bytes;
  }
  if (fclose(file) != 0 || written != wanted) Die(path, "cannot be written");
}

// The input with as many rows as the file has.
Values ReadInput(const char* path, TensorType type) {
  const std::vector<char> data = Read(path);
  if (Rank(type.layout) == 0) Die("the model's input", "expected a batch dimension, got none");
  type.layout.dimensions[0] = 1;
  const size_t row = BytesOf(type);
  if (data.empty() || row == 0 || data.size() % row != 0) Die(path, "expected whole rows of the model's input");
  type.layout.dimensions[0] = static_cast<int32_t>(data.size() / row);
  Values input = Allocate(type);
  memcpy(input.memory, data.data(), data.size());
  return input;
}

Handle Buffer(const Values& values) {
  Handle made;
  TensorType type = values.type;
  type.layout.rank_and_flags = static_cast<uint32_t>(Rank(type.layout));
  Check(litert.CreateTensorBufferFromHostMemory(&type, values.memory, values.num_bytes, nullptr, &made),
        "LiteRtCreateTensorBufferFromHostMemory");
  return made;
}

TensorType TypeOf(Handle tensor) {
  TensorType type;
  Check(litert.GetRankedTensorType(tensor, &type), "LiteRtGetRankedTensorType");
  return type;
}

TensorType OnlyInput(Handle subgraph) {
  size_t count;
  Handle tensor;
  Check(litert.GetNumSubgraphInputs(subgraph, &count), "LiteRtGetNumSubgraphInputs");
  if (count != 1) Die("the model", "expected one input");
  Check(litert.GetSubgraphInput(subgraph, 0, &tensor), "LiteRtGetSubgraphInput");
  return TypeOf(tensor);
}

// Memory for the outputs. LiteRT knows the sizes that the file leaves open (-1), but not always that of the batch: behind
// an operator whose output's shape is computed it is still that of the file.
std::vector<Values> Outputs(Handle subgraph, Handle compiled, int32_t rows) {
  size_t count;
  Check(litert.GetNumSubgraphOutputs(subgraph, &count), "LiteRtGetNumSubgraphOutputs");
  std::vector<Layout> layouts(count);
  Check(litert.GetCompiledModelOutputTensorLayouts(compiled, 0, count, layouts.data(), true),
        "LiteRtGetCompiledModelOutputTensorLayouts");
  std::vector<Values> outputs;
  for (size_t i = 0; i < count; ++i) {
    Handle tensor;
    Check(litert.GetSubgraphOutput(subgraph, i, &tensor), "LiteRtGetSubgraphOutput");
    TensorType type = TypeOf(tensor);
    for (int k = 0; k < Rank(type.layout); ++k) {
      int32_t* size = &type.layout.dimensions[k];
      if (*size < 0) *size = k == 0 ? rows : layouts[i].dimensions[k];
    }
    outputs.push_back(Allocate(type));
  }
  return outputs;
}

double Milliseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

// Runs and returns the median time of a call.
double Invoke(Handle compiled, Handle input, std::vector<Handle> outputs, int calls) {
  std::vector<double> times;
  for (int i = 0; i < calls; ++i) {
    const double start = Milliseconds();
    Check(litert.RunCompiledModel(compiled, 0, 1, &input, outputs.size(), outputs.data()), "LiteRtRunCompiledModel");
    times.push_back(Milliseconds() - start);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void Run(const char* model_path, const char* x_path, const char* y_path, int calls) {
  Handle environment, options, model, signature, subgraph, compiled;
  Check(litert.CreateEnvironment(0, nullptr, &environment), "LiteRtCreateEnvironment");
  Register(environment);
  Check(litert.CreateOptions(&options), "LiteRtCreateOptions");
  Check(litert.SetOptionsHardwareAccelerators(options, kHwCpu), "LiteRtSetOptionsHardwareAccelerators");
  Check(litert.CreateModelFromFile(environment, model_path, &model), model_path);
  Check(litert.GetModelSignature(model, 0, &signature), "LiteRtGetModelSignature");
  Check(litert.GetSignatureSubgraph(signature, &subgraph), "LiteRtGetSignatureSubgraph");
  const Values input = ReadInput(x_path, OnlyInput(subgraph));
  Check(litert.CreateCompiledModel(environment, model, options, &compiled), model_path);
  const Layout& layout = input.type.layout;
  Check(litert.CompiledModelResizeInputTensorNonStrict(compiled, 0, 0, layout.dimensions,
                                                       static_cast<size_t>(Rank(layout))),
        "LiteRtCompiledModelResizeInputTensorNonStrict");
  const std::vector<Values> outputs = Outputs(subgraph, compiled, layout.dimensions[0]);
  std::vector<Handle> buffers;
  for (const Values& values : outputs) buffers.push_back(Buffer(values));
  Handle input_buffer = Buffer(input);
  const double median = Invoke(compiled, input_buffer, buffers, calls);
  Write(y_path, outputs);
  printf("rows %d, %.4f ms a call (median of %d)\n", layout.dimensions[0], median, calls);
  buffers.push_back(input_buffer);
  for (Handle buffer : buffers) litert.DestroyTensorBuffer(buffer);
  for (const Values& values : outputs) free(values.memory);
  free(input.memory);
  litert.DestroyCompiledModel(compiled);
  litert.DestroyModel(model);
  litert.DestroyOptions(options);
  litert.DestroyEnvironment(environment);
}

}  // namespace
}  // namespace keras_prune

int main(int argc, char** argv) {
  const int calls = argc == 7 ? atoi(argv[6]) : 20;
  if (argc < 6 || argc > 7 || calls < 1) {
    fprintf(stderr, "usage: %s libLiteRt.so libkeras_prune_delegate.so model.tflite x.bin y.bin [calls]\n", argv[0]);
    return 2;
  }
  keras_prune::litert = keras_prune::Load(argv[1]);
  keras_prune::plugin = keras_prune::Open(argv[2]);
  keras_prune::Run(argv[3], argv[4], argv[5], calls);
  return 0;
}
