# `make demo` and `make test` need Python 3.11+, a C++17 compiler and make; they set up everything else in .venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
COMMA := ,

VENV ?= .venv
OUT ?= out
DATA ?=
BIN := $(VENV)/bin
SANITIZE := -DKERAS_PRUNE_SANITIZE
AARCH64 = -DCMAKE_TOOLCHAIN_FILE=$(abspath custom_ops/toolchains/aarch64-linux-gnu.cmake)
# $(call CPP_TEST,name,target,ctest's options,cmake's options): configures, builds and runs in build/<name>
CPP_TEST = mkdir -p build/$(1) && { $(BIN)/cmake -S custom_ops -B build/$(1) -G Ninja \
		-DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) -DCMAKE_BUILD_TYPE=RelWithDebInfo $(4) >build/$(1)/configure.log \
		|| { cat build/$(1)/configure.log; exit 1; }; } && \
	$(BIN)/cmake --build build/$(1) --target $(2) && \
	$(BIN)/ctest --test-dir build/$(1) --output-on-failure --parallel 2 $(3)
NEED_EMULATORS = { command -v qemu-aarch64 && command -v aarch64-linux-gnu-g++ && \
		$${CXX:-c++} -fsyntax-only -x c++ - <<<'\#include <simde/x86/avx512.h>'; } >/dev/null 2>&1 || \
	{ echo "make $@ needs an x86-64 Linux and: apt-get install libsimde-dev g++-aarch64-linux-gnu qemu-user"; exit 1; }
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell command -v $(p) >/dev/null 2>&1 && \
	$(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $(p))))
NATIVE_SOURCES := $(shell find custom_ops -name '*.cc' -o -name '*.h')
QUIET_TF := TF_CPP_MIN_LOG_LEVEL=2

FUZZ_BUILD := build/fuzz
FUZZ_TARGETS := sparse_format tensor_format delegate tf_op
SECONDS ?= 60
MINUTES ?= 10
NETWORK ?= lenet_300_100

.PHONY: help setup demo test test-python test-cpp test-isas test-aarch64 test-matrix test-slow test-serving load-test fuzz lint format bench performance performance-page results clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: setup.cfg setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "keras_prune needs Python 3.11 to 3.13 on the PATH (or make PYTHON=/path/to/python)"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "keras_prune needs a C++17 compiler: install g++ or clang, or set CXX"; exit 1; }
	@echo "Setting up $(VENV) (once; a few minutes) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip 'setuptools>=77' wheel
	$(BIN)/python -m pip install --quiet --editable '.[test,lint,plot]'
	@touch $@

$(VENV)/.native: $(VENV)/.installed $(NATIVE_SOURCES)
	$(BIN)/python setup.py --quiet build_ext --inplace
	@touch $@

setup: $(VENV)/.native  ## Make .venv, install, build the native libraries (the others do it by themselves).

demo: setup  ## Train, prune, export and compare on scikit-learn's digits.
	@$(QUIET_TF) $(BIN)/python examples/digits_demo.py --out $(OUT)/demo

test: test-cpp test-python  ## C++ tests under the address and undefined-behaviour sanitizers, then the Python tests.

test-python: setup
	$(QUIET_TF) $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-cpp: setup
	@$(call CPP_TEST,cpp,all,,$(SANITIZE)=address$(COMMA)undefined)

test-isas: setup  ## C++ tests for other CPUs: AVX-512 and ARM's NEON emulated; what starts threads, under TSan.
	@$(NEED_EMULATORS)
	@$(call CPP_TEST,avx512,isa_tests,--label-exclude portable,-DKERAS_PRUNE_SIMDE=ON $(SANITIZE)=address$(COMMA)undefined)
	@$(call CPP_TEST,aarch64,all,,$(SANITIZE)=undefined $(AARCH64))
	@$(call CPP_TEST,threads,threads_tests,--label-regex threads,$(SANITIZE)=thread)

test-aarch64: setup  ## Packed files in the runtimes' wheels for 64-bit ARM Linux, emulated (downloads 60 MB once, into build/).
	$(QUIET_TF) $(BIN)/python -m pytest -m slow tests/test_aarch64.py

fuzz: setup  ## libFuzzer on the decoders, the delegate and the TensorFlow op; then the Python readers; SECONDS=60 is the time of the C++ ones.
	@command -v clang++ >/dev/null || { echo "make fuzz needs clang with libFuzzer: apt-get install clang libclang-rt-dev"; exit 1; }
	@mkdir -p $(FUZZ_BUILD)
	$(BIN)/cmake -S custom_ops -B $(FUZZ_BUILD) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
		-DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_COMPILER=clang++ -DKERAS_PRUNE_FUZZ=ON \
		-DKERAS_PRUNE_SANITIZE=fuzzer-no-link,address,undefined >$(FUZZ_BUILD)/configure.log \
		|| { cat $(FUZZ_BUILD)/configure.log; exit 1; }
	$(BIN)/cmake --build $(FUZZ_BUILD) --target $(FUZZ_TARGETS:%=%_fuzz)
	$(BIN)/python custom_ops/fuzz/make_seeds.py tests/golden $(FUZZ_BUILD)/seeds
	@for target in $(FUZZ_TARGETS); do \
		mkdir -p $(FUZZ_BUILD)/corpus/$$target; \
		echo "$$target: $$(( $(SECONDS) / $(words $(FUZZ_TARGETS)) )) seconds"; \
		$(FUZZ_BUILD)/$${target}_fuzz $(FUZZ_BUILD)/corpus/$$target $(FUZZ_BUILD)/seeds/$$target -max_len=8192 \
			-max_total_time=$$(( $(SECONDS) / $(words $(FUZZ_TARGETS)) )) -timeout=10 -rss_limit_mb=2048 \
			-artifact_prefix=$(FUZZ_BUILD)/$$target- -print_final_stats=1 2>$(FUZZ_BUILD)/$$target.log \
			|| { tail -n 60 $(FUZZ_BUILD)/$$target.log; exit 1; }; \
		grep -E 'number_of_executed_units|new_units_added' $(FUZZ_BUILD)/$$target.log; \
	done
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --editable '.[fuzz]'
	$(QUIET_TF) $(BIN)/python tests/fuzz_tflite_readers.py $(FUZZ_BUILD)/corpus/tflite_readers -max_len=65536 -timeout=60 \
		-rss_limit_mb=2048 -max_total_time=$$(( $(SECONDS) / 3 )) -artifact_prefix=$(FUZZ_BUILD)/tflite_readers-

