// Memory for one call's activations in the form that a kernel wants, kept for the next call: in TensorFlow's own
// temporary tensors each call would be handed new pages, which costs more than filling them.
#ifndef KERAS_PRUNE_TF_WORKSPACE_H_
#define KERAS_PRUNE_TF_WORKSPACE_H_

#include <cstddef>

namespace keras_prune {

// Owns aligned memory while a call computes; `data` is null where num_bytes is 0, and where there is no memory. The
// process keeps as many spare pieces as calls computed at the same time, at most kMostSpares, each as large as any
// layer needed.
class Workspace {
 public:
  explicit Workspace(size_t num_bytes);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* data() const { return data_; }

 private:
  void* data_;
};

constexpr int kMostSpares = 8;

// Frees what no call uses.
void ReleaseSpareWorkspaces();

}  // namespace keras_prune

#endif  // KERAS_PRUNE_TF_WORKSPACE_H_
