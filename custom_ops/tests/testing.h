// The tests' harness: TEST registers a function, EXPECT reports and goes on, main runs all.
#ifndef KERAS_PRUNE_TESTS_TESTING_H_
#define KERAS_PRUNE_TESTS_TESTING_H_

#include <atomic>
#include <cstdio>
#include <vector>

namespace keras_prune_test {

struct TestCase {
  const char* name;
  void (*run)();
};

inline std::vector<TestCase>& Tests() {
  static std::vector<TestCase> tests;
  return tests;
}

inline std::atomic<int>& Failures() {  // checks may be in threads
  static std::atomic<int> failures{0};
  return failures;
}

inline std::atomic<long>& Checks() {
  static std::atomic<long> checks{0};
  return checks;
}

struct Registration {
  Registration(const char* name, void (*run)()) { Tests().push_back({name, run}); }
};

inline int RunAll() {
  for (const TestCase& test : Tests()) {
    const int before = Failures();
    test.run();
    std::printf("%-6s %s\n", Failures() == before ? "ok" : "FAILED", test.name);
  }
  std::printf("%zu tests, %ld checks, %d failures\n", Tests().size(), Checks().load(), Failures().load());
  return Failures() == 0 && Checks() > 0 ? 0 : 1;
}

}  // namespace keras_prune_test

#define TEST(name)                                                                  \
  static void name();                                                               \
  static const keras_prune_test::Registration registration_of_##name(#name, &name); \
  static void name()

// EXPECT(condition, printf-style context of the failure)
#define EXPECT(condition, ...)                                                \
  do {                                                                        \
    ++keras_prune_test::Checks();                                             \
    if (!(condition)) {                                                       \
      ++keras_prune_test::Failures();                                         \
      std::printf("%s:%d: expected %s: ", __FILE__, __LINE__, #condition);    \
      std::printf(__VA_ARGS__);                                               \
      std::printf("\n");                                                      \
    }                                                                         \
  } while (false)

#endif  // KERAS_PRUNE_TESTS_TESTING_H_
