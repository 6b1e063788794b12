// What the kernels make of packed weights on this CPU, as JSON: the kernel's name, the bytes of its compute layout,
// and how many times those of the packed entries (entries.h) that is. Usage: layout_report file-of-packed-bytes
// [batch] [float32|int8]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "../kernels/fully_connected.h"
#include "../kernels/isa.h"
#include "../tensor_format.h"
#include "entries.h"

namespace {

using keras_prune::PackedView;
using keras_prune::Status;

// Version 2 is decoded to entries of version 1 first, as in the delegate.
Status Entries(const std::vector<uint8_t>& bytes, std::vector<uint8_t>* scratch, PackedView* entries) {
  if (keras_prune::FormatVersion(bytes.data(), bytes.size()) != 2) {
    return keras_prune::ParsePacked(bytes.data(), bytes.size(), entries);
  }
  keras_prune::TensorView view;
  const Status status = keras_prune::ParseTensor(bytes.data(), bytes.size(), &view);
  if (status != Status::kOk) return status;
  scratch->resize(keras_prune::EntriesBytes(view) + 1);
  return keras_prune::UnpackEntries(view, scratch->data(), entries);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: layout_report file-of-packed-bytes [batch] [float32|int8]\n");
    return 2;
  }
  std::ifstream file(argv[1], std::ios::binary);
  const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  bool isa_ok;
  keras_prune::FcOptions options;
  options.isa = keras_prune::SelectIsa(&isa_ok);
  options.batch = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
  const bool is_int8 = argc > 3 && std::strcmp(argv[3], "int8") == 0;
  options.activations = is_int8 ? keras_prune::Activations::kInt8 : keras_prune::Activations::kFloat32;
  std::vector<uint8_t> scratch;
  PackedView entries;
  keras_prune::FcLayout* layout = nullptr;
  Status status = isa_ok ? Entries(bytes, &scratch, &entries) : Status::kOutOfMemory;
  if (status == Status::kOk) status = keras_prune::MakeFcLayout(entries, options, &layout);
  if (status != Status::kOk) {
    std::fprintf(stderr, "%s: %s\n", argv[1], isa_ok ? StatusMessage(status) : "KERAS_PRUNE_ISA is not supported here");
    return 1;
  }
  const size_t layout_bytes = keras_prune::FcLayoutBytes(layout);
  const auto entry_bytes = static_cast<size_t>(keras_prune_bench::EntryBytes(entries));
  const double ratio = entry_bytes != 0 ? static_cast<double>(layout_bytes) / static_cast<double>(entry_bytes) : 0.0;
  std::printf("{\"isa\": \"%s\", \"kernel\": \"%s\", \"kept\": %u, \"entries\": %u, \"packed_bytes\": %zu, "
              "\"entry_bytes\": %zu, \"layout_bytes\": %zu, \"layout_per_entry_byte\": %.3f}\n",
              keras_prune::IsaName(options.isa), keras_prune::FcKernelName(layout), entries.num_kept,
              entries.num_entries, bytes.size(), entry_bytes, layout_bytes, ratio);
  keras_prune::FreeFcLayout(layout);
  return 0;
}
