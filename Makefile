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

# The networks are so small that two processes with one thread each, on half of the expressions, beat one with two.
demo test: export OMP_NUM_THREADS = 1

demo: .venv/installed
	rm -rf demo
	$(BIN)/affectnet-plus synthesize demo/AffectNet+ --train 4000 --validation 800 --image_size 112
	printf '%s\n' "neutral happy sad surprise" "fear disgust anger contempt" | xargs -P 2 -I EXPRESSIONS sh -c '\
		$(LAUNCH) training/train_ebc.py --data_dir demo/AffectNet+ --output_dir demo/ebc \
			--backbones test_resnet test_efficientnet test_vit --image_size 48 --expressions EXPRESSIONS \
			--num_train_epochs 5 --learning_rate 4e-3 --warmup_steps 0.1 --per_device_train_batch_size 32 \
			--dataloader_num_workers 1 --eval_strategy no'
	$(BIN)/python -c "from skimage import data, io; io.imsave('demo/astronaut.png', data.astronaut()[58:170, 168:280])"
	$(BIN)/python training/show_faces.py --data_dir demo/AffectNet+ --model demo/ebc \
		--images demo/astronaut.png --num_faces 17 --output_file demo/faces.png

test: .venv/installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

bench: .venv/installed
	$(BIN)/python benchmarks/synthetic_faces.py
	$(BIN)/python benchmarks/dataset_against_peers.py
	$(BIN)/python benchmarks/ebc_on_synthetic.py "$$(mktemp -d)"

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
