// The threads that share a call's work: each part is computed once, whoever computes it.
#include "../kernels/workers.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "testing.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace keras_prune_test {
namespace {

using namespace keras_prune;  // NOLINT(build/namespaces): a test of that namespace

// How often each part was computed, and by which threads.
struct Counts {
  std::vector<std::atomic<int>> of_part;
  std::vector<pthread_t> thread;
  explicit Counts(int num_parts) : of_part(static_cast<size_t>(num_parts)), thread(static_cast<size_t>(num_parts)) {}

  static void Add(void* context, int part) {
    auto* counts = static_cast<Counts*>(context);
    counts->of_part[static_cast<size_t>(part)].fetch_add(1, std::memory_order_relaxed);
    counts->thread[static_cast<size_t>(part)] = pthread_self();
  }

  bool All(int wanted) const {
    for (const auto& count : of_part) {
      if (count.load(std::memory_order_relaxed) != wanted) return false;
    }
    return true;
  }

  bool AllByTheCaller() const {
    for (pthread_t other : thread) {
      if (!pthread_equal(other, pthread_self())) return false;
    }
    return true;
  }
};

// The states of this process's threads, as "RSS".
std::string ThreadStates() {
  std::string states;
  DIR* tasks = opendir("/proc/self/task");
  for (dirent* entry; (entry = readdir(tasks)) != nullptr;) {
    if (entry->d_name[0] == '.') continue;
    const std::string path = std::string("/proc/self/task/") + entry->d_name + "/stat";
    std::FILE* file = std::fopen(path.c_str(), "r");
    char name[64], state;
    if (file == nullptr) continue;
    if (std::fscanf(file, "%*d %63s %c", name, &state) == 2) states += state;
    std::fclose(file);
  }
  closedir(tasks);
  return states;
}

TEST(OneThreadNeedsNoWorkers) {
  for (int num_threads : {-1, 0, 1}) {
    EXPECT(MakeWorkers(num_threads) == nullptr, "%d threads", num_threads);
  }
  Counts counts(3);
  RunParts(nullptr, 3, Counts::Add, &counts);
  EXPECT(NumThreads(nullptr) == 1 && counts.All(1) && counts.AllByTheCaller(), "without workers");
  FreeWorkers(nullptr);
}

TEST(EachPartIsComputedOnce) {
  for (int num_threads : {2, 3, 5}) {
    Workers* workers = MakeWorkers(num_threads);
    EXPECT(NumThreads(workers) == num_threads, "%d", NumThreads(workers));
    for (int num_parts : {0, 1, 2, 3, 4, 7, 64}) {
      Counts counts(num_parts);
      for (int call = 0; call < 200; ++call) RunParts(workers, num_parts, Counts::Add, &counts);
      EXPECT(counts.All(200), "%d threads, %d parts", num_threads, num_parts);
    }
    FreeWorkers(workers);
  }
}

TEST(ThreadsAreStartedWhenTheyAreNeeded) {
  const size_t before = ThreadStates().size();
  Workers* workers = MakeWorkers(3);
  Counts one(1), many(8);
  RunParts(workers, 1, Counts::Add, &one);
  EXPECT(ThreadStates().size() == before, "%zu threads more", ThreadStates().size() - before);
  for (int call = 0; call < 3; ++call) RunParts(workers, 8, Counts::Add, &many);
  EXPECT(ThreadStates().size() == before + 2, "%zu threads more", ThreadStates().size() - before);
  FreeWorkers(workers);
}

// Waits until all parts of the call were begun.
struct Meeting {
  std::atomic<int> arrived{0};
  int wanted;
  static void Meet(void* context, int) {
    auto* meeting = static_cast<Meeting*>(context);
    meeting->arrived.fetch_add(1);
    while (meeting->arrived.load() < meeting->wanted) sched_yield();
  }
};

TEST(PartsAreComputedAtTheSameTime) {
  for (int num_threads : {2, 4}) {
    Workers* workers = MakeWorkers(num_threads);
    for (int call = 0; call < 20; ++call) {
      Meeting meeting;
      meeting.wanted = num_threads;
      RunParts(workers, num_threads, Meeting::Meet, &meeting);
    }
    EXPECT(true, "%d threads met", num_threads);
    FreeWorkers(workers);
  }
}

// The caller is running, as it looks; a thread that never slept would keep this test from ending.
TEST(ThreadsSleepBetweenCalls) {
  Workers* workers = MakeWorkers(3);
  Meeting meeting;
  meeting.wanted = 3;
  RunParts(workers, 3, Meeting::Meet, &meeting);
  const auto num_awake = [] {
    int awake = 0;
    for (char state : ThreadStates()) awake += state != 'S';
    return awake;
  };
  while (num_awake() > 1) sched_yield();
  Counts counts(9);
  RunParts(workers, 9, Counts::Add, &counts);
  EXPECT(counts.All(1), "after they slept");
  FreeWorkers(workers);
}

struct Inner {
  Workers* workers;
  Counts counts{4};
  static void Run(void* context, int part) {
    auto* inner = static_cast<Inner*>(context);
    if (part == 0) RunParts(inner->workers, 4, Counts::Add, &inner->counts);
    if (part == 0) EXPECT(inner->counts.AllByTheCaller(), "another thread took parts");
  }
};

TEST(WhoFindsTheWorkersBusyComputesAlone) {
  Inner inner{MakeWorkers(3)};
  for (int call = 0; call < 50; ++call) RunParts(inner.workers, 2, Inner::Run, &inner);
  EXPECT(inner.counts.All(50), "parts of the inner calls");
  FreeWorkers(inner.workers);
}

struct Caller {
  Workers* workers;
  pthread_t thread;
  int failures;
  static void* Run(void* argument) {
    auto* caller = static_cast<Caller*>(argument);
    for (int call = 0; call < 300; ++call) {
      Counts counts(1 + call % 9);
      RunParts(caller->workers, 1 + call % 9, Counts::Add, &counts);
      caller->failures += !counts.All(1);
    }
    return nullptr;
  }
};

TEST(ManyCallers) {
  Workers* workers = MakeWorkers(3);
  std::vector<Caller> callers(4, {workers, {}, 0});
  for (Caller& caller : callers) pthread_create(&caller.thread, nullptr, Caller::Run, &caller);
  for (Caller& caller : callers) pthread_join(caller.thread, nullptr);
  for (const Caller& caller : callers) EXPECT(caller.failures == 0, "%d calls", caller.failures);
  FreeWorkers(workers);
}

// A forked process has the memory of the threads, but not the threads.
TEST(AForkedProcessComputesAlone) {
  Workers* workers = MakeWorkers(3);
  Counts before(5);
  RunParts(workers, 5, Counts::Add, &before);
  const pid_t child = fork();
  if (child == 0) {
    Counts counts(5);
    RunParts(workers, 5, Counts::Add, &counts);
    FreeWorkers(workers);
    _exit(counts.All(1) && counts.AllByTheCaller() ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT(status == 0, "the child ended with %d", status);
  Counts counts(5);
  RunParts(workers, 5, Counts::Add, &counts);
  EXPECT(counts.All(1), "the parent, afterwards");
  FreeWorkers(workers);
}

#if defined(__x86_64__)
struct Halves {
  Meeting meeting;
  volatile float smallest = 1.17549435e-38f;  // that is no denormal
  float half[3];
  static void Compute(void* context, int part) {
    auto* halves = static_cast<Halves*>(context);
    Meeting::Meet(&halves->meeting, part);  // each on another thread
    halves->half[part] = halves->smallest * 0.5f;
  }
};

TEST(PartsTreatDenormalsAsTheCallerDoes) {
  Workers* workers = MakeWorkers(3);
  for (bool flush : {false, true, false}) {
    Halves halves;
    halves.meeting.wanted = 3;
    _MM_SET_FLUSH_ZERO_MODE(flush ? _MM_FLUSH_ZERO_ON : _MM_FLUSH_ZERO_OFF);
    RunParts(workers, 3, Halves::Compute, &halves);
    _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_OFF);
    for (float half : halves.half) EXPECT((half == 0.0f) == flush, "%g where flush is %d", half, flush);
  }
  FreeWorkers(workers);
}
#endif

TEST(ThereAreCpus) { EXPECT(NumCpus() >= 1 && NumCpus() <= sysconf(_SC_NPROCESSORS_CONF), "%d CPUs", NumCpus()); }

}  // namespace
}  // namespace keras_prune_test

int main() { return keras_prune_test::RunAll(); }
