# Every target does its own set-up, in .venv; a second call reuses it.
PYTHON ?= python3
BIN := .venv/bin
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

SAY := @printf '\n=== %s\n'

.PHONY: demo test test-slow torture lint bench docs

# One call, so that torch and torchvision are resolved together: apart, builds come that do not fit each other. uv takes a
# quarter of pip's time; it does not read pip's configuration, so where it finds nothing, pip does it.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	-$(BIN)/pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -e ".[test]" \
		|| $(BIN)/pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

# The networks are so small that two processes with one thread each beat one with two; and memory that glibc keeps need
# not be asked for in every step.
demo test test-slow torture: export OMP_NUM_THREADS = 1
demo test test-slow torture: export MALLOC_MMAP_THRESHOLD_ = 4294967296
demo test test-slow torture: export MALLOC_TRIM_THRESHOLD_ = 4294967296

# Its student is measured on a balanced validation split: labels have that prior here.
demo: .venv/installed
	rm -rf demo
	$(SAY) "1 of 7  The bundled model on photographs: demo/found/, demo/photographs.png"
	$(BIN)/python tests/photographs.py demo/photographs
	$(BIN)/affectnet-plus predict demo/photographs/two-people.png --output demo/found/faces.csv --annotate demo/found
	$(BIN)/python training/show_faces.py --images demo/photographs/*.png --num_faces 0 --output_file demo/photographs.png
	$(SAY) "2 of 7  A synthetic release: demo/AffectNet+, with the ground truth in demo/AffectNet+/ground_truth.parquet"
	$(BIN)/affectnet-plus synthesize demo/AffectNet+ --train 6000 --validation 800 --image_size 112
	$(SAY) "3 of 7  EBC and AU experts in two folds (most of the time): demo/ebc/fold-*, demo/au/fold-*"
	$(MAKE) --no-print-directory --jobs 2 demo-fold-0 demo-fold-1
	$(SAY) "4 of 7  Soft labels by the experts that have not seen the row: demo/soft/*.parquet"
	$(LAUNCH) training/label.py --data_dir demo/AffectNet+ --ebc demo/ebc --au demo/au --prior validation \
		--output_dir demo/soft
	$(SAY) "5 of 7  Candidate label errors: demo/label_errors.html"
	$(BIN)/python training/show_label_errors.py --data_dir demo/AffectNet+ --soft_labels demo/soft \
		--output_file demo/label_errors.html
	$(SAY) "6 of 7  One Soft-FER network trained on the soft labels: demo/soft_fer"
	$(LAUNCH) training/train_soft_fer.py $(TRAIN) --soft_labels demo/soft --target distribution --valence_arousal \
		--backbone test_resnet --init_from demo/ebc/fold-0 --num_train_epochs 8 \
		--output_dir demo/soft_fer
	$(SAY) "7 of 7  Experts at work, and the network measured: demo/faces.png, demo/report"
	$(BIN)/python training/show_faces.py --data_dir demo/AffectNet+ --model demo/soft/models/fold-0 \
		--images demo/photographs/astronaut.png --num_faces 17 --output_file demo/faces.png
	$(LAUNCH) training/evaluate_model.py --data_dir demo/AffectNet+ --model demo/soft_fer --output_dir demo/report \
		--update_card
	$(SAY) "Look at:"
	@echo "demo/found/*.jpg          the faces found in a photograph, with their mixtures"
	@echo "demo/photographs.png      the bundled model on photographs"
	@echo "demo/faces.png            the fused experts beside the ground truth; they have seen drawings only"
	@echo "demo/label_errors.html    human labels that the experts deny most"
	@echo "demo/report/report.html   the Soft-FER network measured"

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
	$(SAY) "All tests passed."

# What takes a minute or more each: kills of long commands, a minute of torture, the notebook from top to bottom (a
# quarter of an hour; WITHOUT="--ignore tests/test_tour.py" leaves it out).
test-slow: .venv/installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m slow -n 2 --dist loadfile $(WITHOUT)

# What docs/reliability.md promises, tried at random moments: 50 minutes. A full disk is tried by root only.
torture: .venv/installed
	PYTHONPATH=tests $(BIN)/python -m torture

bench: .venv/installed
	$(BIN)/python benchmarks/synthetic_faces.py
	$(BIN)/python benchmarks/dataset_against_peers.py
	$(BIN)/python benchmarks/student_against_teacher.py
	$(BIN)/python benchmarks/ebc_on_synthetic.py "$$(mktemp -d)"
	$(BIN)/python benchmarks/tables.py
	$(SAY) "Look at: docs/results.md; the figures themselves are in benchmarks/results."

# The README's picture and all figures in README.md and docs/results.md.
docs: .venv/installed
	rm -rf demo/drawn
	$(BIN)/affectnet-plus synthesize demo/drawn --train 80 --validation 40
	$(BIN)/python training/show_faces.py --data_dir demo/drawn --num_faces 4 --output_file docs/images/faces.png
	$(BIN)/python -c "from PIL import Image; file = 'docs/images/faces.png'; \
		Image.open(file).convert('RGB').quantize().save(file, optimize=True)"
	$(BIN)/python benchmarks/tables.py
	$(SAY) "Look at: README.md, docs/results.md, docs/images/faces.png."

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/typed/affectnet_plus
	ln -sfn ../../../affectnet_plus.py .venv/typed/affectnet_plus/__init__.py
	ln -sfn ../../../inference ../../../releases ../../../modeling .venv/typed/affectnet_plus
	ln -sfn ../../affectnet_plus_cli .venv/typed
	MYPYPATH=.venv/typed $(BIN)/mypy
