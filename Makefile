# Every target sets up what it needs; `rm -r out` where nano or its code has changed. PYTHON: a Python 3.11 or newer. PHOTOS: folders
# of photographs that nano is also trained on.
PYTHON ?= python3
PHOTOS ?=
BIN := .venv/bin

.PHONY: sample test nano eval tables trained faces bench
sample: .venv/ready
	$(BIN)/python sample.py --image examples/astronaut.jpg --box 86,40,54,53 --desc descriptions/human_face_68.txt --out out/astronaut.png
	$(BIN)/python sample.py --image examples/fox.jpg --box 44,13,156,164 --desc descriptions/animal_body.txt --out out/fox.png

test: .venv/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# The measured table of the README: 20 categories nano has never seen.
eval: .venv/ready data/figures
	$(BIN)/torchrun --standalone --nproc_per_node 2 eval.py --model nano --data data/figures --controls --out out/figures

# The paper's tables that need no other training, in miniature, each row in a folder: those that are there are left alone, an
# interrupted one continues. The instructions `diverse` and `random` are not among them: they ask what `base` asks.
LIMIT ?= 1000
T := out/tables-$(LIMIT)
ROWS := base pairs cumulative-fixed cumulative-confidence descriptions-vague descriptions-simple names-simple both-simple $\
	$(addprefix instruction-,names replaced list outline steps) $(addprefix image-size-,126 140 168) $\
	$(addprefix decoding-,sampling temperature top-3 top-5 nucleus contrastive) occlude
ROW = $(BIN)/torchrun --standalone --nproc_per_node 2 eval.py --model nano --data data/figures --limit $(LIMIT) --resume --out $(@D)
tables: $(ROWS:%=$(T)/%/results.json) out/density/results.json
	$(BIN)/python eval.py --compare $(ROWS:%=$(T)/%) --out $(T)
	cat out/density/results.md

