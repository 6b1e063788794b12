# ARM's 64-bit CPUs on another one: apt-get install g++-aarch64-linux-gnu qemu-user
#   cmake -S custom_ops -B build/aarch64 -DCMAKE_TOOLCHAIN_FILE=custom_ops/toolchains/aarch64-linux-gnu.cmake
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(triple aarch64-linux-gnu)
include(${CMAKE_CURRENT_LIST_DIR}/linux-gnu.cmake)
# For tests. "max" has every extension that qemu knows, the dot products among them.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -cpu max -L /usr/${triple})
