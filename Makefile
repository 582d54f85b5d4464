# Needs GNU make, bash, Python 3.11 or newer and a package index. All else goes into .venv (and .uv, where uv is missing).
SHELL  := bash
PYTHON ?= python3
UV     := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .uv/bin/uv)
READY  := .venv/.ready
LF     := .venv/bin/lfdeploy

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow wide methods healthy engines minors int8 photos evidence busy large check lock clean

help:
	@echo "make demo    train, export, prove and measure on the embedded data (about 2 minutes)"
	@echo "make test    the fast tests (about 5 minutes)      make slow   the others"
	@echo "make wide    every planted fault in every format, every architecture of the slow tests (half an hour)"
	@echo "make check   ruff and mypy                         make setup  only install into .venv"
	@echo "make methods every method the whole way with a second architecture (ten minutes; part of make wide)"
	@echo "make healthy every architecture in six kinds through the gate (hours; goes on in OUT, healthy.jsonl)"
	@echo "make engines how long TensorRT-RTX takes to build resnet18 in every precision"
	@echo "make minors OTHER=python3.12   the same ONNX bytes under another Python?"
	@echo "make photos DATA=my_photos     a warm start against a plain loop (hours; goes on in OUT, photos.jsonl)"
	@echo "make evidence DATA=cifar100.npz    which method helps (hours; goes on in docs/results)"
	@echo "make int8 DATA=cifar100.npz    how fast and how exact int8 is on this CPU (an hour; results in OUT, int8-results)"

setup: $(READY)

# Only made when no working uv is on PATH; --target needs no venv module.
.uv/bin/uv:
	$(PYTHON) -m venv .uv 2>/dev/null && .uv/bin/python -m pip install -q uv \
	  || { rm -rf .uv; $(PYTHON) -m pip install -q --target .uv uv; }
	$@ --version

$(READY): pyproject.toml requirements.lock | $(UV)
	test -x .venv/bin/python || $(UV) venv -q --python $(PYTHON)
	$(UV) pip sync -q --python .venv --require-hashes --compile-bytecode requirements.lock
	$(UV) pip install -q --python .venv --no-deps -e .
	touch $@

demo: $(READY)
	$(LF) train
	$(LF) export --peer 0 --format onnx
	$(LF) export --fused --format onnx
	$(LF) export --peer 0 --format trt
	$(LF) bench peer0-onnx-fp32 fused-onnx-fp32 peer0-trt-fp32
	@echo
	@echo "Open the page with:  $(LF) serve      then http://127.0.0.1:7860 in a browser"

test: $(READY)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile

slow: $(READY)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile -m 'slow and not wide'

methods: $(READY)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 -m wide tests/training/test_methods_whole.py

wide: $(READY)
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n 2 --dist loadfile -m wide

# Every line of the results is kept; a second call goes on from what is there.
healthy: OUT ?= healthy.jsonl
SIX := onnx-fp32,onnx-fp16,onnx-int8,openvino-fp32,openvino-int8,torch-fp32
healthy: $(READY)
	.venv/bin/python tests/export/healthy.py $(OUT) $(or $(KINDS),$(SIX)) $(ARCHS)

engines: $(READY)
	.venv/bin/python tests/export/engines.py

# OTHER: one or more interpreters, for example OTHER=python3.12
minors: $(READY) | $(UV)
	.venv/bin/python tests/export/minors.py $(UV) $(OTHER)

# Trained networks and tables go to OUT; a second call goes on from what is there.
int8: OUT ?= int8-results
int8: $(READY)
	@test -f "$(DATA)" || { echo "Name CIFAR-100 as an .npz: make int8 DATA=cifar100.npz"; exit 2; }
	.venv/bin/python tests/export/int8.py $(DATA) $(OUT)

# DATA: a folder with train/ and test/; every line is kept, and a second call goes on from what is there.
photos: OUT ?= photos.jsonl
photos: $(READY)
	@test -d "$(DATA)/test" || { echo "Name a folder with train/ and test/: make photos DATA=my_photos"; exit 2; }
	.venv/bin/python tests/training/warm_start.py $(DATA) $(OUT) $(or $(TIME),8m) $(or $(SEEDS),3) $(KINDS)

# Training beside eight processes that spin, against the same with one OpenMP thread.
busy: $(READY)
	.venv/bin/python tests/training/busy.py $(or $(SPINNERS),8) $(or $(ROUNDS),3) $(ARCHS)

# 20,000 pictures of 500 px: memory, the loader, the cache (minutes; 5 GB in the directory for temporary files).
large: $(READY)
	.venv/bin/python tests/training/large.py $(COUNT)

# Which method, on CIFAR-100: chosen on pictures of its training split, then proven on its test split with other seeds.
# A line of every run is kept in docs/results/; a second call goes on from what is there.
evidence: OUT ?= evidence
CHOICE := independent,ffl,ffl:logits=standard,lfmkd,lfmkd:aux_head=lite,lfmkd:attn=cbam,lfmkd:attn=cbam:aux_head=lite,lfmkd:attn=bilinear
CHOICE := $(CHOICE),lfmkd:attn=cbam:attn_pos=peer,lfmkd:knowledge=maps,lfmkd:knowledge=both,lfmkd:logits=standard,lfmkd:aux_of=peer
CHOICE := $(CHOICE),lfmkd:aux_teach=better,lfmkd:lambda_teachers=1,lfmkd:detach_taps=true,lfmkd:attn=cbam:detach_taps=true
PROOF := independent,independent:heads=auto,dml,ffl,lfmkd,lfmkd:attn=cbam
SHORT := --arch resnet8 --epochs 12 --val-fraction 0 --threads shared
evidence: $(READY)
	@test -f "$(DATA)" || { echo "Name CIFAR-100 as an .npz: make evidence DATA=cifar100.npz"; exit 2; }
	.venv/bin/python tests/training/evidence_data.py $(DATA) $(OUT)
	$(LF) compare --methods '$(CHOICE)' --seeds 0,1 --data $(OUT)/choice.npz --runs $(OUT) --name choice \
	  --results docs/results/choice.jsonl $(SHORT)
	$(LF) compare --methods '$(PROOF)' --seeds 10,11,12,13,14 --data $(OUT)/proof.npz --runs $(OUT) --name proof \
	  --results docs/results/proof.jsonl $(SHORT)

check: $(READY)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# After a change of dependencies: names, versions and hashes, no addresses.
lock: | $(UV)
	$(UV) lock
	$(UV) export --locked --no-emit-project --all-groups --no-header --format requirements.txt -o requirements.lock

clean:
	rm -rf .venv .uv
