# Every target does its own set-up, in .venv; a second call reuses it.
PYTHON ?= python3
BIN := .venv/bin
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

.PHONY: demo test lint bench

# One call, so that pip resolves torch and torchvision together: apart, it takes builds that do not fit each other.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

# The networks are so small that two processes with one thread each beat one with two; and memory that glibc keeps need
# not be asked for in every step.
demo test: export OMP_NUM_THREADS = 1
demo test: export MALLOC_MMAP_THRESHOLD_ = 4294967296
demo test: export MALLOC_TRIM_THRESHOLD_ = 4294967296

# Its student is measured on a balanced validation split: labels have that prior here.
demo: .venv/installed
	rm -rf demo
	$(BIN)/python examples/photographs.py demo/photographs
	$(BIN)/python training/show_faces.py --images demo/photographs/*.png --num_faces 0 --output_file demo/photographs.png
	$(BIN)/affectnet-plus synthesize demo/AffectNet+ --train 6000 --validation 800 --image_size 112
	$(MAKE) --no-print-directory --jobs 2 demo-fold-0 demo-fold-1
	$(LAUNCH) training/label.py --data_dir demo/AffectNet+ --ebc demo/ebc --au demo/au --prior validation \
		--output_dir demo/soft
	$(BIN)/python training/show_label_errors.py --data_dir demo/AffectNet+ --soft_labels demo/soft \
		--output_file demo/label_errors.html
	$(LAUNCH) training/train_soft_fer.py $(TRAIN) --soft_labels demo/soft --target distribution --valence_arousal \
		--backbone test_resnet --init_from demo/ebc/fold-0 --num_train_epochs 8 \
		--output_dir demo/soft_fer
	$(BIN)/python training/show_faces.py --data_dir demo/AffectNet+ --model demo/soft/models/fold-0 \
		--images demo/photographs/astronaut.png --num_faces 17 --output_file demo/faces.png
	$(LAUNCH) training/evaluate_model.py --data_dir demo/AffectNet+ --model demo/soft_fer --output_dir demo/report \
		--update_card

demo demo-fold-%: TRAIN = --data_dir demo/AffectNet+ --image_size 48 --per_image_standardization \
	--per_device_train_batch_size 32 --warmup_steps 0.1 --dataloader_num_workers 1 --eval_strategy no

# Experts that have not seen the rows of one fold; AU experts go on from what the EBC's own were started from.
demo-fold-%: FOLD = --num_folds 2 --fold $*
demo-fold-%:
	$(LAUNCH) training/train_ebc.py $(TRAIN) $(FOLD) --backbones test_resnet test_resnet --warm_start_epochs 16 \
		--output_dir demo/ebc
	$(LAUNCH) training/train_au.py $(TRAIN) $(FOLD) --backbone test_resnet --init_from demo/ebc \
		--au_labels demo/AffectNet+/ground_truth.parquet --output_dir demo/au

test: .venv/installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

bench: .venv/installed
	$(BIN)/python benchmarks/synthetic_faces.py
	$(BIN)/python benchmarks/dataset_against_peers.py
	$(BIN)/python benchmarks/ebc_on_synthetic.py "$$(mktemp -d)"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/typed/affectnet_plus
	ln -sfn ../../../affectnet_plus.py .venv/typed/affectnet_plus/__init__.py
	ln -sfn ../../../releases ../../../modeling .venv/typed/affectnet_plus
	MYPYPATH=.venv/typed $(BIN)/mypy
