// Threads that sleep in the kernel (on a futex) between calls, and take the parts of a call one by one.
#include "workers.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstddef>
#include <cstdint>
#include <new>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#if defined(__has_feature)
#define KP_HAS_FEATURE(name) __has_feature(name)
#else
#define KP_HAS_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || KP_HAS_FEATURE(address_sanitizer) || \
    KP_HAS_FEATURE(thread_sanitizer)
#define KP_IS_SANITIZED 1  // sanitizers put their own functions in place of these
#else
#define KP_IS_SANITIZED 0
#endif

// glibc 2.34 moved these from libpthread to libc and gave them a new version; the old one is still there. With it, and
// weakly, the library loads on a glibc before that too, also in a process without libpthread: that computes alone.
#if defined(__GLIBC__) && !defined(__ANDROID__) && !KP_IS_SANITIZED
#pragma weak pthread_create
#pragma weak pthread_join
#if defined(__x86_64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.2.5");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.2.5");
#elif defined(__aarch64__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.17");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.17");
#elif defined(__arm__)
__asm__(".symver pthread_create, pthread_create@GLIBC_2.4");
__asm__(".symver pthread_join, pthread_join@GLIBC_2.4");
#endif
#endif

namespace keras_prune {
namespace {

constexpr size_t kCacheLine = 64;

// Pauses before a thread goes to sleep, together about as long as it takes to wake one. Longer pays off rarely, and would
// take CPU time from threads of others, XNNPACK's for example, which compute the operators between ours.
constexpr int kSpins = 500;

}  // namespace

struct Workers {
  // Set before the job is opened; read by those who took a part of it, and only then.
  void (*task)(void* context, int part);
  void* context;
  uint32_t num_parts;
  uint32_t float_control;

  int num_threads;                // wanted, with the caller's
  int num_started;                // without the caller's
  std::atomic<int> owner;         // the process that started the threads; 0: not started
  std::atomic<bool> busy;         // somebody computes, or starts the threads
  std::atomic<bool> stopping;

  // The job's number << 32 | parts that nobody took yet. One word, so that who comes late, when the next job is open
  // already or being prepared, takes nothing of it with what it knows of the job before.
  alignas(kCacheLine) std::atomic<uint64_t> open;
  alignas(kCacheLine) std::atomic<uint32_t> unfinished;  // parts; the caller sleeps on it
  std::atomic<bool> caller_sleeps;
  alignas(kCacheLine) std::atomic<uint32_t> job;  // its number; the threads sleep on it
  std::atomic<uint32_t> num_sleepers;
  pthread_t threads[1];  // the first of num_started
};

namespace {

void Pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");  // `yield` does nothing on most of these CPUs
#endif
}

// Returns at once when the word has another value; may also return for no reason.
void FutexWait(std::atomic<uint32_t>* word, uint32_t value) {
  static_assert(sizeof *word == sizeof value, "a futex is a word of 32 bits");
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void FutexWake(std::atomic<uint32_t>* word, int most) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, most, nullptr, nullptr, 0);
}

// How floats are rounded and whether denormals count as zero: TensorFlow's threads differ from new ones in that.
uint32_t FloatControl() {
#if defined(__x86_64__)
  return _mm_getcsr() & ~static_cast<uint32_t>(_MM_EXCEPT_MASK);
#elif defined(__aarch64__)
  uint64_t control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  return static_cast<uint32_t>(control);
#else
  return 0;
#endif
}

void SetFloatControl(uint32_t control) {
#if defined(__x86_64__)
  _mm_setcsr(control);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t{control}));
#else
  static_cast<void>(control);
#endif
}

// Takes parts of the open job until none is left.
void TakeParts(Workers* workers, bool is_caller) {
  uint64_t open = workers->open.load(std::memory_order_relaxed);
  while (static_cast<uint32_t>(open) != 0) {
    if (!workers->open.compare_exchange_weak(open, open - 1, std::memory_order_acquire, std::memory_order_relaxed)) {
      continue;
    }
    if (!is_caller) SetFloatControl(workers->float_control);  // each time: it may be another job's part
    workers->task(workers->context, static_cast<int>(workers->num_parts - static_cast<uint32_t>(open)));
    const bool is_last = workers->unfinished.fetch_sub(1) == 1;
    if (is_last && !is_caller && workers->caller_sleeps.load()) FutexWake(&workers->unfinished, 1);
    open = workers->open.load(std::memory_order_relaxed);
  }
}

// Returns the number of the job after `seen`.
uint32_t AwaitJob(Workers* workers, uint32_t seen) {
  for (int spin = 0; spin < kSpins; ++spin) {
    const uint32_t job = workers->job.load(std::memory_order_acquire);
    if (job != seen) return job;
    Pause();
  }
  // Both sides first tell and then look (in one order for all): the caller sees who sleeps, or that one sees the job.
  workers->num_sleepers.fetch_add(1);
  uint32_t job;
  while ((job = workers->job.load()) == seen) FutexWait(&workers->job, seen);
  workers->num_sleepers.fetch_sub(1);
  return job;
}

void* Work(void* argument) {
  auto* workers = static_cast<Workers*>(argument);
  for (uint32_t job = 0;;) {
    job = AwaitJob(workers, job);
    if (workers->stopping.load()) return nullptr;
    TakeParts(workers, false);
  }
}

