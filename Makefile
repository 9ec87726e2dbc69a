# `make demo`, `make test`, `make lab`, `make sweep STUDY=paper [MODEL=…] [PROFILE=slurm] [OUTPUTS=…] [SET="key=value …"]`
PYTHON ?= python3
# An active environment, of venv or conda, that has lcutils and all that it needs; else `.venv` is built.
HAS_ALL := import re; from importlib.metadata import requires, version; \
  [version(re.match(r"[\w.-]+", need)[0]) for need in requires("lcutils") if "extra ==" not in need]
ACTIVE := $(shell for folder in "$$VIRTUAL_ENV" "$$CONDA_PREFIX"; do \
  [ -n "$$folder" ] && ! [ "$$folder" -ef .venv ] && "$$folder/bin/python" -c '$(HAS_ALL)' 2>/dev/null && echo "$$folder" && break; done)
VENV   := $(if $(filter 1,$(words $(ACTIVE))),$(ACTIVE),.venv)
RUN    := $(VENV)/bin/python
READY  := $(if $(filter .venv,$(VENV)),.venv/.ready)
STUDY  ?= demo
OUTPUTS ?= outputs
# A variable's text as one word of the shell, whatever is in it.
quoted = '$(subst ','\'',$(value $1))'

.DELETE_ON_ERROR:
.PHONY: demo test lab sweep measure plan check docs notebooks notebook-filter

demo: $(READY)
	$(RUN) -m lcutils sweep demo --outputs=$(call quoted,OUTPUTS)

sweep: $(READY)
	$(RUN) -m lcutils sweep $(call quoted,STUDY) --outputs=$(call quoted,OUTPUTS) $(if $(value MODEL),--model=$(call quoted,MODEL)) \
	  $(if $(value PROFILE),--profile=$(call quoted,PROFILE)) $(if $(value CORES),--cores=$(call quoted,CORES)) \
	  $(if $(DRY),--dry-run) $(if $(value SET),--overrides=$(call quoted,SET))

# `make measure MODEL=FOLDER_OR_HUB_NAME TEXT=FILE [VALIDATION=…] [TOKENS=10M] [NAME=…] [OUTPUTS=…] [SET="key=value …"]`
measure: $(READY)
	$(RUN) -m lcutils measure $(call quoted,MODEL) --text=$(call quoted,TEXT) --outputs=$(call quoted,OUTPUTS) \
	  $(if $(value VALIDATION),--validation=$(call quoted,VALIDATION)) $(if $(value TOKENS),--tokens=$(call quoted,TOKENS)) \
	  $(if $(value NAME),--name=$(call quoted,NAME)) $(if $(value SET),--overrides=$(call quoted,SET))

plan: $(READY)
	$(RUN) -m lcutils plan $(call quoted,STUDY) --outputs=$(call quoted,OUTPUTS) $(if $(value SET),--overrides=$(call quoted,SET))

# `make lab [LAB="--port 9000 --no-browser"]` opens the index of notebooks.
lab: $(READY)
	JUPYTER_CONFIG_PATH=parameters/jupyter $(VENV)/bin/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/index.md $(LAB)

test: $(READY) check
	$(RUN) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=40

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check lcutils tests notebooks
	$(VENV)/bin/mypy

# The API reference, as pages in `.docs/`.
docs: $(READY)
	$(RUN) docs.py

# Fill the notebooks with the outputs of the present code (after `make demo`).
notebooks: $(READY)
	$(VENV)/bin/jupyter nbconvert --to notebook --execute --ExecutePreprocessor.record_timing=False --inplace notebooks/*.ipynb

.venv/.ready: requirements.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('error: Python 3.11 or newer is needed; name one: make PYTHON=python3.12 demo' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint requirements.txt torch
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint requirements.txt --editable .[dev]
	$(MAKE) --no-print-directory notebook-filter
	touch $@

# Git then commits notebooks without their live charts (.gitattributes names the files, but may not name a command).
# There is nothing to set up in a folder that is no checkout, or without git; a failure here does not stop make.
notebook-filter:
	-@if [ -e .git ] && command -v git >/dev/null; then git config filter.notebooks.clean "$(RUN) lcutils/notebook_filter.py"; fi
