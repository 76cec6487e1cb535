# wanscope: `make help` lists the targets.

CC      ?= cc
CXX     ?= c++
BUILD   ?= build/cpu
BIN     ?= bin
OPT     ?= -O3 -g
WERROR  ?= 0
SAN     ?=

# -ffp-contract=off: every rounding is written down (docs/conventions.md)
CFLAGS_ALL   = -std=c11 -D_GNU_SOURCE -Wall -Wextra -Wno-format-truncation -ffp-contract=off -fno-math-errno -pthread -I. $(OPT) $(SAN) $(if $(filter 1,$(WERROR)),-Werror) $(FEATURES) $(CFLAGS)
CXXFLAGS_ALL = -std=c++17 -D_GNU_SOURCE -Wall -Wextra -pthread -I. $(OPT) $(SAN) $(FEATURES) $(CXXFLAGS)

# ---- what this machine has ----
have = $(shell pkg-config --exists $(1) 2>/dev/null && echo 1)
FEATURES :=
LIBS     :=
FOUND    :=
MISSING  :=

define use   # name, macro, pkg-config modules, what is left out without it
ifeq ($$(call have,$(3)),1)
FEATURES += -DHAVE_$(2) $$(shell pkg-config --cflags $(3))
LIBS     += $$(shell pkg-config --libs $(3))
FOUND    += $(1)
HAVE_$(2) := 1
else
MISSING  += "$(1): $(4)"
endif
endef

BLAS_LIBS ?= $(shell pkg-config --libs openblas 2>/dev/null || echo -lopenblas)
BLAS_CFLAGS ?= $(shell pkg-config --cflags openblas 2>/dev/null)
FEATURES += $(BLAS_CFLAGS)
$(eval $(call use,HDF5,HDF5,hdf5,no traces and no analysis))
$(eval $(call use,zlib,ZLIB,zlib,traces are compressed by one thread))
$(eval $(call use,libyaml,YAML,yaml-0.1,no YAML files: no wanscope run and no plan))
$(eval $(call use,FFmpeg,FFMPEG,libavcodec libavformat libswscale libavutil,no MP4))
$(eval $(call use,sentencepiece,SENTENCEPIECE,sentencepiece,spiece.model is read by our own code, with the same ids))
$(eval $(call use,cairo,CAIRO,cairo,no plots))
$(eval $(call use,LAPACKE,LAPACKE,lapacke,no analysis))
ifneq ($(wildcard /usr/include/cmocka.h),)
HAVE_CMOCKA := 1
endif

