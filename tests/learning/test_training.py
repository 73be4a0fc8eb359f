"""The outer loop learns, saves all it needs, and goes on as if never stopped."""

import pickle
import signal
import subprocess
import sys
import time

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from conftest import ROOT, sphere_arguments
from conftest import sphere_curriculum as curriculum
from metasdf.data.tasks import SDFDataset, collate
from metasdf.errors import InputError
from metasdf.learning import training
from metasdf.learning.checkpoints import load_checkpoint, save_checkpoint
from metasdf.learning.curriculum import METHODS
from metasdf.learning.gradients import MetaGradients
from metasdf.learning.loop import accumulate, decay, outer_loop, outer_step, validate
from metasdf.learning.model_files import load_model
from metasdf.learning.models import build_model
from metasdf.learning.training import shape_tasks, untrained, usable_split
from metasdf.learning.training import train as train_on

CPU = torch.device("cpu")


def train(options, device=CPU, **keys):
    return train_on(options, lambda: shape_tasks(options), device, **keys)


def weights(output):
    return load_checkpoint(output / "checkpoints" / "latest.pth")["model"]


def assert_same(a, b):
    assert list(a) == list(b)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_learns_spheres_it_has_not_seen(spheres, tmp_path):
    options = curriculum(spheres, tmp_path, num_epochs=90, lr=2e-3, validate_every=90)
    samples, _ = usable_split(options, "val_split")
    data = SDFDataset(samples, options, stream=1)
    torch.manual_seed(options["seed"])
    untrained = build_model(options)
    before, wrong_before = validate(untrained, data, CPU)
    assert train(options, CPU).left_out == 0
    model = load_model(tmp_path / "checkpoints" / "latest.pth")
    after, wrong_after = validate(model, data, CPU)
    assert after < 0.6 * before
    assert wrong_after < 0.5 * wrong_before
    assert wrong_after < 8


def test_training_in_memory_gives_the_same_weights_and_writes_nothing(spheres, tmp_path, capsys):
    options = curriculum(spheres, tmp_path / "out", num_epochs=3, lr_decay_epochs=2)
    result = train(options, save=False)
    model, losses = result.model, result.losses
    assert not (tmp_path / "out").exists()
    assert not model.training
    assert len(losses) == 3 * 2
    assert result.checkpoint is None
    assert model.curriculum == options
    assert capsys.readouterr().out == ""
    train(options, CPU)
    assert_same(model.state_dict(), weights(tmp_path / "out"))


LOCAL = {"adapted": "both", "latent_grids": "2,4", "augment_rotation": True, "augment_noise": 0.01}


@pytest.mark.parametrize("keys", [*({"method": name} for name in METHODS), LOCAL], ids=str)
def test_resumed_training_gives_the_same_weights_as_uninterrupted(spheres, tmp_path, keys):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    keys = {"dropout": 0.5, "code_steps": 2, **keys}  # dropout draws random numbers
    train(curriculum(spheres, straight, **keys), CPU)
    train(curriculum(spheres, resumed, **keys, num_epochs=2), CPU)
    half = weights(resumed)
    torch.manual_seed(99)  # whatever was drawn in between does not matter
    train(curriculum(spheres, resumed, **keys), CPU, load=True)
    assert_same(weights(resumed), weights(straight))
    assert any(not torch.equal(half[name], value) for name, value in weights(resumed).items())


def test_a_run_along_a_cosine_goes_on_to_the_same_weights_or_is_refused(
    spheres, tmp_path, monkeypatch
):
    options = {
        name: curriculum(spheres, tmp_path / name, lr_schedule="cosine", num_epochs=4)
        for name in ("straight", "stopped")
    }
    train(options["straight"], CPU)
    save = training.save_checkpoint

    def stop_after_two(path, state):
        save(path, state)
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train(options["stopped"], CPU)
    monkeypatch.undo()
    longer = {**options["stopped"], "num_epochs": 8}
    with pytest.raises(InputError, match="num_epochs = 4; or choose lr_schedule steps"):
        train(longer, CPU, load=True)
    train(options["stopped"], CPU, load=True)
    assert_same(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))
    train({**longer, "lr_schedule": "steps"}, CPU, load=True)


def test_a_killed_run_goes_on_to_the_same_weights(spheres, tmp_path):
    script = [sys.executable, ROOT / "3D" / "scripts" / "run_train.py", "tables_tiny"]
    killed = sphere_arguments(spheres, tmp_path / "killed", num_epochs=40)
    process = subprocess.Popen([*script, *killed], stdout=subprocess.DEVNULL)
    latest = tmp_path / "killed" / "checkpoints" / "latest.pth"
    while process.poll() is None and not latest.exists():
        time.sleep(0.005)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    epoch = load_checkpoint(latest)["epoch"]
    assert 0 < epoch < 40, "the run was not interrupted in its midst"
    train(curriculum(spheres, tmp_path / "killed", num_epochs=40), CPU, load=True)
    train(curriculum(spheres, tmp_path / "straight", num_epochs=40), CPU)
    assert_same(weights(tmp_path / "killed"), weights(tmp_path / "straight"))


