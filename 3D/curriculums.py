"""The curriculums: what to train, on what and how.

Keys and defaults: metasdf/learning/curriculum.py.

Relative paths are relative to this folder. Any key can be overridden on the command line.
"""


def _folders(name, data_source, category):
    return {
        "data_source": data_source,
        "train_split": f"splits/{category}_train.json",
        "val_split": f"splits/{category}_test.json",
        "test_split": f"splits/{category}_test.json",
        "output_dir": f"../output/{name}",
        "reconstruction_output_dir": f"../output/{name}/reconstructions",
    }


# The original experiments on ShapeNet, with their original values.

_RELU = {
    "network": "relu",
    "hidden_layers": 8,
    "hidden_features": 512,
    "num_meta_steps": 5,
    "lr_type": "per_parameter",
    "init_lr": 5e-3,
    "SDFSamplesPerScene": 24000,
    "ScenesPerBatch": 32,
    "lr": 5e-4,
    "num_epochs": 3000,
    "training_mode": "multitask",
    "context_mode": "dense",
}

_PE = {
    **_RELU,
    "network": "pe",
    "hidden_layers": 6,
    "num_meta_steps": 3,
    "lr_type": "simple_per_parameter",
    "SDFSamplesPerScene": 8000,
    "ScenesPerBatch": 28,
}

planes_relu = {**_folders("planes_relu", "../data", "planes"), **_RELU}
tables_relu = {**_folders("tables_relu", "../data", "tables"), **_RELU}
benches_relu = {**_folders("benches_relu", "../data", "benches"), **_RELU}
planes_pe = {**_folders("planes_pe", "../data", "planes"), **_PE}
tables_pe = {**_folders("tables_pe", "../data", "tables"), **_PE}
benches_pe = {**_folders("benches_pe", "../data", "benches"), **_PE}
benches_debug = {
    **_folders("benches_debug", "../data", "benches"),
    **_PE,
    "ScenesPerBatch": 32,
    "lr": 1e-3,
}

# What the paper compares with, on the data of planes_relu. DeepSDF with its published values.

_DEEPSDF = {
    "method": "autodecoder",
    "network": "relu",
    "hidden_layers": 7,
    "hidden_features": 512,
    "latent_features": 256,
    "dropout": 0.2,
    "training_mode": "l1",
    "clamp": 0.1,
    "lr": 5e-4,
    "code_lr": 1e-3,
    "lr_decay_epochs": 500,
    "code_steps": 800,
}

planes_autodecoder = {
    **_folders("planes_autodecoder", "../data", "planes"),
    **_DEEPSDF,
    "SDFSamplesPerScene": 16384,
    "ScenesPerBatch": 64,
    "num_epochs": 2000,
    "validate_every": 500,  # fits 800 steps for each test shape
}
planes_set_concat = {
    **planes_relu,
    **_folders("planes_set_concat", "../data", "planes"),
    "method": "set_concat",
    "latent_features": 256,
}
planes_set_hyper = {
    **planes_set_concat,
    **_folders("planes_set_hyper", "../data", "planes"),
    "method": "set_hyper",
    "lr": 1e-4,  # every weight of the field moves with all of its hypernetwork's
}

# Small SIRENs, minutes on a CPU. docs/training.md measures the choices.

_SIREN = {
    "network": "siren",
    "hidden_layers": 3,
    "hidden_features": 128,
    "w0": 10.0,
    "num_meta_steps": 5,
    "lr_type": "per_parameter",
    "init_lr": 1e-3,
    "training_mode": "multitask",
    "surface": "logit",  # smooth, where the original's is a staircase
}
_LEARNS_FAST = {
    "init_lr": 3e-3,
    "extra_step_factor": 0.8,  # or steps beyond those of training do harm from level sets
    "sharpness": 100.0,
    "query": "held_out",
    "SDFSamplesPerScene": 1024,
    "ScenesPerBatch": 4,
    "lr": 1e-3,
    "lr_schedule": "cosine",
    "warmup_steps": 100,
    "gradient_norm": 1.0,
}
_DEMO = {
    "data_source": "../output/demo/data",
    "train_split": "../output/demo/data/splits/tables_train.json",
    "val_split": "../output/demo/data/splits/tables_test.json",
    "test_split": "../output/demo/data/splits/tables_test.json",
    "validate_every": 6,
    "reconstruction_sdf_samples": 20000,
    "reconstruction_steps": 8,
    "resolution": 96,
}

