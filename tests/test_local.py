"""Local fields: latents on grids, adapted along with the weights or instead of them."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator

from metasdf.errors import InputError
from metasdf.learning.curriculum import load_curriculum
from metasdf.learning.models import build_model
from metasdf.local import LatentGrids, LatentPoints, LocalNetwork, parse_resolutions
from metasdf.losses import CompositeLoss, DistanceLoss
from metasdf.maml import MetaSDF


def small(kind="siren", dimensions=3, **options):
    torch.manual_seed(0)
    sizes = {"in_features": dimensions, "out_features": 2, "hidden_features": 8, "w0": 5.0}
    options = {"hidden_layers": 1, "resolutions": (1, 3), "channels": 2, **sizes, **options}
    return LocalNetwork(kind, **options)


def context(tasks=2, points=40, dimensions=3):
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(tasks, points, dimensions, generator=generator) - 1
    return x, x.norm(dim=-1, keepdim=True) - 0.5


@pytest.mark.parametrize("dimensions", [2, 3])
def test_latents_are_interpolated_linearly(dimensions):
    grids = LatentGrids(dimensions, (1, 4), channels=2)
    x = 2.2 * torch.rand(50, dimensions) - 1.1
    features = grids(x)
    assert features.shape == (50, 4)
    assert torch.equal(features[:, :2], grids.grid1.expand(50, 2))
    axis = np.linspace(-1, 1, 4)
    values = grids.grid4.detach().numpy().reshape(*[4] * dimensions, 2)
    expected = RegularGridInterpolator([axis] * dimensions, values)(x.clamp(-1, 1).numpy())
    np.testing.assert_allclose(features[:, 2:].detach().numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("kind", "size"), [(LatentGrids, (2, 3)), (LatentPoints, 27)])
def test_each_task_has_latents_of_its_own(kind, size):
    latents = kind(3, size, channels=2)
    x = context()[0]
    params = {name: torch.randn(2, *p.shape) for name, p in latents.named_parameters()}
    together = latents(x, params)
    for task in range(2):
        alone = latents(x[task], {name: p[task] for name, p in params.items()})
        torch.testing.assert_close(together[task], alone)


def test_a_latent_counts_the_points_that_it_sees():
    grids = LatentGrids(2, (1, 3), channels=1)
    x = torch.tensor([[[-1.0, -1.0], [0.5, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    seen = grids.points_seen(x)
    assert seen["grid1"].flatten().tolist() == [2, 2]
    assert seen["grid3"].shape == (2, 9, 1)
    assert seen["grid3"][0, :, 0].tolist() == [1, 0, 0, 0, 0.5, 0, 0, 0.5, 0]
    assert seen["grid3"][1, :, 0].tolist() == [0, 0, 0, 0, 2, 0, 0, 0, 0]


@pytest.mark.parametrize("adapted", ["latents", "both"])
def test_what_is_adapted_is_what_meta_parameters_lists(adapted):
    network = small(adapted=adapted)
    names = [name for name, _ in network.meta_named_parameters()]
    assert {"latents.grid1", "latents.grid3"} <= set(names)
    assert any(name.startswith("net.") for name in names) == (adapted == "both")
    assert not any("projections" in name for name in names)
    prefixed = [name for name, _ in network.meta_named_parameters(prefix="a.b")]
    assert prefixed == [f"a.b.{name}" for name in names]
    model = MetaSDF(network, CompositeLoss())
    fields = model.eval().adapt(context())
    assert list(fields) == names


@pytest.mark.parametrize("kind", ["siren", "relu", "pe"])
@pytest.mark.parametrize("adapted", ["latents", "both"])
@pytest.mark.parametrize("enter", ["first", "every"])
def test_per_task_weights_give_what_the_networks_own_give(kind, adapted, enter):
    network = small(kind, adapted=adapted, enter=enter).double()
    x = context()[0].double()
    params = {n: p.expand(2, *p.shape) for n, p in network.meta_named_parameters()}
    torch.testing.assert_close(network(x, params), network(x))
    assert len(network.projections) == (1 if enter == "first" else 2)


def test_a_place_has_the_latents_of_the_points_around_it():
    points = LatentPoints(3, 27, channels=2)
    assert points.width == pytest.approx(1 / 3)
    places = points.places.detach() * points.width
    assert places.abs().max() <= 1
    assert places.mean(dim=0).abs().max() < 0.15
    x = context()[0]
    shares = torch.exp(-(torch.cdist(x, places.expand(2, 27, 3)) ** 2) / (2 * points.width**2))
    shares = shares / shares.sum(dim=-1, keepdim=True)
    torch.testing.assert_close(points(x), shares @ points.values)
    seen = points.points_seen(x)["values"]
    torch.testing.assert_close(seen[..., 0], shares.sum(dim=1))


def test_points_move_towards_where_they_are_needed():
    network = small(adapted="latents", points=8, channels=4, hidden_features=16)
    model = MetaSDF(network, CompositeLoss(), latent_step_size=1.0).eval()
    fields = model.adapt(context(points=200))
    assert set(fields) == {"latents.places", "latents.values"}
    for name, start in (("places", network.latents.places), ("values", network.latents.values)):
        assert (fields[f"latents.{name}"] - start).abs().amax() > 1e-4
    assert not torch.equal(*fields["latents.places"])


@pytest.mark.parametrize("points", [None, 5])
@pytest.mark.parametrize("adapted", ["latents", "both"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_meta_gradients_are_those_of_finite_differences(adapted, checkpointing, points):
    """Through steps whose sizes depend on how many points a latent sees, a number held constant."""
    network = small(adapted=adapted, points=points)
    model = MetaSDF(
        network, CompositeLoss(sharpness=10.0), num_steps=2, checkpointing=checkpointing
    )
    model = model.double()
    batch = {"context": tuple(t.double() for t in context()), "query": context(points=30)}
    batch["query"] = tuple(t.double() for t in batch["query"])
    scales = network.step_scales(batch["context"][0])
    network.step_scales = lambda x: scales  # how many points are seen counts as a constant
    loss, _ = model.outer_loss(batch)
    loss.backward()
    tried = ["network.latents.grid3"] if points is None else ["network.latents.places"]
    tried += ["network.projections.0.weight", "network.net.net.0.weight"]
    tried += ["latent_step_sizes.values.1.0"]
    parameters = dict(model.named_parameters())
    tried = [name if name in parameters else name.replace("net.net", "net") for name in tried]
    for name in tried:
        p = parameters[name]
        entry = int(p.grad.abs().argmax())
        assert p.grad.abs().max() > 0, name
        values = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                p.view(-1)[entry] += shift
                values.append(float(model.outer_loss(batch)[0]))
                p.view(-1)[entry] -= shift
        slope = (values[0] - values[1]) / 2e-5
        assert slope == pytest.approx(float(p.grad.view(-1)[entry]), rel=1e-4), name


def test_tasks_do_not_influence_one_another():
    model = MetaSDF(small(), CompositeLoss()).double().eval()
    x, y = (t.double() for t in context(tasks=3))
    together = model.predict(x, model.adapt((x, y)))
    for task in range(3):
        one = x[task : task + 1], y[task : task + 1]
        torch.testing.assert_close(model.predict(one[0], model.adapt(one))[0], together[task])


def test_a_latent_that_sees_no_point_stays():
    model = MetaSDF(small(resolutions=(9,)), CompositeLoss()).eval()
    x = torch.rand(1, 40, 3)  # of one corner of the cube
    fields = model.adapt((x, x.norm(dim=-1, keepdim=True) - 0.5))
    moved = (fields["latents.grid9"][0] != model.network.latents.grid9).any(dim=-1)
    grid = moved.view(9, 9, 9)
    assert not grid[:4].any()
    assert grid[4:, 4:, 4:].any()


@pytest.mark.parametrize("frozen", ["latents.grid1", "net.0.weight", "net.2.bias"])
def test_what_is_frozen_stays_shared(frozen):
    network = small()
    dict(network.named_parameters())[frozen].requires_grad_(False)
    model = MetaSDF(network, CompositeLoss()).eval()
    x, y = context()
    fields = model.adapt((x, y))
    assert frozen not in fields
    assert len(fields) == len(list(network.meta_named_parameters())) - 1
    assert model.predict(x, fields).isfinite().all()
    model.train().outer_loss({"context": (x, y), "query": (x, y)})[0].backward()


def test_a_point_that_is_no_number_gives_none():
    x = torch.tensor([[0.0, 0.0, float("nan")], [0.1, 0.2, 0.3]])
    assert small()(x).isfinite().all(dim=-1).tolist() == [False, True]


def test_latents_learn_the_signed_distance_of_spheres():
    """Adapted latents alone, from an untrained network: the error falls step by step."""
    network = small(
        adapted="latents", resolutions=(4,), channels=4, hidden_features=32, out_features=1
    )
    model = MetaSDF(network, DistanceLoss(), num_steps=5, latent_step_size=0.3).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)

    def batch():
        x = 2 * torch.rand(4, 400, 3, generator=generator) - 1
        radius = 0.3 + 0.5 * torch.rand(4, 1, 1, generator=generator)
        y = x.norm(dim=-1, keepdim=True) - radius
        return {"context": (x[:, :200], y[:, :200]), "query": (x[:, 200:], y[:, 200:])}

    for _ in range(150):
        optimizer.zero_grad()
        model.outer_loss(batch())[0].backward()
        optimizer.step()
    model.eval()
    test = batch()
    x, y = test["query"]
    errors = [
        (model.predict(x, fields) - y).detach().abs().mean().item()
        for fields in model.trajectory(test["context"])
    ]
    assert errors[-1] < 0.3 * errors[0]
    assert errors[-1] < 0.05


@pytest.mark.parametrize("text", ["", "8,", "a", "0", "8,8", "300", "8.5"])
def test_bad_resolutions_are_refused_by_name(text):
    with pytest.raises(InputError, match="latent_grids"):
        parse_resolutions(text)


def test_a_curriculum_says_what_is_adapted():
    keys = {"adapted": "both", "latent_grids": "2,5", "latent_channels": 3, "latent_lr": 0.1}
    model = build_model(load_curriculum("tables_tiny", keys))
    assert model.network.latents.resolutions == (2, 5)
    assert model.network.latents.grid5.shape == (125, 3)
    sizes = model.latent_step_sizes.steps(5)
    assert set(sizes[4]) == {"latents.grid2", "latents.grid5"}
    assert sizes[4]["latents.grid5"].tolist() == pytest.approx([0.1] * 3)
    model = build_model(load_curriculum("tables_tiny", {**keys, "latent_points": 20}))
    assert model.network.latents.places.shape == (20, 3)
    assert model.latent_step_sizes.steps(5)[0]["latents.values"].shape == (3,)
    keys = {"adapted": "latents", "latent_grids": "1", "latents_enter": "first"}
    model = build_model(load_curriculum("cifar", keys))
    assert model.network.latents.grid1.shape == (1, 4)


@pytest.mark.parametrize(
    "keys", [{"method": "set_hyper"}, {"network": "package.module:Network"}, {"adapted": "all"}]
)
def test_what_does_not_go_with_latents_is_refused(keys):
    with pytest.raises(InputError, match="adapted"):
        build_model(load_curriculum("tables_tiny", {"adapted": "both", **keys}))
