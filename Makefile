# Every target does its own set-up, in .venv; a second call reuses it.
PYTHON ?= python3
BIN := .venv/bin
LAUNCH := $(BIN)/accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

.PHONY: demo test lint bench

# torch and torchvision are resolved together with the rest: separately, pip takes builds that do not fit each other.
.venv/installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

demo: .venv/installed
	rm -rf demo
	$(BIN)/affectnet-plus synthesize demo/AffectNet+ --train 4000 --validation 800
	$(LAUNCH) training/train_ebc.py --data_dir demo/AffectNet+ --output_dir demo/ebc \
		--backbones test_resnet test_efficientnet test_byobnet --image_size 64 \
		--num_train_epochs 6 --learning_rate 4e-3 --eval_strategy no
	$(BIN)/python -c "from skimage import data, io; io.imsave('demo/astronaut.png', data.astronaut()[10:210, 125:325])"
	$(BIN)/python training/show_faces.py --data_dir demo/AffectNet+ --model demo/ebc \
		--images demo/astronaut.png --output_file demo/faces.png

test: .venv/installed
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