# The demo: procedural tables.
tables_tiny = {
    **_SIREN,
    **_LEARNS_FAST,
    **_DEMO,
    "output_dir": "../output/demo/tables_tiny",
    "reconstruction_output_dir": "../output/demo/reconstructions",
    "num_epochs": 28,
    "refine": 3.0,
}

# The same from points on the surface alone: a scan without normals will do.
tables_levelset = {
    **tables_tiny,
    "output_dir": "../output/tables_levelset",
    "reconstruction_output_dir": "../output/tables_levelset/reconstructions",
    "context_mode": "levelset",
    "query": "all",
    "LevelsetSamplesPerScene": 512,
    "reconstruction_levelset_samples": 2048,
    "reconstruction_steps": 20,
}

# The models that come with the package (`make models`). "general": shapes of every kind in any
# rotation; "tables", "chairs": y up. Refined, weights alone come out best; docs/local.md.


def _model(name, category, **values):
    return {
        **_SIREN,
        **_LEARNS_FAST,
        "data_source": "../output/models/data",
        "train_split": f"../output/models/data/splits/{category}_train.json",
        "val_split": f"../output/models/data/splits/{category}_test.json",
        "test_split": f"../output/models/data/splits/{category}_test.json",
        "output_dir": f"../output/models/{name}",
        "reconstruction_output_dir": f"../output/models/{name}/reconstructions",
        "lr": 5e-4,  # from 1e-3 a training of `general_local` diverged half way
        "validate_every": 5,
        "reconstruction_sdf_samples": 20000,
        "reconstruction_steps": "auto",
        "resolution": 128,
        "refine": 3.0,
        **values,
    }


_OF_POINTS = {
    "query": "all",
    "SDFSamplesPerScene": 768,
    "LevelsetSamplesPerScene": 512,
    "augment_noise": 0.01,
}
_ONE_SIDED = {
    **_OF_POINTS,
    "context_mode": "partial",
    "augment_frame": 0.5,
    "reconstruction_steps": None,  # what is seen says nothing of further steps
}

general = _model("general", "general", num_epochs=26)  # of 200 steps
general_levelset = _model(
    *("general_levelset", "all"),
    **_OF_POINTS,
    augment_rotation=True,  # tables and chairs, too, stand in no particular way
    context_mode="levelset",
    num_epochs=8,
)
tables = _model("tables", "tables", num_epochs=50)  # of 100 steps
tables_partial = _model("tables_partial", "tables", **_ONE_SIDED, num_epochs=50)
chairs = _model("chairs", "chairs", num_epochs=50)

# Latents on grids are adapted along with the weights: without refinement, in milliseconds, it comes
# nearest, also on kinds of shapes that were not trained on. docs/local_choices.md measures choices.
general_local = _model("general_local", "general", adapted="both", num_epochs=20, refine=0.0)

# The demo as the paper trains: the base of benchmarks/speed.py and experiments/ablations.py.
tables_plain = {
    **_SIREN,
    **_DEMO,
    "output_dir": "../output/tables_plain",
    "reconstruction_output_dir": "../output/tables_plain/reconstructions",
    "SDFSamplesPerScene": 1024,
    "ScenesPerBatch": 8,
    "lr": 5e-4,
    "num_epochs": 52,
    "lr_decay_epochs": 40,
    "lr_decay_factor": 0.2,
}

