# ARM's 32-bit CPUs (ARMv7 with VFP) on another one: apt-get install g++-arm-linux-gnueabihf qemu-user
#   cmake -S custom_ops -B build/armv7 -DCMAKE_TOOLCHAIN_FILE=custom_ops/toolchains/arm-linux-gnueabihf.cmake
set(CMAKE_SYSTEM_PROCESSOR armv7l)
set(triple arm-linux-gnueabihf)
include(${CMAKE_CURRENT_LIST_DIR}/linux-gnu.cmake)
# For tests. A Cortex-A7, of the first Raspberry Pi 2.
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-arm -cpu cortex-a7 -L /usr/${triple})
