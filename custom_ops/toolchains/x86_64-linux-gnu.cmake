# For x86-64 on another processor: apt-get install g++-x86-64-linux-gnu
#   cmake -S custom_ops -B build/x86_64 -DCMAKE_TOOLCHAIN_FILE=custom_ops/toolchains/x86_64-linux-gnu.cmake
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(triple x86_64-linux-gnu)
include(${CMAKE_CURRENT_LIST_DIR}/linux-gnu.cmake)