# For benchmarks/speed.py: the original values on the demo's data, with the demo's smaller network
# and batches, and what gets as far in a fraction of the time.
_SMALL = {
    **tables_plain,
    "num_epochs": 3000,
    "lr_decay_epochs": 350,
    "lr_decay_factor": 0.5,
}
_SMALL_SIZES = {key: _SMALL[key] for key in ("hidden_layers", "hidden_features", "ScenesPerBatch")}
tables_relu_small = {**_SMALL, **_RELU, **_SMALL_SIZES, "SDFSamplesPerScene": 1024}
tables_pe_small = {**_SMALL, **_PE, **_SMALL_SIZES, "SDFSamplesPerScene": 1024}
tables_fast = {
    **tables_plain,
    "output_dir": "../output/tables_fast",
    "reconstruction_output_dir": "../output/tables_fast/reconstructions",
    "lr_schedule": "cosine",
    "lr": 1e-3,
    "num_epochs": 10,
}

# The demo's recipe for the planes of planes_pe; how well it ends there is not measured yet.
planes_fast = {
    **_folders("planes_fast", "../data", "planes"),
    **_SIREN,
    **_LEARNS_FAST,
    "SDFSamplesPerScene": 2048,
    "num_epochs": 60,
}

# PartNet's tables and chairs as unions of cuboids: `python -m experiments.partnet FOLDER --out
# output/partnet` makes the data. As many shapes as the paper has; for a GPU.
_PARTNET = {
    **_SIREN,
    **_LEARNS_FAST,
    "adapted": "both",
    "hidden_features": 256,
    "latent_grids": "8,32,64",
    "SDFSamplesPerScene": 4096,
    "ScenesPerBatch": 16,
    "lr": 5e-4,
    "num_epochs": 40,
    "reconstruction_steps": "auto",
    "resolution": 128,
}
partnet_tables = {**_folders("partnet_tables", "../output/partnet/data", "tables"), **_PARTNET}
partnet_chairs = {**_folders("partnet_chairs", "../output/partnet/data", "chairs"), **_PARTNET}

# Every method at the same small size: experiments/compare_3d.py trains each for the same time and
# sets data and epochs. Step sizes and sizes of latent codes are what did best in short trials.


def _compare(method, **values):
    return {
        **tables_plain,
        "data_source": "../output/compare/procedural/data",
        "train_split": "../output/compare/procedural/data/splits/all_train.json",
        "val_split": "../output/compare/procedural/data/splits/all_test.json",
        "test_split": "../output/compare/procedural/data/splits/all_test.json",
        "output_dir": f"../output/compare_{method}",
        "reconstruction_output_dir": f"../output/compare_{method}/reconstructions",
        "method": method,
        "LevelsetSamplesPerScene": 512,
        "reconstruction_sdf_samples": 4096,
        "reconstruction_levelset_samples": 2048,
        "reconstruction_steps": None,
        "resolution": 72,
        **values,
    }


compare_metasdf = _compare(
    "metasdf",
    **_LEARNS_FAST,
    reconstruction_steps="auto",
    refine=2.0,  # as long as the auto-decoder takes to fit a code
)
compare_autodecoder = _compare(
    "autodecoder",
    network="relu",  # DeepSDF's network and loss, narrower
    training_mode="l1",
    clamp=0.1,
    latent_features=32,
    dropout=0.0,  # 128 features are few enough
    lr=1e-3,
    code_lr=2e-3,
    code_steps=800,
    code_points=1024,
)
compare_set_concat = _compare("set_concat", latent_features=64, lr=3e-4)
compare_set_hyper = _compare("set_hyper", network="pe", latent_features=64, lr=3e-4)

# Eight planes of ShapeNet, six to train on: not enough to learn planes, enough to try real data.
planes8 = {
    **_folders("planes8", "../data", "planes8"),
    **_SIREN,
    **_LEARNS_FAST,
    "ScenesPerBatch": 6,
    "num_epochs": 520,
    "validate_every": 50,
    "reconstruction_steps": 20,
    "refine": 5.0,
    "resolution": 128,
}