void AwaitParts(Workers* workers) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (workers->unfinished.load(std::memory_order_acquire) == 0) return;
    Pause();
  }
  workers->caller_sleeps.store(true);
  uint32_t unfinished;
  while ((unfinished = workers->unfinished.load()) != 0) FutexWait(&workers->unfinished, unfinished);
}

// Signals go to the process's own threads: handlers of the host must not run on ours.
void Start(Workers* workers) {
  workers->owner.store(getpid());
#if defined(__GLIBC__) && !defined(__ANDROID__) && !KP_IS_SANITIZED
  if (pthread_create == nullptr || pthread_join == nullptr) return;
#endif
  sigset_t all, before;
  sigfillset(&all);
  // On Linux it is the calling thread's mask; pthread_sigmask is the same under a newer version.
  if (sigprocmask(SIG_SETMASK, &all, &before) != 0) return;
  while (workers->num_started < workers->num_threads - 1 &&
         pthread_create(workers->threads + workers->num_started, nullptr, Work, workers) == 0) {
    ++workers->num_started;
  }
  sigprocmask(SIG_SETMASK, &before, nullptr);
}

// Makes the workers the caller's, with the threads started; false: compute alone.
bool Enter(Workers* workers) {
  const int owner = workers->owner.load();
  if ((owner != 0 && owner != getpid()) || workers->busy.exchange(true)) return false;
  if (workers->owner.load() == 0) Start(workers);
  if (workers->num_started != 0) return true;
  workers->busy.store(false);
  return false;
}

void Open(Workers* workers, uint32_t num_parts, void (*task)(void*, int), void* context) {
  workers->task = task;
  workers->context = context;
  workers->num_parts = num_parts;
  workers->float_control = FloatControl();
  workers->caller_sleeps.store(false, std::memory_order_relaxed);
  workers->unfinished.store(num_parts, std::memory_order_relaxed);
  const uint32_t job = workers->job.load(std::memory_order_relaxed) + 1;
  workers->open.store(uint64_t{job} << 32 | num_parts, std::memory_order_release);
  workers->job.store(job);
  const int wanted = static_cast<int>(num_parts) - 1;
  if (workers->num_sleepers.load() != 0) FutexWake(&workers->job, wanted);
}

}  // namespace

Workers* MakeWorkers(int num_threads) {
  if (num_threads <= 1) return nullptr;
  void* memory;
  const size_t num_bytes = sizeof(Workers) + sizeof(pthread_t) * static_cast<size_t>(num_threads);
  if (posix_memalign(&memory, kCacheLine, num_bytes) != 0) return nullptr;
  auto* workers = new (memory) Workers();
  workers->num_threads = num_threads;
  return workers;
}

void FreeWorkers(Workers* workers) {
  if (workers == nullptr) return;
  if (workers->num_started != 0 && workers->owner.load() == getpid()) {
    workers->stopping.store(true);
    workers->job.fetch_add(1);
    FutexWake(&workers->job, INT_MAX);
    for (int i = 0; i < workers->num_started; ++i) pthread_join(workers->threads[i], nullptr);
  }
  workers->~Workers();
  free(workers);
}

int NumThreads(const Workers* workers) { return workers != nullptr ? workers->num_threads : 1; }

void RunParts(Workers* workers, int num_parts, void (*task)(void* context, int part), void* context) {
  if (workers == nullptr || num_parts < 2 || !Enter(workers)) {
    for (int part = 0; part < num_parts; ++part) task(context, part);
    return;
  }
  Open(workers, static_cast<uint32_t>(num_parts), task, context);
  TakeParts(workers, true);
  AwaitParts(workers);
  workers->busy.store(false, std::memory_order_release);
}

struct WorkersList {
  Workers* workers;
  WorkersList* next;
};

Workers* WorkersFor(WorkersList** list, int num_threads) {
  WorkersList* first = __atomic_load_n(list, __ATOMIC_ACQUIRE);
  for (WorkersList* entry = first; entry != nullptr; entry = entry->next) {
    if (NumThreads(entry->workers) == num_threads) return entry->workers;
  }
  Workers* workers = MakeWorkers(num_threads);
  auto* entry = workers != nullptr ? static_cast<WorkersList*>(malloc(sizeof(WorkersList))) : nullptr;
  if (entry == nullptr) {
    FreeWorkers(workers);
    return nullptr;
  }
  *entry = {workers, first};
  // Where two ask at once there may be two of a kind, which costs no more than their memory.
  while (!__atomic_compare_exchange_n(list, &entry->next, entry, true, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
  }
  return workers;
}

void FreeAllWorkers(WorkersList** list) {
  while (*list != nullptr) {
    WorkersList* entry = *list;
    *list = entry->next;
    FreeWorkers(entry->workers);
    free(entry);
  }
}

int NumCpus() {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return CPU_COUNT(&cpus);
  const long online = sysconf(_SC_NPROCESSORS_ONLN);  // more CPUs than a cpu_set_t has
  return online > 0 && online < INT_MAX ? static_cast<int>(online) : 1;
}

}  // namespace keras_prune