$(ROWS:%=$(T)/%/results.json) out/density/results.json: nano/adapter.safetensors | .venv/ready data/figures
$(T)/base/results.json:            ; $(ROW)
$(T)/cumulative-%/results.json:    ; $(ROW) --cumulative $*
$(T)/descriptions-vague/results.json:  ; $(ROW) --descriptions descriptions/vague
$(T)/descriptions-simple/results.json: ; $(ROW) --descriptions descriptions/simple --names descriptions
$(T)/names-simple/results.json:    ; $(ROW) --names descriptions/simple
$(T)/both-simple/results.json:     ; $(ROW) --descriptions descriptions/simple
$(T)/instruction-%/results.json:   ; $(ROW) --instruction $*
$(T)/image-size-%/results.json:    ; $(ROW) --image-size $*
$(T)/decoding-%/results.json:      ; $(ROW) --decoding $*
$(T)/occlude/results.json:         ; $(ROW) --occlude 0.2 0.4 0.6
out/density/results.json:                ; $(ROW) --limit 100 --density
# The same answers, counted as pairs: nothing is asked again.
$(T)/pairs/results.json: $(T)/base/results.json
	mkdir -p $(@D) && cp $(T)/base/* $(@D) && $(ROW) --pairs

# The paper's tables that need training, in miniature: nano, trained further for as many steps with the settings of each row.
STEPS ?= 200
TRAINED := base $(addprefix rounds-,dynamic locllm) $(addprefix k-,1 2 6 8) $(addprefix tune-,frozen full) descriptions-vague $\
	$(addprefix instruction-,names replaced random list outline diverse steps) $(addprefix first-,direct-qa steps-qa)
ASKED := $(foreach model,base random,$(addprefix $(model)-asked-,replaced names)) $\
	$(addsuffix -cumulative,base rounds-dynamic rounds-locllm)
CURVES := base rounds-dynamic rounds-locllm tune-frozen tune-full
VAGUE := --descriptions descriptions/vague
TRAIN = $(BIN)/torchrun --standalone --nproc_per_node 2 train.py --init nano --data data/figures --batch 16 --micro-batch 4 --workers 0 $\
	--steps $(STEPS) --save-every 50 --resume --out $(@D)/run
LAST = step-$(shell printf %07d $(STEPS))
ASK = $(BIN)/torchrun --standalone --nproc_per_node 2 eval.py --data data/figures --limit 200 --resume --out $(@D) --model
trained: $(TRAINED:%=out/trained/%/results.json) $(ASKED:%=out/trained/%/results.json)
	$(BIN)/python eval.py --compare $(TRAINED:%=out/trained/%) $(ASKED:%=out/trained/%) --out out/trained
	$(BIN)/python -m scripts.curves $(CURVES:%=out/trained/%/run) --labels $(CURVES) --out out/trained/curves.png

$(TRAINED:%=out/trained/%/results.json): nano/adapter.safetensors | .venv/ready data/figures
out/trained/base/results.json:               ; $(TRAIN) && $(ASK) $(@D)/run/$(LAST)
out/trained/rounds-%/results.json:           ; $(TRAIN) --rounds $* && $(ASK) $(@D)/run/$(LAST)
out/trained/k-%/results.json:                ; $(TRAIN) --k $* && $(ASK) $(@D)/run/$(LAST)
out/trained/tune-%/results.json:             ; $(TRAIN) --tune $* && $(ASK) $(@D)/run/$(LAST)
out/trained/instruction-%/results.json:      ; $(TRAIN) --instruction $* && $(ASK) $(@D)/run/$(LAST)
out/trained/descriptions-vague/results.json: ; $(TRAIN) $(VAGUE) && $(ASK) $(@D)/run/$(LAST) $(VAGUE)
# Table 18: the projection first, then as usual.
out/trained/first-%/results.json:
	$(TRAIN) --instruction $* --out $(@D)/first
	$(TRAIN) --init $(@D)/first/$(LAST) && $(ASK) $(@D)/run/$(LAST)
# Table 7: trained with one instruction, asked with another.
out/trained/base-asked-%/results.json: out/trained/base/results.json
	$(ASK) $(<D)/run/$(LAST) --instruction $*
out/trained/random-asked-%/results.json: out/trained/instruction-random/results.json
	$(ASK) $(<D)/run/$(LAST) --instruction $*
# Table 3: trained in rounds, asked cumulatively.
out/trained/%-cumulative/results.json: out/trained/%/results.json
	$(ASK) $(<D)/run/$(LAST) --cumulative fixed

# The paper's recipe on real photographs (PHOTOS: one folder of faces): pre-trained on drawings alone, then each of Table 15's settings,
# three passes over the photographs, asked after each of them.
SETTINGS := lora frozen full
PASSES := $(addprefix step-0000,098 196 294)
PHOTOGRAPHS = $(or $(PHOTOS),$(error PHOTOS=FOLDER is missing, of photographs with 68 keypoints))
ASK_FACES = $(BIN)/torchrun --standalone --nproc_per_node 2 eval.py --data $(PHOTOGRAPHS) --sheet --resume --out $(@D) --model
FACES := out/faces/start $(foreach tune,$(SETTINGS),$(PASSES:%=out/faces/$(tune)/%))
faces: $(FACES:%=%/results.json)
	$(BIN)/python eval.py --compare $(FACES) --out out/faces
	$(BIN)/python -m scripts.curves $(SETTINGS:%=runs/faces/%) --out out/faces/curves.png

.SECONDARY: $(foreach tune,$(SETTINGS),$(PASSES:%=runs/faces/$(tune)/%))
out/faces/start/results.json: | runs/drawings/model   ; $(ASK_FACES) runs/drawings/model
out/faces/%/results.json: | runs/faces/%              ; $(ASK_FACES) runs/faces/$*
$(PASSES:%=runs/faces/\%/%): | runs/drawings/model
	$(BIN)/torchrun --standalone --nproc_per_node 2 train.py --init runs/drawings/model --data $(PHOTOGRAPHS) --tune $* --rounds locllm \
		--batch 32 --micro-batch 8 --workers 0 --steps 294 --save-every 98 --resume --out runs/faces/$*
runs/drawings/model: | .venv/ready data/figures
	$(BIN)/torchrun --standalone --nproc_per_node 2 -m nano.pretrain --data data/figures --rounds 500 --out runs/drawings

# Against transformers and peft doing the same work, at the shapes of a 135M-parameter Llama and DINOv2 S/14.
bench: .venv/ready-dev
	$(BIN)/python -m scripts.bench load
	$(BIN)/python -m scripts.bench infer --repeat 3
	$(BIN)/python -m scripts.bench train --repeat 3
	$(BIN)/python -m scripts.bench density --repeat 1

# nano from nothing, unattended; continues where it was interrupted.
nano: .venv/ready data/figures
	$(BIN)/torchrun --standalone --nproc_per_node 2 -m nano.pretrain --data data/figures $(PHOTOS) --out runs/pretrain
	$(BIN)/torchrun --standalone --nproc_per_node 2 train.py --init runs/pretrain/model --data data/figures $(PHOTOS) --out runs/nano --resume --steps 60 --micro-batch 16 --workers 0 --save-every 20
	cp -r runs/pretrain/model/vision runs/pretrain/model/llm runs/pretrain/model/config.json nano/
	cp runs/nano/step-0000060/adapter.safetensors nano/

data/figures: | .venv/ready
	$(BIN)/python -m drawings --out data/figures

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

.venv/ready-dev: requirements-dev.txt .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@
