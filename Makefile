PYTHON ?= python3
BIN := .venv/bin
SAYMASK := $(BIN)/saymask

.PHONY: bench clean demo lint live-tools parity setup test

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	touch $@

# The whole way: draw a world, export the shipped miniature, say words, look at the masks.
demo: setup
	rm -rf out/demo
	$(SAYMASK) world stills --count 1 --seed 4 --split test --out out/demo/stills
	$(SAYMASK) world clip --seconds 4 --seed 4 --split test --out out/demo/clip.mp4
	$(SAYMASK) export evf-sam
	$(SAYMASK) export evf-sam --int8
	$(SAYMASK) segment out/demo/stills/images --bundle evf-sam-mini-int8 --out out/demo \
		--prompt "the red mug" --prompt "the yellow car" --prompt "the blue knife" \
		--prompt "the striped bottle"
	$(SAYMASK) segment out/demo/clip.mp4 --bundle evf-sam-mini-int8 --out out/demo \
		--prompt "the red mug" --prompt "the blue knife"
	$(SAYMASK) eval evf-sam-mini-fp32 evf-sam-mini-int8 --phrases 400 --threads 1
	@echo; echo "the pictures are in out/demo"; ls out/demo

test: setup
	$(BIN)/pytest -q

# What the live tests talk to: a browser and an RTSP server; Debian's packages, so as root.
live-tools:
	apt-get -q update
	apt-get -q install -y --no-install-recommends chromium python3-gi \
		gir1.2-gst-plugins-base-1.0 gir1.2-gst-rtsp-server-1.0 \
		gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly

# The networks beside the authors' own code. REFERENCES holds clones of what no package has.
REFERENCES ?= references
parity: setup
	SAM2_BUILD_CUDA=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation \
		--target build/parity --upgrade -r tests/parity.txt
	PYTHONPATH=build/parity $(BIN)/pytest -q -m parity \
		$(if $(wildcard $(REFERENCES)),--references=$(abspath $(REFERENCES)))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup
	$(SAYMASK) export evf-sam
	$(SAYMASK) export evf-sam --int8
	$(SAYMASK) bench evf-sam-mini-int8 --compare evf-sam-mini-fp32 --phrases 4 --threads 1

clean:
	rm -rf .venv build out bundles
