# make         the binary, target/release/bettertest, with the page in it
# make static  the same for any Linux, whatever its libc: target/static/bettertest
# make demo    a real project's tests in containers, followed here and on the page
# make bench   what a step costs, against docker run
# make base-images  what Dockerfiles of `bettertest init` build upon, where no image registry is reached
# make test    every check and every test, in a real Docker daemon and a real browser
#
# Each sets up what is missing on this machine first and says so; setup/ holds the steps, .tools/ what they made.
SHELL := /bin/bash
.DEFAULT_GOAL := all
MUSL := $(shell uname -m)-unknown-linux-musl
.PHONY: all build static page demo bench soak base-images test clean

page:
	@setup/web.sh
	@setup/page.sh

all: build
	@echo "made target/release/bettertest; now: sudo install target/release/bettertest /usr/local/bin/"

build: page
	@echo "building target/release/bettertest"
	@cargo build -p bettertest --release

static: page
	@setup/static.sh
	@echo "building target/static/bettertest"
	@cargo build -p bettertest --release --target $(MUSL)
	@install -D target/$(MUSL)/release/bettertest target/static/bettertest
	@target/static/bettertest --version

demo: build
	@setup/docker.sh
	@demo/image.sh
	@python3 demo/demo.py

bench: build
	@setup/docker.sh
	@setup/test-image.sh
	@python3 bench/bench.py

soak: build
	@setup/docker.sh
	@setup/test-image.sh
	@python3 -B soak/soak.py $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

base-images:
	@setup/docker.sh
	@setup/base-images.sh

test:
	@./check.sh

# What was built and made here, set-up included. Installed packages and docker images stay.
clean:
	rm -rf .tools target frontend/dist
