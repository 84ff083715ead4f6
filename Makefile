# Every target sets up what it needs; `rm -r out` where nano or its code has changed.
# PYTHON: a Python 3.11 or newer. PHOTOS: folders of photographs, "people hands faces".
# LIMIT: drawings of `make tables`.
PYTHON ?= python3
PHOTOS ?=
LIMIT ?= 200
BIN := .venv/bin
TORCHRUN := $(BIN)/torchrun --standalone --nproc_per_node 2
NEEDED = $(or $(PHOTOS),$(error PHOTOS=FOLDER is missing, a folder of photographs))

.PHONY: sample test lint eval tables trained faces own radii bench nano

sample: .venv/ready
	$(BIN)/python -m scripts.examples

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: .venv/ready-dev
	$(BIN)/ruff check .

# 20 categories that nano has never seen; with PHOTOS, photographs that it has never seen, too.
eval: .venv/ready data/figures
	for folder in data/figures $(PHOTOS); do \
		$(TORCHRUN) eval.py --model nano --data $$folder --controls \
			--out out/eval/$$(basename $$folder) || exit 1; \
	done

# The paper's tables, beside nano: those that need no training, those that do, photographs.
tables: .venv/ready data/figures
	$(BIN)/python -m scripts.tables --limit $(LIMIT)

trained: .venv/ready-dev data/figures
	$(BIN)/python -m scripts.trained

faces: .venv/ready-dev data/figures
	$(BIN)/python -m scripts.faces $(NEEDED)

# How many photographs of one's own object: PHOTOS are sets of them, each with a test part.
own: .venv/ready
	$(BIN)/python -m scripts.own $(NEEDED)

# How often circles around answers hold the truth.
radii: .venv/ready data/figures
	$(BIN)/python -m scripts.radii data/figures $(PHOTOS)

# Beside transformers and peft doing the same work.
bench: .venv/ready-dev
	$(BIN)/python -m scripts.bench load --repeat 3
	$(BIN)/python -m scripts.bench infer --repeat 3
	$(BIN)/python -m scripts.bench train --repeat 3
	$(BIN)/python -m scripts.bench density --repeat 1

# nano from nothing, unattended; continues where it was interrupted. Of PHOTOS, a folder that is
# named twice is drawn from twice as often: nano's were "people people hands faces".
GO_ON = -m nano.pretrain --data data/figures $(PHOTOS) --size 168 --words 0 --names 0
nano: .venv/ready data/figures
	$(TORCHRUN) -m nano.pretrain --data data/figures $(PHOTOS) --out runs/small
	$(TORCHRUN) $(GO_ON) --init runs/small/model --photos 0.6 --eyes 300 --rounds 5000 \
		--out runs/larger
	$(TORCHRUN) $(GO_ON) --init runs/larger/model --photos 0.7 --eyes 0 --rounds 2400 \
		--out runs/pretrain
	$(TORCHRUN) train.py --init runs/pretrain/model --data data/figures $(PHOTOS) \
		--out runs/nano --resume --steps 60 --micro-batch 16 --workers 0 --save-every 20
	cp -r runs/pretrain/model/vision runs/pretrain/model/llm runs/pretrain/model/config.json nano/
	cp runs/nano/step-0000060/adapter.safetensors nano/
	$(BIN)/python -m study.coverage --data data/figures $(sort $(PHOTOS)) --calibrate

data/figures: | .venv/ready
	$(BIN)/python -m drawings --out data/figures

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/ready-dev: requirements-dev.txt .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
