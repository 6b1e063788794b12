// A small host of SavedModels on TensorFlow's C++ libraries, for tests and load tests of what TensorFlow Serving does
// with them: load, answer many threads, change to another version while it answers.
//   serving_host FOLDER [--op_library=PATH] [--num_threads=N] [--num_workers=N]     answers requests on a pipe
//   serving_host FOLDER --load_test=REQUEST [--responses=PREFIX] ...                sends REQUEST's bytes again and again
// FOLDER holds versions, as TensorFlow Serving has them: FOLDER/1, FOLDER/2, … A line of JSON says how long the newest
// took to load, and the memory before and after; then see load_test.h, pipe_server.h.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "load_test.h"
#include "pipe_server.h"

namespace {

struct Arguments {
  std::string folder, op_library, load_test, responses = "responses";
  int num_threads = 1, num_workers = 8;
};

int Usage() {
  std::fprintf(stderr,
               "serving_host: expected FOLDER [--op_library=PATH] [--num_threads=N] [--num_workers=N] "
               "[--load_test=REQUEST] [--responses=PREFIX]\n");
  return 2;
}

bool Take(const std::string& argument, const std::string& name, std::string* value) {
  if (argument.rfind("--" + name + "=", 0) != 0) return false;
  *value = argument.substr(name.size() + 3);
  return true;
}

bool Take(const std::string& argument, const std::string& name, int* value) {
  std::string text;
  if (!Take(argument, name, &text)) return false;
  *value = std::atoi(text.c_str());
  return *value > 0;
}

bool Parse(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (Take(argument, "op_library", &arguments->op_library) || Take(argument, "load_test", &arguments->load_test) ||
        Take(argument, "responses", &arguments->responses) || Take(argument, "num_threads", &arguments->num_threads) ||
        Take(argument, "num_workers", &arguments->num_workers)) {
      continue;
    }
    if (argument.empty() || argument[0] == '-' || !arguments->folder.empty()) return false;
    arguments->folder = argument;
  }
  return !arguments->folder.empty();
}

int Fail(const std::string& message) {
  std::fprintf(stderr, "%s\n", message.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace keras_prune_serving;  // NOLINT(build/namespaces): a program on that namespace
  Arguments arguments;
  if (!Parse(argc, argv, &arguments)) return Usage();
  setenv("TF_NUM_INTRAOP_THREADS", std::to_string(arguments.num_threads).c_str(), 1);  // the op's own threads heed it
  if (!arguments.op_library.empty()) {
    const std::string error = LoadOpLibrary(arguments.op_library);
    if (!error.empty()) return Fail(error);
  }
  Versions versions(arguments.folder, arguments.num_threads);
  const auto available = versions.Available();
  if (available.empty()) return Fail("serving_host: expected versions (1, 2, ...) in " + arguments.folder);
  const long before = ResidentBytes();
  const auto start = std::chrono::steady_clock::now();
  const std::string error = versions.Serve(available.back());
  if (!error.empty()) return Fail(error);
  const double load_ms = 1e3 * std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::printf("{\"load_ms\": %.1f, \"bytes_before\": %ld, \"bytes_loaded\": %ld, \"version\": %lld}\n", load_ms, before,
              ResidentBytes(), static_cast<long long>(available.back()));
  std::fflush(stdout);
  if (arguments.load_test.empty()) return RunPipeServer(arguments.num_workers, &versions);
  std::ifstream file(arguments.load_test, std::ios::binary);
  std::ostringstream request;
  request << file.rdbuf();
  if (!file) return Fail("serving_host: cannot read " + arguments.load_test);
  return RunLoadTests(request.str(), arguments.responses, &versions);
}
