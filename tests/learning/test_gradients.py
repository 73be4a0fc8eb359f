"""Precision and compilation change how gradients are computed, not what they are."""

import pytest
import torch

from conftest import sphere_curriculum
from metasdf.api import train, training_tasks
from metasdf.data.tasks import collate
from metasdf.errors import InputError
from metasdf.learning.checkpoints import load_checkpoint
from metasdf.learning.curriculum import load_curriculum
from metasdf.learning.gradients import MetaGradients, computed_in
from metasdf.learning.loop import accumulate
from metasdf.learning.models import build_model

CPU = torch.device("cpu")
METHODS = ("metasdf", "set_concat", "set_hyper")
COMPILED = ("float32", True)  # precision, and whether the step is compiled


@pytest.fixture(scope="module", autouse=True)
def caches_of_its_own(tmp_path_factory):
    """The compiler keeps what it has compiled; nothing of that must come from other runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture
def batch(spheres):
    return a_batch(spheres)


def curriculum(spheres, **keys):
    return sphere_curriculum(spheres, spheres / "unused", num_meta_steps=2, **keys)


def a_batch(spheres, tasks=2):
    data = training_tasks(curriculum(spheres)).train
    return collate([data.task(index, 0) for index in range(tasks)])


def gradients_of(spheres, how, batch, scenes=None, **keys):
    return gradients_for(curriculum(spheres, **keys), how, batch, scenes)


def gradients_for(options, how, batch, scenes=None):
    torch.manual_seed(0)
    model = build_model(options).train()
    loss, score = accumulate(MetaGradients(model, *how), batch, scenes)
    zero = torch.zeros(())
    of_weights = [zero if p.grad is None else p.grad for p in model.parameters()]
    return loss.item(), score.item(), of_weights


def assert_alike(one, other, tolerance):
    assert one[0] == pytest.approx(other[0], rel=tolerance)
    assert one[1] == pytest.approx(other[1], abs=100 * tolerance)
    scale = max(g.abs().max() for g in one[2])
    for a, b in zip(one[2], other[2], strict=True):
        assert (a - b).abs().max() <= tolerance * scale


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_step_has_the_same_gradients(method, spheres, batch):
    plain = gradients_of(spheres, (), batch, method=method)
    compiled = gradients_of(spheres, COMPILED, batch, method=method)
    assert_alike(plain, compiled, 1e-5)


@pytest.mark.parametrize("keys", [{"latent_grids": "2,5"}, {"latent_points": 6}], ids=str)
def test_a_compiled_step_of_local_fields_has_the_same_gradients(keys, spheres, batch):
    keys = {"adapted": "both", "network": "siren", "w0": 3.0, **keys}
    plain, compiled = (gradients_of(spheres, how, batch, **keys) for how in ((), COMPILED))
    assert_alike(plain, compiled, 1e-5)


@pytest.mark.parametrize("method", ["digits_metasdf_siren", "digits_cnn_hyper"])
def test_a_compiled_step_of_digits_has_the_same_gradients(method, tmp_path):
    keys = {
        "data_source": "embedded",
        "context_mode": "levelset",
        "contour_points": 32,
        "query_pixels": 16,
        "hidden_features": 8,
        "latent_features": 4,
        "num_meta_steps": 2,
        "output_dir": str(tmp_path),
    }
    options = load_curriculum(method, keys)
    data = training_tasks(options).train
    plain, compiled = (gradients_for(options, how, data.batch(0, 0)) for how in ((), COMPILED))
    assert_alike(plain, compiled, 1e-5)


def test_a_compiled_step_follows_weights_and_batches(spheres):
    """Not those it was compiled with; micro-batches add up, other shapes are computed as usual."""
    torch.manual_seed(0)
    model = build_model(curriculum(spheres)).train()
    compiled, plain = MetaGradients(model, compiled=True), MetaGradients(model)
    for tasks, seed, scenes in ((2, 0, None), (2, 1, None), (4, 2, 2), (3, 3, 2)):
        data = training_tasks(curriculum(spheres, seed=seed)).train
        batch = collate([data.task(index % data.length, 0) for index in range(tasks)])
        with torch.no_grad():
            for p in model.parameters():
                p += 1e-3 * torch.randn_like(p)
        results = []
        for gradients, parts in ((compiled, scenes), (plain, None)):
            model.zero_grad()
            loss, score = accumulate(gradients, batch, parts)
            results.append((loss.item(), score.item(), [p.grad for p in model.parameters()]))
        assert_alike(*results, 1e-5)


def test_a_compiled_step_belongs_to_its_model(spheres, batch):
    """Two models of different sizes each have the program and the gradients of their own."""
    for width in (8, 16):
        keys = {"hidden_features": width}
        compiled = gradients_of(spheres, COMPILED, batch, **keys)
        assert_alike(gradients_of(spheres, (), batch, **keys), compiled, 1e-5)


@pytest.mark.parametrize("keys", [{}, {"recompute_steps": True}, {"method": "set_concat"}])
def test_bfloat16_is_near_and_is_used(keys, spheres, batch):
    exact = gradients_of(spheres, (), batch, **keys)
    rounded = gradients_of(spheres, ("bfloat16",), batch, **keys)
    assert exact[0] != rounded[0]
    assert all(g.dtype == torch.float32 for g in rounded[2])
    assert_alike(exact, rounded, 0.1)
    of_exact, of_rounded = (torch.cat([g.flatten() for g in r[2]]) for r in (exact, rounded))
    assert torch.cosine_similarity(of_exact, of_rounded, dim=0) > 0.99


def test_recomputed_inner_steps_are_rounded_as_the_first_time(spheres, batch):
    how = ("bfloat16",)
    kept = gradients_of(spheres, how, batch)
    again = gradients_of(spheres, how, batch, recompute_steps=True)
    assert_alike(kept, again, 1e-5)


def test_a_precision_holds_for_what_it_is_asked_for_only():
    before = torch.get_float32_matmul_precision()
    with computed_in("tf32", CPU):
        assert torch.get_float32_matmul_precision() == "high"
    with pytest.raises(ZeroDivisionError), computed_in("tf32", CPU):
        _ = 1 / 0
    assert torch.get_float32_matmul_precision() == before
    with computed_in("bfloat16", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize("keys", [{"compile": True}, {"precision": "bfloat16"}])
def test_training_takes_the_keys(keys, spheres, tmp_path):
    weights = []
    for folder, chosen in (("plain", {}), ("chosen", keys)):
        options = sphere_curriculum(spheres, tmp_path / folder, num_epochs=2, **chosen)
        train(options, device="cpu")
        state = load_checkpoint(tmp_path / folder / "checkpoints" / "latest.pth")
        weights.append(torch.cat([t.flatten() for t in state["model"].values()]))
    assert not torch.equal(*weights)
    assert (weights[0] - weights[1]).abs().max() < 0.05


@pytest.mark.parametrize(
    ("keys", "message"),
    [({"method": "autodecoder"}, "autodecoder cannot"), ({"recompute_steps": True}, "not with")],
)
def test_what_cannot_be_compiled_is_an_error(keys, message, spheres):
    with pytest.raises(InputError, match=f"compile: .*{message}"):
        build_model(curriculum(spheres, compile=True, **keys), 4)


def test_a_python_that_cannot_compile_is_told(spheres, batch, monkeypatch):
    def refused(*_, **__):
        raise RuntimeError("not supported")

    monkeypatch.setattr(torch, "compile", refused)
    with pytest.raises(InputError, match=r"^compile: .*\(not supported\); train without$"):
        gradients_of(spheres, COMPILED, batch)


def test_a_compiler_that_does_not_work_is_told(spheres, batch, monkeypatch):
    def broken(*_, **__):
        def program(*_):
            raise RuntimeError("no compiler found\nand much more")

        return program

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(InputError, match=r"^compile: .*\(no compiler found\); train without$"):
        gradients_of(spheres, COMPILED, batch)