test-matrix: setup  ## Packed files in each supported runtime, in clean environments (RUNTIMES=..., RESUME=1, KEEP=1); docs/runtimes.md.
	@mkdir -p build/matrix
	$(QUIET_TF) $(BIN)/python tests/matrix.py $(if $(RUNTIMES),--runtimes $(foreach name,$(RUNTIMES),'$(name)')) \
		$(if $(RUNTIMES),,--table docs/runtimes.md) $(if $(RESUME),--resume) $(if $(KEEP),--keep)

test-slow: setup  ## What takes long: MNIST over three seeds, the lowest supported versions, NEON under the address sanitizer.
	$(QUIET_TF) $(BIN)/python -m pytest -m slow
	@$(MAKE) load-test
	@$(NEED_EMULATORS)
	@$(call CPP_TEST,aarch64-asan,isa_tests,--label-exclude portable,$(SANITIZE)=address$(COMMA)undefined $(AARCH64))

test-serving: setup  ## SavedModels in a C++ host on TensorFlow's libraries: threads, reloads, gRPC; then the load test.
	$(QUIET_TF) $(BIN)/python -m pytest -m slow tests/test_serving_host.py tests/test_serving_grpc.py
	@$(MAKE) load-test

load-test: setup  ## The C++ host under load for MINUTES=10, in each way to serve: latency, memory, errors; NETWORK=alexnet, vgg16.
	@mkdir -p $(OUT)/bench
	$(QUIET_TF) $(BIN)/python benchmarks/serving_load.py --minutes $(MINUTES) --network $(NETWORK) --out $(OUT)/bench \
		--json $(OUT)/bench/serving_load_$(NETWORK).json

lint: setup  ## ruff (style, imports, docstrings), its formatter, and mypy.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## Format the Python code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build/bench/layout_report build/bench/tf_op_bench: $(VENV)/.installed $(NATIVE_SOURCES)
	@mkdir -p $(@D)
	@$(BIN)/cmake -S custom_ops -B $(@D) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
		-DCMAKE_BUILD_TYPE=Release >$(@D)/configure.log || { cat $(@D)/configure.log; exit 1; }
	$(BIN)/cmake --build $(@D) --target $(@F)
	@touch $@

performance: setup build/bench/layout_report build/bench/tf_op_bench  ## The part of bench that docs/performance.md shows; then make performance-page.
	@mkdir -p $(OUT)/bench
	$(QUIET_TF) $(BIN)/python benchmarks/kernels.py --json $(OUT)/bench/kernels.json
	$(QUIET_TF) $(BIN)/python benchmarks/scaling.py --json $(OUT)/bench/scaling.json --figures $(OUT)/bench
	$(QUIET_TF) $(BIN)/python benchmarks/thread_scaling.py --json $(OUT)/bench/thread_scaling.json
	$(QUIET_TF) $(BIN)/python benchmarks/memory.py --json $(OUT)/bench/memory.json
	$(QUIET_TF) $(BIN)/python benchmarks/op_overhead.py --json $(OUT)/bench/op_overhead.json

performance-page: setup  ## Put the figures of make performance into docs/performance.md and docs/figures.
	$(BIN)/python benchmarks/performance_page.py --results $(OUT)/bench
	$(BIN)/python benchmarks/scaling.py --draw --json $(OUT)/bench/scaling.json --figures docs/figures

bench: performance  ## Speed and memory as ratios, each measured in turn in one run; JSON in $(OUT)/bench.
	$(QUIET_TF) $(BIN)/python benchmarks/convolutions.py --json $(OUT)/bench/convolutions.json
	$(QUIET_TF) $(BIN)/python benchmarks/kernel_choices.py --json $(OUT)/bench/kernel_choices.json
	$(QUIET_TF) $(BIN)/python benchmarks/kernel_choices.py --values 256 --json $(OUT)/bench/kernel_choices_256.json
	$(QUIET_TF) $(BIN)/python benchmarks/training.py --out $(OUT)/bench --json $(OUT)/bench/training.json
	$(QUIET_TF) $(BIN)/python benchmarks/scoring.py --out $(OUT)/bench --json $(OUT)/bench/scoring.json
	$(QUIET_TF) $(BIN)/python benchmarks/freezing.py --out $(OUT)/bench --json $(OUT)/bench/freezing.json
	$(QUIET_TF) $(BIN)/python benchmarks/size_tables.py --out $(OUT)/bench --json $(OUT)/bench/size_tables.json

results: setup  ## README's table: LeNet-300-100 on MNIST over three seeds (DATA=path of mnist.npz, else downloaded).
	@$(QUIET_TF) $(BIN)/python benchmarks/mnist_results.py --out $(OUT)/results $(if $(DATA),--data $(DATA))

clean:  ## Remove what was built, but not .venv.
	rm -rf build dist out ./*.egg-info keras_prune/_native $(VENV)/.native
