# Everything a person types. `make help` lists it.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
CENSUS ?= ../shared/data/census_income
KUAIRAND ?= ../shared/data/kuairand_pure
BOARDS ?= $(wildcard recipes/*/board*.yaml)
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SITE ?= site
.PHONY: help run board test check format docs site recipe-kuairand recipe-census clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 20

$(BIN)/recap: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[report]'
	@touch $@

$(VENV)/.tests: $(BIN)/recap torchrec-cpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[report,serve,onnx,traces,test,check,docs]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --requirement torchrec-cpu.txt
	@touch $@

run: $(BIN)/recap  ## simulate a feed, train, evaluate, predict, compare with the truth, write a report
	$(BIN)/recap data simulate --output data/simulated
	$(BIN)/recap train recipes/simulated/ranker.yaml
	$(BIN)/recap evaluate runs/simulated
	test -d runs/simulated/predictions || $(BIN)/recap predict runs/simulated 'data/simulated/validation/*.parquet' --output runs/simulated/predictions
	$(BIN)/python recipes/simulated/report.py data/simulated runs/simulated
	$(BIN)/recap report runs/simulated

board: $(BIN)/recap  ## run the boards of the recipes on prepared data, and write docs/results.md (BOARDS='FILE …')
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[report,trees]'
	mkdir -p runs/board
	printf '# Results\n\nWritten by `make board`; how to read it: [boards](boards.md).\n' > runs/board/results.md
	for board in $(BOARDS); do \
		page=runs/board/pages/$$(echo $$board | tr / -); \
		$(BIN)/recap board $$board --output $$page && { echo; cat $$page/board.md; } >> runs/board/results.md || exit; \
	done
	cp runs/board/results.md docs/results.md

test: $(VENV)/.tests  ## run all tests, the slow ones too
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal

check: $(VENV)/.tests  ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.tests  ## format, and fix what ruff can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.tests  ## write docs/configuration.md and the JSON Schema from the models
	$(BIN)/python -m recap.config.file.reference docs/configuration.md

site: $(VENV)/.tests  ## build the documentation as a site with search; open site/docs/index.html
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder html --conf-dir docs . $(SITE)
	@echo "written: $(SITE)/docs/index.html"

recipe-kuairand: $(BIN)/recap  ## prepare and train the recipe on KuaiRand (KUAIRAND=folder of the source)
	$(BIN)/python recipes/kuairand/prepare.py --source $(KUAIRAND) --output data/kuairand
	$(BIN)/recap train recipes/kuairand/ranker.yaml
	$(BIN)/recap evaluate runs/kuairand

recipe-census: $(BIN)/recap  ## prepare Census-Income and train its two pairs of tasks (CENSUS=folder of the source)
	$(BIN)/python recipes/census_income/prepare.py --source $(CENSUS) --output data/census_income
	for pair in income college; do \
		$(BIN)/recap train recipes/census_income/$$pair.yaml && $(BIN)/recap evaluate runs/census-$$pair || exit; \
	done

clean:  ## remove the environment, data, runs and site
	rm -rf $(VENV) data runs $(SITE)