@pytest.mark.parametrize("mode", ["levelset", "dense"])
@pytest.mark.parametrize("network", ["relu", "pe", "siren"])
def test_every_network_trains_in_every_mode(spheres, tmp_path, network, mode):
    options = curriculum(spheres, tmp_path, network=network, context_mode=mode, num_epochs=1)
    assert train(options, CPU).left_out == 0
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def test_losses_are_logged_under_the_originals_tags(spheres, tmp_path):
    train(curriculum(spheres, tmp_path, num_epochs=3, validate_every=1), CPU)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    steps = {tag: [e.step for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert steps == {
        "Loss/Train": [0, 1, 2, 3, 4, 5],
        "Misclassified Percentage/Train": [0, 1, 2, 3, 4, 5],
        "Loss/Val": [1, 3, 5],
        "Misclassified Percentage/Val": [1, 3, 5],
    }


def test_numbered_checkpoints_stay_and_rebuild_themselves(spheres, tmp_path):
    train(curriculum(spheres, tmp_path, checkpoint_every=2), CPU)
    folder = tmp_path / "checkpoints"
    assert sorted(file.name for file in folder.iterdir()) == ["0002.pth", "0004.pth", "latest.pth"]
    model = load_model(folder / "0002.pth")
    saved = model.curriculum
    assert saved["hidden_features"] == 32
    assert not model.training
    assert load_checkpoint(folder / "0002.pth")["epoch"] == 2


def test_meta_gradients_are_clipped_by_value_and_adam_takes_the_step(spheres, tmp_path):
    options = curriculum(spheres, tmp_path)
    samples, _ = usable_split(options, "train_split")
    data = SDFDataset(samples, options)
    model = build_model(options)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    before = [p.detach().clone() for p in model.parameters()]
    outer_step(MetaGradients(model), optimizer, collate([data.task(0, 0)]), gradient_clip=1e-4)
    moved = [(p.detach() - q).abs().max() for p, q in zip(model.parameters(), before, strict=True)]
    assert max(moved).item() == pytest.approx(1e-4, rel=0.01)


def test_meta_gradients_are_clipped_by_norm_where_the_curriculum_says_so(spheres, tmp_path):
    for norm in (1e-2, 1e-3):
        options = curriculum(spheres, tmp_path, gradient_norm=norm)
        tasks = shape_tasks(options).train
        model, _ = untrained(options, 4, CPU)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        before = [p.detach().clone() for p in model.parameters()]
        next(outer_loop(model, optimizer, tasks, options))
        pairs = zip(model.parameters(), before, strict=True)
        moved = torch.cat([(p.detach() - q).flatten() for p, q in pairs])
        assert moved.norm().item() / options["lr"] == pytest.approx(norm, rel=0.01)


def test_step_sizes_rise_over_the_steps_of_the_warm_up(spheres, tmp_path):
    options = curriculum(spheres, tmp_path, warmup_steps=5, lr=1e-3, num_epochs=4)
    tasks = shape_tasks(options).train
    assert tasks.batches_per_epoch == 2
    model, optimizer = untrained(options, 4, CPU)
    steps = outer_loop(model, optimizer, tasks, options, num_epochs=4)
    rates = [optimizer.param_groups[0]["lr"] for _ in steps]
    assert rates == pytest.approx([1e-3 * min(1, n / 5) for n in range(1, 9)])
    # A run that goes on counts its steps from the very first.
    model, optimizer = untrained(options, 4, CPU)
    steps = outer_loop(model, optimizer, tasks, options, first_epoch=1, num_epochs=2)
    assert [optimizer.param_groups[0]["lr"] for _ in steps] == pytest.approx([6e-4, 8e-4])


def test_the_outer_decay_is_halved_on_schedule(spheres, tmp_path):
    options = curriculum(spheres, tmp_path, lr_decay_epochs=2, lr=1e-3)
    assert [decay(options, epoch) for epoch in range(5)] == [1, 1, 1 / 2, 1 / 2, 1 / 4]
    train(options, CPU)
    state = load_checkpoint(tmp_path / "checkpoints" / "latest.pth")
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(1e-3 / 2)


def test_a_step_without_finite_gradient_leaves_the_weights_alone(spheres, tmp_path):
    options = curriculum(spheres, tmp_path)
    train(options, CPU)
    before = weights(tmp_path)
    with pytest.raises(InputError, match="no finite meta-gradient in 2 of 2 steps"):
        train(curriculum(spheres, tmp_path, training_mode="l2", init_lr=1e30), CPU, overwrite=True)
    assert_same(weights(tmp_path), before)


def test_finished_work_is_not_overwritten_unasked(spheres, tmp_path):
    options = curriculum(spheres, tmp_path, num_epochs=1)
    train(options, CPU)
    with pytest.raises(InputError, match=r"--load.*--overwrite"):
        train(options, CPU)
    train(options, CPU, overwrite=True)


def test_a_checkpoint_of_another_network_is_refused_by_key(spheres, tmp_path):
    train(curriculum(spheres, tmp_path, num_epochs=1), CPU)
    other = curriculum(spheres, tmp_path, hidden_features=16)
    with pytest.raises(InputError, match="hidden_features = 32, not 16"):
        train(other, CPU, load=True)


def test_a_checkpoint_older_than_a_key_counts_as_having_its_default(spheres, tmp_path):
    train(curriculum(spheres, tmp_path, num_epochs=1), CPU)
    latest = tmp_path / "checkpoints" / "latest.pth"
    state = load_checkpoint(latest)
    del state["curriculum"]["method"], state["train_shapes"]
    save_checkpoint(latest, state)
    assert load_model(latest).curriculum["method"] == "metasdf"
    train(curriculum(spheres, tmp_path, num_epochs=2), CPU, load=True)
    assert load_checkpoint(latest)["epoch"] == 2


def test_a_broken_shape_is_left_out_by_name_and_counted(spheres, tmp_path, caplog):
    split = tmp_path / "train.json"
    split.write_text('{"made": {"spheres": ["a", "absent", "b"]}}')
    options = curriculum(spheres, tmp_path, train_split=split, num_epochs=1)
    assert train(options, CPU).left_out == 1
    error = caplog.text
    assert "left out: made/spheres/absent" in error
    assert "1 of 3 shapes left out" in error


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from a checkpoint was executed')",))


@pytest.mark.parametrize(
    "content", [b"", b"no checkpoint", pickle.dumps(Harmful(), 2), pickle.dumps({}, 2)]
)
def test_a_file_that_is_no_checkpoint_is_refused_and_never_executed(tmp_path, content):
    file = tmp_path / "latest.pth"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"latest\.pth"):
        load_model(file)


def test_a_pickled_module_is_refused(tmp_path):
    torch.save({"format": 1, "model": torch.nn.Linear(2, 2)}, tmp_path / "module.pth")
    with pytest.raises(InputError, match="no checkpoint of ours"):
        load_model(tmp_path / "module.pth")


@pytest.mark.parametrize("scenes", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(
    ("method", "mode"),
    [
        ("metasdf", "multitask"),
        ("metasdf", "l2"),
        ("autodecoder", "multitask"),
        ("autodecoder", "l1"),
        ("set_concat", "multitask"),
        ("set_hyper", "l1"),
    ],
)
def test_microbatches_give_the_whole_batchs_loss_and_gradients(
    method, mode, scenes, spheres, tmp_path
):
    keys = {"method": method, "training_mode": mode, "dropout": 0.0}
    options = curriculum(spheres, tmp_path, **keys)
    samples, _ = usable_split(options, "train_split")
    data = SDFDataset(samples, options)
    batch = {**collate([data.task(i, 0) for i in range(4)]), "index": torch.arange(4), "epoch": 0}
    batch["query"][1][0, :7] = -1.0  # of unknown distance: other tasks have more that count
    found = []
    for parts in (None, scenes):
        torch.manual_seed(0)
        model = build_model(options, 4).train()
        loss, score = (v.item() for v in accumulate(MetaGradients(model), batch, parts))
        found.append((loss, score, {n: p.grad for n, p in model.named_parameters()}))
    (loss, score, whole), (loss_of_parts, score_of_parts, parts) = found
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert score_of_parts == pytest.approx(score, rel=1e-5)
    assert any(gradient is not None and gradient.any() for gradient in whole.values())
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-6)


def test_training_in_microbatches_with_recomputed_steps_ends_at_the_same_weights(spheres, tmp_path):
    keys = {"num_epochs": 2, "SDFSamplesPerScene": 64}
    train(curriculum(spheres, tmp_path / "plain", **keys), CPU)
    less = {"scenes_per_microbatch": 1, "recompute_steps": True}
    train(curriculum(spheres, tmp_path / "less", **keys, **less), CPU)
    plain = weights(tmp_path / "plain")
    for name, value in weights(tmp_path / "less").items():
        torch.testing.assert_close(value, plain[name], rtol=1e-3, atol=1e-5)


def test_the_outer_step_size_falls_along_a_cosine_to_nothing(spheres, tmp_path):
    options = curriculum(spheres, tmp_path, lr_schedule="cosine", num_epochs=4)
    factors = [decay(options, epoch) for epoch in range(5)]
    assert factors == pytest.approx([1, (2 + 2**0.5) / 4, 1 / 2, (2 - 2**0.5) / 4, 0])
