# `make demo`, `make test`, `make lab`, `make sweep STUDY=paper [MODEL=…] [PROFILE=slurm] [OUTPUTS=…] [SET="key=value …"]`
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin/python
STUDY  ?= demo
OUTPUTS ?= outputs
READY  := $(VENV)/.ready

.DELETE_ON_ERROR:
.PHONY: demo test lab sweep plan check notebooks

demo: $(READY)
	$(RUN) -m lcutils sweep demo --outputs "$(OUTPUTS)"

sweep: $(READY)
	$(RUN) -m lcutils sweep "$(STUDY)" --outputs "$(OUTPUTS)" $(if $(MODEL),--model $(MODEL)) $(if $(PROFILE),--profile $(PROFILE)) \
	  $(if $(CORES),--cores $(CORES)) $(if $(DRY),--dry-run) $(if $(SET),--set $(SET))

plan: $(READY)
	$(RUN) -m lcutils plan "$(STUDY)" --outputs "$(OUTPUTS)" $(if $(SET),--set $(SET))

lab: $(READY)
	$(VENV)/bin/jupyter lab --notebook-dir notebooks

test: $(READY) check
	$(RUN) -m pytest

check: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check lcutils tests
	$(VENV)/bin/mypy

# Fill the committed notebooks with the outputs of the present code (after `make demo`).
notebooks: $(READY)
	$(VENV)/bin/jupyter nbconvert --to notebook --execute --ExecutePreprocessor.record_timing=False --inplace notebooks/0*.ipynb

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit('error: Python 3.11 or newer is needed; name one: make PYTHON=python3.12 demo' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint requirements.txt torch
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint requirements.txt --editable .[dev]
	touch $@
