"""Steps that stop where they no longer help, refinement, and what held-out points say."""

import numpy as np
import pytest
import torch

from conftest import sphere_curriculum
from metasdf.api import train
from metasdf.data.names import read_split
from metasdf.errors import InputError
from metasdf.geometry.grid import extract_mesh
from metasdf.learning.curriculum import KEYS
from metasdf.losses import CompositeLoss, DistanceLoss
from metasdf.maml import MetaSDF
from metasdf.method import Method
from metasdf.networks import CoordinateNetwork
from metasdf.reconstruction.adaptation import MOST_STEPS, PATIENCE, TRUSTED, adapt, fit_and_mesh
from metasdf.reconstruction.fitting import held_out_task, reconstruct_shape
from metasdf.reconstruction.judging import HeldOut, Judge, held_out_count
from metasdf.reconstruction.refining import refine

CPU = torch.device("cpu")
RADIUS = 0.6


def ball(x):
    return x.norm(dim=-1, keepdim=True) - RADIUS


def task(count, seed=0, dense=True):
    """Points of a ball [1, n, 3] with distances [1, n, 1]; on its surface unless dense."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, count, 3, generator=generator) * 2 - 1
    return (x, ball(x)) if dense else (RADIUS * x / x.norm(dim=-1, keepdim=True), ball(x) * 0)


class Growing(Method):
    """A ball that gets larger with each step, 0.1 at a time, and so right after 5 of them."""

    loss, num_steps = DistanceLoss("l1"), 3

    def adapt(self, context, num_steps=None):
        return torch.tensor([0.1 + 0.1 * (self.num_steps if num_steps is None else num_steps)])

    def trajectory(self, context, num_steps=None):
        for step in range(num_steps + 1):
            yield self.adapt(context, step)

    def predict(self, x, fields):
        return x.norm(dim=-1, keepdim=True) - fields


class AtOnce(Growing):
    """The same that does not fit step by step."""

    trajectory = Method.trajectory


def judge_of(model, dense=True):
    mode = "dense" if dense else "levelset"
    return Judge(model, HeldOut.of(task(200, 1, dense), task(2000, 0, dense), mode), CPU)


@pytest.mark.parametrize("dense", [True, False])
def test_automatic_steps_end_with_the_best_field(dense):
    model = Growing()
    shares = []
    fields, steps = adapt(
        model, task(2000), "auto", judge_of(model, dense), lambda stage, share: shares.append(share)
    )
    assert (steps, fields.item()) == (5, pytest.approx(RADIUS))
    assert shares == pytest.approx(np.arange(5 + PATIENCE + 1) / MOST_STEPS)


def test_other_numbers_of_steps_are_taken_as_they_are():
    for steps, taken in ((None, 3), (0, 0), (9, 9)):
        fields, count = adapt(Growing(), task(100), steps, judge_of(Growing()))
        assert (count, fields.item()) == (taken, pytest.approx(0.1 + 0.1 * taken))
    assert adapt(Growing(), task(100), "auto")[1] == 3  # nothing is held out
    fields, _ = adapt(AtOnce(), task(100), "auto", judge_of(AtOnce()))
    assert fields.item() == pytest.approx(0.4)  # it is not asked for steps that it does not take


def test_the_error_of_a_mesh_is_its_distance_from_the_truth():
    model = Growing()
    for radius, error in ((RADIUS, 0.0), (RADIUS + 0.05, 0.05), (RADIUS - 0.05, 0.05)):
        fields = torch.tensor([radius])
        mesh = extract_mesh(lambda x, r=radius: x.norm(dim=-1) - r, 64)
        for dense in (True, False):
            found = judge_of(model, dense).mesh_error(fields, mesh)
            # In free space distances to a mesh that is too small or too large count, too.
            assert 0.9 * error <= found <= 2.5 * error + 4e-3


def test_a_made_up_piece_in_free_space_is_an_error():
    def two(x):
        other = (x - torch.tensor([0.7, 0.7, 0.7])).norm(dim=-1) - 0.15
        return torch.minimum(x.norm(dim=-1) - RADIUS, other)

    class Two(Growing):
        def predict(self, x, fields):
            return two(x)[..., None]

    judge = judge_of(Two())
    one = judge_of(Growing()).mesh_error(
        torch.tensor([RADIUS]), extract_mesh(lambda x: ball(x)[:, 0], 64)
    )
    assert judge.mesh_error(None, extract_mesh(two, 64)) > one + 0.01
    assert judge.error(None) > judge_of(Growing()).error(torch.tensor([RADIUS])) + 1e-3


def network(loss):
    torch.manual_seed(0)
    net = CoordinateNetwork(
        "siren", out_features=loss.out_features, hidden_features=32, hidden_layers=1, w0=5.0
    )
    return MetaSDF(net, loss, num_steps=2, initial_step_size=1e-3).eval()


@pytest.mark.parametrize("loss", [DistanceLoss("l1"), CompositeLoss(), CompositeLoss(50.0)])
@pytest.mark.parametrize("dense", [True, False])
def test_refining_makes_the_judges_error_smaller_and_never_larger(loss, dense):
    model = network(loss)
    judge, context = judge_of(model, dense), task(2000, 0, dense)
    fields = model.adapt(context)
    before = {name: p.clone() for name, p in fields.items()}
    shares = []
    refined, steps = refine(model, fields, context, judge, 0.5, shares.append)
    assert steps > 1
    assert shares[-1] == 1
    assert all(torch.equal(fields[name], p) for name, p in before.items())
    assert judge.error(refined) <= judge.error(fields)
    if dense:
        assert judge.error(refined) < 0.9 * judge.error(fields)
    assert not any(p.requires_grad for p in refined.values())


def test_what_gets_worse_is_not_kept(monkeypatch):
    model = network(CompositeLoss())
    judge, context = judge_of(model), task(500)
    fields = model.adapt(context)
    for first_error, kept in ((0.0, True), (2.0, False)):
        errors = iter([first_error, *[1.0] * 100])
        monkeypatch.setattr(judge, "error", lambda fields, errors=errors: next(errors))
        assert (refine(model, fields, context, judge, 0.2)[0] is fields) == kept


def test_fields_that_are_not_tensors_are_refused():
    model = network(CompositeLoss())
    with pytest.raises(InputError, match="refine: the method's fields"):
        refine(model, {"weights": "secret"}, task(500), judge_of(Growing()), 0.1)


def test_a_codes_field_is_refined_too(spheres, tmp_path):
    keys = {"method": "autodecoder", "training_mode": "l1", "num_epochs": 20, "code_steps": 50}
    curriculum = sphere_curriculum(spheres, tmp_path, **keys, refine=0.3)
    model = train(curriculum, device=CPU).model
    _, record = reconstruct_shape(model, curriculum, read_split(curriculum["test_split"])[0], CPU)
    assert record["refine_steps"] > 1


def test_what_a_scan_of_a_part_does_not_see_may_be_anything():
    sides = {}
    x, y = task(4000, dense=False)
    seen = x[0, :, 1] > 0  # from above
    context = x[:, seen], y[:, seen]
    for mode, whole in (("levelset", True), ("levelset", False), ("partial", True)):
        free = HeldOut.of(context, context, mode, whole).free_space(4000, seed=0).known()
        sides[mode, whole] = len(free.sides)
        below = np.linalg.norm(free.points - [0, -0.5, 0], axis=1) < 0.1
        assert below.any() == (mode == "levelset" and whole)
    assert sides["levelset", True] > sides["levelset", False] == sides["partial", True]


def test_a_record_says_whether_to_trust():
    keys = {**{name: key.default for name, key in KEYS.items()}, "resolution": 48}
    model, context = Growing(), task(2000)
    held_out = HeldOut.of(task(200, 1), context, "dense")
    automatic = {**keys, "reconstruction_steps": "auto"}
    _, mesh, record = fit_and_mesh(model, context, held_out, automatic, CPU)
    assert mesh.extents == pytest.approx([2 * RADIUS] * 3, abs=0.01)
    assert (record["steps"], record["pieces"], record["held_out_points"]) == (5, 1, 200)
    assert record["held_out_error"] <= TRUSTED
    assert record["trusted"] is True
    first = {**keys, "reconstruction_steps": 1}
    record = fit_and_mesh(model, context, held_out, first, CPU)[2]
    assert record["held_out_error"] > 0.1
    assert record["trusted"] is False
    none = HeldOut(*(part[:0] for part in held_out[:2]), *held_out[2:])
    record = fit_and_mesh(model, context, none, automatic, CPU)[2]
    assert (record["steps"], record["trusted"], record["held_out_error"]) == (3, None, None)


def test_held_out_points_are_not_in_the_context(spheres, tmp_path):
    for mode, count in (("dense", 100), ("levelset", 100), ("levelset", 29_000)):
        curriculum = sphere_curriculum(spheres, tmp_path, context_mode=mode, context_points=count)
        batch = held_out_task(curriculum, read_split(curriculum["test_split"])[0], CPU)
        rows = {part: {row.numpy().tobytes() for row in batch[part][0][0]} for part in batch}
        assert len(rows["held_out"]) == held_out_count(count)
        assert not rows["held_out"] & rows["context"]