# CUDA=0 leaves the GPU engine out. Hopper is built with its own instructions, older chips with a plain path.
CUDA ?= 1
NVCC ?= $(shell command -v nvcc 2>/dev/null || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
CUDA_ARCH ?= -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_89,code=sm_89 -gencode=arch=compute_90a,code=sm_90a
ifneq ($(and $(filter 1,$(CUDA)),$(NVCC)),)
CUDA_HOME := $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
HAVE_CUDA := 1
FEATURES += -DHAVE_CUDA
LIBS += -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt
FOUND += CUDA
else
NO_CUDA := "no GPU engine: nvcc was not found, or CUDA=0"
endif

GIT_BUILD := $(shell git describe --always --dirty --tags 2>/dev/null || echo unknown)

# ---- sources ----
CORE_C   := $(filter-out core/cuda/%,$(sort $(wildcard core/*.c core/*/*.c)))
CORE_CC  := $(if $(HAVE_SENTENCEPIECE),$(sort $(wildcard core/*/*.cc)))
CORE_CU  := $(if $(HAVE_CUDA),$(sort $(wildcard core/cuda/*.cu)))
EXP_C    := $(filter-out experiments/main.c,$(sort $(wildcard experiments/*.c)))
ANA_C    := $(sort $(wildcard analysis/lib/*.c))
UNIT_C   := $(sort $(wildcard tests/unit/test_*.c))
FUZZ_C   := $(sort $(wildcard tests/fuzz/fuzz_*.c))

obj = $(patsubst %,$(BUILD)/%.o,$(basename $(1)))
CORE_O := $(call obj,$(CORE_C) $(CORE_CC) $(CORE_CU))
EXP_O  := $(call obj,$(EXP_C))
ANA_O  := $(call obj,$(ANA_C))

PROGRAMS := $(BIN)/golden-check $(BIN)/wanscope
ifeq ($(HAVE_HDF5)$(HAVE_LAPACKE)$(HAVE_CAIRO),111)
PROGRAMS += $(BIN)/latent-analyze $(BIN)/attention-export
endif
UNIT_BIN := $(if $(HAVE_CMOCKA),$(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT_C)))
FUZZ_BIN := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(FUZZ_C))

.PHONY: FORCE all help setup demo test test-fast test-cuda bench-opponent goldens asan fuzz clean tools unit
.SECONDARY:
.DEFAULT_GOAL := all

all: tools
	@echo "built $(notdir $(PROGRAMS)) in $(BIN)/ with $(FOUND)"
	@for m in $(MISSING); do echo "not found: $$m   (make setup installs it)"; done
	@for m in $(NO_CUDA); do echo "$$m"; done
	@echo "next: make demo   or   $(BIN)/wanscope --help"

tools: $(PROGRAMS)

help:
	@echo "make           build what this machine can into bin/ and say what was left out"
	@echo "make setup     install the libraries (apt, Debian 12 or newer; asks for sudo only if it must)"
	@echo "make demo      set up, build, run a template sweep with the shipped checkpoint, analyse it"
	@echo "make test      set up, build, run all tests"
	@echo "make goldens DIR=folder    compare with a folder of golden outputs (default: ../shared/goldens/*)"
	@echo "make test-cuda   on a GPU: unit tests, goldens, compute-sanitizer, repeatability"
	@echo "make bench-opponent [BENCH='forward --size 720p']   times on a GPU beside those of PyTorch"
	@echo "make asan      the tests under AddressSanitizer and UndefinedBehaviorSanitizer"
	@echo "make fuzz [SECONDS=600]    fuzz the readers of checkpoints, templates and configs"
	@echo "make clean     remove what was built"

# ---- setup ----
PACKAGES := gcc g++ make pkg-config git libopenblas-dev liblapacke-dev libhdf5-dev zlib1g-dev libyaml-dev libavcodec-dev \
            libavformat-dev libswscale-dev libavutil-dev libsentencepiece-dev libcairo2-dev libcmocka-dev ffmpeg

setup:
	@tests/setup.sh $(PACKAGES)

# ---- compile (V=1 shows the commands) ----
Q = $(if $(V),,@)
say_ = $(if $(V),true,echo)
say = @$(say_)
# Everything is compiled again when `make setup` brought a library. Written while make reads this: as the target of a rule it
# would be taken for an intermediate file, whose age .SECONDARY lets nobody ask for.
ifneq ($(filter-out help clean setup,$(or $(MAKECMDGOALS),all)),)
$(shell mkdir -p $(BUILD); echo '$(FEATURES) $(LIBS)' | cmp -s - $(BUILD)/features || echo '$(FEATURES) $(LIBS)' > $(BUILD)/features)
endif

$(BUILD)/%.o: %.c $(BUILD)/features
	@mkdir -p $(dir $@)
	$(say) "  CC    $<"
	$(Q)$(CC) $(CFLAGS_ALL) -MMD -MP -c $< -o $@

$(BUILD)/%.o: %.cc $(BUILD)/features
	@mkdir -p $(dir $@)
	$(say) "  CXX   $<"
	$(Q)$(CXX) $(CXXFLAGS_ALL) -MMD -MP -c $< -o $@

$(BUILD)/core/cuda/%.o: core/cuda/%.cu
	@mkdir -p $(dir $@)
	$(say) "  NVCC  $<"
	$(Q)$(NVCC) -std=c++17 -O3 -g -lineinfo -I. $(CUDA_ARCH) -DHAVE_CUDA -MMD -MP -c $< -o $@

# the build's name changes with every commit: only one small file knows it
$(BUILD)/experiments/build_id.o: experiments/build_id.c $(BUILD)/build_id
	@mkdir -p $(dir $@)
	$(Q)$(CC) $(CFLAGS_ALL) -DWANSCOPE_BUILD='"$(GIT_BUILD)"' -MMD -MP -c $< -o $@
$(BUILD)/build_id: FORCE
	@mkdir -p $(dir $@)
	@echo '$(GIT_BUILD)' | cmp -s - $@ || echo '$(GIT_BUILD)' > $@
FORCE:

$(BUILD)/libcore.a: $(CORE_O)
	@rm -f $@
	$(Q)ar rcs $@ $^
$(BUILD)/libexperiments.a: $(EXP_O)
	@rm -f $@
	$(Q)ar rcs $@ $^
$(BUILD)/libanalysis.a: $(ANA_O)
	@rm -f $@
	$(Q)ar rcs $@ $^

# linked by the C++ compiler because of sentencepiece
LINK = @mkdir -p $(dir $@); $(say_) "  LINK  $@"; $(if $(V),set -x;) $(CXX) $(OPT) $(SAN) -pthread $(filter %.o %.a,$^) -o $@ $(LIBS) $(BLAS_LIBS) -lm $(LDFLAGS)

$(BIN)/wanscope: $(BUILD)/experiments/main.o $(BUILD)/libexperiments.a $(BUILD)/libcore.a
	$(LINK)
$(BIN)/golden-check: $(call obj,$(sort $(wildcard tests/golden_*.c))) $(BUILD)/libcore.a
	$(LINK)
$(BIN)/latent-analyze: $(BUILD)/analysis/latent_analyze.o $(BUILD)/libanalysis.a $(BUILD)/libcore.a
	$(LINK)
$(BIN)/attention-export: $(BUILD)/analysis/attention_export.o $(BUILD)/libanalysis.a $(BUILD)/libcore.a
	$(LINK)
$(BUILD)/unit/%: $(BUILD)/tests/unit/%.o $(BUILD)/libexperiments.a $(BUILD)/libanalysis.a $(BUILD)/libcore.a
	$(LINK) -lcmocka
$(BUILD)/fuzz/%: $(BUILD)/tests/fuzz/%.o $(BUILD)/tests/fuzz/driver.o $(BUILD)/libexperiments.a $(BUILD)/libcore.a
	$(LINK)

unit: $(UNIT_BIN)

# ---- run ----
demo: setup
	@$(MAKE) --no-print-directory tools
	@tests/demo.sh

GOLDEN_DIRS = $(if $(DIR),$(DIR),$(sort $(wildcard tests/golden/wan-tiny $(addprefix ../shared/goldens/,wan-t2v wan22-a14b wan-vace holocine longlive scope-vace rng))))
goldens: $(BIN)/golden-check
	@set -e; for d in $(GOLDEN_DIRS); do $(BIN)/golden-check $$d; done

test: setup
	@$(MAKE) --no-print-directory test-fast

test-fast: tools unit
	@BUILD=$(BUILD) BIN=$(BIN) tests/run.sh

# needs a GPU: unit tests that know it, goldens, sanitizers and repeatability
CUDA_UNIT_BIN := $(filter $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(shell grep -l TEST_DEVICE $(UNIT_C))),$(UNIT_BIN))
test-cuda: tools $(CUDA_UNIT_BIN)
	@BUILD=$(BUILD) BIN=$(BIN) GOLDEN_DIRS="$(GOLDEN_DIRS)" tests/cuda.sh

# needs a GPU and a python3 with PyTorch: our times beside its, in one session. BENCH="forward --size 720p" chooses
BENCH ?=
bench-opponent: $(BIN)/wanscope
	@BIN=$(BIN) tests/bench/run.sh $(BENCH)

SAN_FLAGS = -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
asan:
	@$(MAKE) --no-print-directory BUILD=build/asan BIN=build/asan/bin OPT="-O1 -g" CUDA=0 SAN="$(SAN_FLAGS)" tools unit
	@BUILD=build/asan BIN=build/asan/bin SANITIZED=1 tests/run.sh

SECONDS ?= 600
fuzz:
	@$(MAKE) --no-print-directory BUILD=build/fuzz BIN=build/fuzz/bin OPT="-O1 -g" CUDA=0 SAN="$(SAN_FLAGS) -fsanitize-coverage=trace-pc" fuzz-programs
	@BUILD=build/fuzz SECONDS_EACH=$(SECONDS) tests/fuzz/run.sh
fuzz-programs: $(FUZZ_BIN)
.PHONY: fuzz-programs

clean:
	rm -rf build bin

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
