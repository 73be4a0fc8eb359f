"""The curriculums in 2D: what to train, on what and how.

Keys and defaults: metasdf/learning/curriculum.py.

Relative paths are relative to this folder. Any key can be overridden on the command line.
"""


def _common(name, data):
    return {
        "data": data,
        "cache": "../data",
        "output_dir": f"../output/2D/{name}",
        "num_meta_steps": 3,
        "training_mode": "l2",
        "outer_loss": "l2",
        "lr_decay_epochs": 10**6,
    }


# The paper's experiment on MNIST, with its original values: 64x64 pixels, half of them context.

_DIGITS = {
    "network": "relu",
    "hidden_layers": 2,
    "hidden_features": 256,
    "lr_type": "global",
    "init_lr": 0.1,
    "lr": 1e-4,
    "ScenesPerBatch": 16,
    "images_per_epoch": 1600,
    "num_epochs": 375,  # ten times all of MNIST
    "distance": "original",
}

mnist = {**_common("mnist", "digits"), **_DIGITS}
mnist_levelset = {
    **_common("mnist_levelset", "digits"),
    **_DIGITS,
    "context_mode": "levelset",
}

# Every method on the same digits, minutes on a CPU: experiments/reproduce_2d.py trains each for the
# same time. Distances are exact. Fields are ReLU networks with positional encoding, and some of the
# methods once more with SIRENs. Training minimises what is reported, the mean absolute error. Step
# sizes are what did best in short trials.


def _compare(method, **values):
    name = f"digits_{method}"
    return {
        **_common(name, "digits"),
        **_DIGITS,
        "method": method,
        "network": "pe",
        "frequencies": 4,
        "hidden_layers": 3,
        "hidden_features": 64,
        "distance": "exact",
        "query_pixels": 512,
        "contour_points": 256,
        "lr": 1e-3,
        "latent_features": 64 if method.endswith("hyper") else 256,
        "images_per_epoch": 320,
        "num_epochs": 45,
        "outer_loss": "l1",
        "lr_schedule": "cosine",
        **values,
    }


digits_metasdf = _compare(
    "metasdf",
    lr_type="per_parameter",
    num_meta_steps=4,
    ScenesPerBatch=4,  # in the same time many small steps do better
    pixels=512,
    query_pixels=256,
)
digits_autodecoder_concat = _compare(
    "autodecoder_concat", train_images=1000, code_steps=200, code_points=512
)
digits_autodecoder_hyper = _compare(
    "autodecoder_hyper", lr=3e-4, train_images=1000, code_steps=200, code_points=512
)
digits_cnn_concat = _compare("cnn_concat")
digits_cnn_hyper = _compare("cnn_hyper", lr=3e-4)
digits_set_concat = _compare("set_concat", pixels=1024)  # a context of 2048 is slow to read
digits_set_hyper = _compare("set_hyper", lr=3e-4, pixels=1024)


def _siren(digits, name, **values):
    return {
        **digits,
        "network": "siren",
        "w0": 15.0,
        "output_dir": f"../output/2D/{name}",
        **values,
    }


digits_metasdf_siren = _siren(
    digits_metasdf,
    "digits_metasdf_siren",
    init_lr=0.02,
    # Inside everywhere at first: those that start outside fail on some digits of new kinds.
    init_bias=-0.35,
    lr=2e-3,
    ScenesPerBatch=8,
)
digits_cnn_concat_siren = _siren(digits_cnn_concat, "digits_cnn_concat_siren")
digits_set_concat_siren = _siren(digits_set_concat, "digits_set_concat_siren")

# Photographs as SIRENs in three steps, with the original values; then with ours.

_PHOTOGRAPHS = {
    "network": "siren",
    "hidden_layers": 3,
    "hidden_features": 128,
    "w0": 30.0,
    "lr_type": "per_parameter",
    "query": "all",
    "images_per_epoch": 800,
}

cifar_original = {
    **_common("cifar_original", "photographs"),
    **_PHOTOGRAPHS,
    "init_lr": 1e-5,
    "lr": 5e-5,
    "ScenesPerBatch": 32,
    "num_epochs": 100,
}
cifar = {
    **_common("cifar", "photographs"),
    **_PHOTOGRAPHS,
    "init_lr": 3e-2,
    "lr": 5e-4,
    "ScenesPerBatch": 8,
    "num_epochs": 13,
}
cifar_relu = {**cifar, **_common("cifar_relu", "photographs"), "network": "relu"}
cifar_pe = {**cifar, **_common("cifar_pe", "photographs"), "network": "pe", "frequencies": 6}
