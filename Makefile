# make demo   set up, then the main job on procedural tables: output/demo/{metrics.json,gallery.png}
# make test   set up, then lint and tests
# make bench  set up, then docs/performance.md: speed and memory beside other ways, 20 minutes
# make compare-3d   set up, then every method on the same shapes for the same time, about an
#                   hour on two cores; QUICK=1: a small form, minutes; DATA=FOLDER: also
#                   on real shapes, the Princeton Shape Benchmark, another hour
# make partnet   set up, then the same on PartNet's tables and chairs; DATA=FOLDER: its cuboids
# make reproduce-2d   set up, then every method on MNIST's digits for the same time; QUICK=1: a
#                   small form, minutes; DATA=FOLDER: MNIST's files, if not downloaded;
#                   then photographs; PHOTOGRAPHS=FILE: CIFAR-10 as npz, or a folder of images
# make ablations   set up, then docs/ablations.md: what each choice of the method is worth
# make general  set up, then the data of the shipped models: output/models, 10 minutes
# make models   set up, then train and export the models of metasdf/models, two hours of one core
# make notebook   set up, then run MetaSDF.ipynb and store its outputs in it, about 6 minutes
# make setup  only .venv

PYTHON ?= python3
BIN := .venv/bin
DEMO := output/demo
MODELS := output/models
SHIPPED := general general_local general_levelset tables tables_partial chairs

.PHONY: setup tables general models demo test bench compare-3d partnet reproduce-2d ablations notebook clean

setup: .venv/ready

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	# Only its `modules` are used, by a test; its own pins (torch < 1.10) cannot be met.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps torchmeta==1.8.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

tables: setup
	$(BIN)/metasdf shapes $(DEMO)/meshes --classes tables --count 208
	$(BIN)/metasdf preprocess $(DEMO)/meshes --out $(DEMO)/data --num_test 16 \
		--num_samples 50000

general: setup
	$(BIN)/metasdf shapes $(MODELS)/meshes --classes general --count 816 --seed 1000
	$(BIN)/metasdf shapes $(MODELS)/meshes --classes tables chairs --count 416 --seed 1000
	$(BIN)/metasdf preprocess $(MODELS)/meshes --out $(MODELS)/data --num_test 16 \
		--num_samples 40000 --partial

models: general
	for model in $(SHIPPED); do \
		$(BIN)/metasdf train $$model --overwrite && \
		$(BIN)/metasdf export $(MODELS)/$$model/checkpoints/latest.pth \
			metasdf/models/$$model.pt --card docs/cards/$$model.json || exit 1; \
	done

demo: tables
	$(BIN)/metasdf train tables_tiny --overwrite
	$(BIN)/metasdf reconstruct tables_tiny --trajectories 1 \
		--checkpoint $(DEMO)/tables_tiny/checkpoints/latest.pth
	$(BIN)/metasdf evaluate $(DEMO)/reconstructions \
		--metrics $(DEMO)/metrics.json --gallery $(DEMO)/gallery.png

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n auto

bench: tables
	$(BIN)/python -m benchmarks.preprocessing speed
	$(BIN)/python -m benchmarks.speed

compare-3d: setup
	$(BIN)/python -m experiments.compare_3d $(if $(QUICK),--quick) \
		$(if $(DATA),--data $(DATA))

partnet: setup
	$(BIN)/python -m experiments.compare_3d $(if $(QUICK),--quick) --datasets partnet \
		--partnet $(or $(DATA),$(error DATA=FOLDER: that of PartNet's cuboids)) \
		--output output/partnet_comparison

reproduce-2d: setup
	$(BIN)/python -m experiments.reproduce_2d $(if $(QUICK),--quick) \
		$(if $(DATA),--data $(DATA))
	$(BIN)/python -m experiments.photographs $(if $(QUICK),--quick) \
		$(if $(PHOTOGRAPHS),--data $(PHOTOGRAPHS))

ablations: tables
	$(BIN)/python -m experiments.ablations

notebook: setup
	$(BIN)/python tests/test_notebook.py

clean:
	rm -rf .venv output
