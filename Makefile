# make serve       build, fetch the default model and serve it on 127.0.0.1:8080 (MODEL=path.gguf PORT=9000)
# make test        unit, system and fuzz tests under sanitizers; T=word runs those with the word in their name
# make test-long   the same, with longer fuzzing, the thread sanitizer under load, fault loops and the leak run
# make build       build/autoglm and nothing else
# make deps        the Debian or Ubuntu packages that building needs
MODEL ?=
PORT ?= 8080
T ?=
JOBS ?= $(shell nproc)

.PHONY: all deps build serve test test-long clean
all: build

deps:
	@tools/install build

build/build.ninja: CMakeLists.txt cmake/llhttp.cmake | deps
	@cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release
	@touch $@

build: deps build/build.ninja
	@ninja -C build -j $(JOBS) autoglm

serve: build
	@model="$(MODEL)"; [ -n "$$model" ] || model=$$(tools/fetch-model) || exit 1; \
	exec build/autoglm serve -m "$$model" --host 127.0.0.1 --port $(PORT)

test test-long:
	@tools/install build
	@tools/install test
	@python3 tools/test --jobs $(JOBS) $(if $(filter test-long,$@),--long) $(if $(T),--only '$(T)')

clean:
	rm -rf build build-*
