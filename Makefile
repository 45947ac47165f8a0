# make run: the main job. make test: everything that is checked, WORKERS tests at a time. make book: web pages of it all.
# All make .venv first, if it is not there.
PYTHON ?= python3
BIN = .venv/bin
STAMP = .venv/.ready
WORKERS ?= 2
export TQDM_MININTERVAL = 1
export HF_HUB_OFFLINE = 1

.PHONY: run test lab lint resolve book browser-test cluster-test

run: $(STAMP)
	$(BIN)/stamina-lite reproduce quick --out runs/quick
	$(BIN)/stamina-lite report runs/quick --out runs/quick/report.html

test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Whether the promised versions of Python can be installed on every system (asks the package index).
resolve: $(STAMP)
	for python in 3.11 3.12 3.13; do for system in linux aarch64-apple-darwin windows; do \
	  MACOSX_DEPLOYMENT_TARGET=14.0 $(BIN)/uv pip compile -q --python-version $$python --python-platform $$system \
	    -c constraints.txt pyproject.toml -o /dev/null && echo "Python $$python, $$system: resolves" || exit 1; \
	done; done

# The notebooks as they are stored, documents and docstrings as web pages: build/book/index.html. Nothing is run.
book: $(STAMP)
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[book]'
	$(BIN)/sphinx-build -q -W --keep-going -c docs . build/book
	echo '<meta http-equiv="refresh" content="0; url=docs/index.html">' > build/book/index.html

# The book and JupyterLab in a real Chromium (of the system, or $$CHROMIUM); screenshots: build/screenshots.
browser-test: book
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[browser]'
	$(BIN)/python -m pytest -q tests/browser/*_in_browser.py

# A Ray cluster of two nodes on this machine, with real runs; minutes where cores are free.
cluster-test: $(STAMP)
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[cluster]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/cluster/two_nodes.py

lab: $(STAMP)
	$(BIN)/jupyter lab --config=notebooks/jupyter_lab_config.py notebooks

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt -e '.[test]'
	touch $(STAMP)
