"""The compared methods: codes reach the network, fits stay apart, each method learns spheres."""

import pytest
import torch

from conftest import MESHED, sphere_curriculum
from metasdf.api import train
from metasdf.baselines import (
    AutoDecoder,
    Concatenation,
    DeepSDFDecoder,
    EncoderSDF,
    Hypernetwork,
    SetEncoder,
)
from metasdf.data.names import read_split
from metasdf.errors import InputError
from metasdf.evaluation.folder import evaluate
from metasdf.learning.checkpoints import load_checkpoint
from metasdf.learning.model_files import load_model
from metasdf.learning.models import build_model
from metasdf.losses import build_loss
from metasdf.networks import CoordinateNetwork, meta_parameters
from metasdf.reconstruction.fitting import reconstruct_shape
from metasdf.reconstruction.split import reconstruct_split

CPU = torch.device("cpu")
METHODS = {
    "autodecoder": {"training_mode": "l1", "clamp": 0.1, "code_steps": 150},
    "set_concat": {"training_mode": "l1", "network": "siren", "w0": 5.0},
    "set_hyper": {"training_mode": "l1", "network": "siren", "w0": 5.0},
}


def spheres_at(radii, points=60, d=3, seed=1):
    """Tasks: points in the cube and their distances to spheres of these radii."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(len(radii), points, d, generator=generator) * 2 - 1
    return x, x.norm(dim=-1, keepdim=True) - torch.tensor(radii).view(-1, 1, 1)


def network(kind="relu", d=3, c=2):
    return CoordinateNetwork(kind, d, c, hidden_features=24, hidden_layers=1)


def build(method, d=3, mode="multitask", kind="relu", **options):
    loss = build_loss(mode)
    if method == "autodecoder":
        decoder = DeepSDFDecoder(d, loss.out_features, 6, 24, 3, dropout=0.2)
        return AutoDecoder(decoder, loss, 6, num_shapes=4, num_steps=5, **options)
    conditioning = {"set_concat": Concatenation, "set_hyper": Hypernetwork}[method]
    decoder = conditioning(network(kind, d, loss.out_features), 6)
    return EncoderSDF(SetEncoder(d, 6, 16), decoder, loss)


def flat(fields):
    values = [fields] if isinstance(fields, torch.Tensor) else list(fields.values())
    return torch.cat([v.flatten(1) for v in values], dim=1)


# What all share


@pytest.mark.parametrize("d", [2, 3])
@pytest.mark.parametrize("mode", ["multitask", "l1"])
@pytest.mark.parametrize("method", METHODS)
def test_predictions_have_a_row_per_point_and_task(method, mode, d):
    model = build(method, d, mode).eval()
    fields = model.adapt(spheres_at([0.4, 0.5, 0.6], d=d))
    x = torch.rand(3, 7, d)
    assert model.predict(x, fields).shape == (3, 7, model.loss.out_features)
    assert model.signed_distance(x, fields).shape == (3, 7, 1)
    assert not flat(fields).requires_grad


@pytest.mark.parametrize("method", METHODS)
def test_tasks_do_not_influence_one_another(method):
    model = build(method).eval()
    context = spheres_at([0.4, 0.5, 0.8])
    together = flat(model.adapt(context))
    for task in range(3):
        alone = flat(model.adapt((context[0][task : task + 1], context[1][task : task + 1])))
        torch.testing.assert_close(together[task : task + 1], alone, rtol=1e-4, atol=1e-6)
    assert (together[0] - together[1]).abs().max() > 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_no_step_ignores_the_context(method):
    model = build(method).eval()
    a, b = (model.adapt(spheres_at([radius]), num_steps=0) for radius in (0.3, 0.9))
    assert torch.equal(flat(a), flat(b))
    assert not torch.equal(flat(model.adapt(spheres_at([0.3]))), flat(a))


@pytest.mark.parametrize("method", METHODS)
def test_every_learned_number_receives_a_gradient(method):
    model = build(method, mode="l1").train()
    batch = {
        "context": spheres_at([0.4, 0.6]),
        "query": spheres_at([0.4, 0.6], seed=2),
        "index": torch.tensor([3, 1]),
        "epoch": 0,
    }
    loss, prediction = model.outer_loss(batch)
    assert prediction.shape == (2, 60, 1)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    groups = model.parameter_groups(0.5, 0.25)
    grouped = [p for group in groups for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))


# Conditioning


def test_code_and_coordinates_enter_the_fourth_of_eight_layers_again():
    decoder = DeepSDFDecoder(latent_features=6, hidden_features=32)
    widths = [(layer.in_features, layer.out_features) for layer in decoder.layers]
    assert widths == [(9, 32), (32, 32), (32, 32), (32, 23), *[(32, 32)] * 4]
    seen = []
    decoder.layers[4].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    x, code = torch.rand(2, 5, 3), torch.randn(2, 6)
    decoder.eval()(x, code)
    assert torch.equal(seen[0][..., 23:29], code.unsqueeze(1).expand(-1, 5, -1))
    assert torch.equal(seen[0][..., 29:], x)
    with torch.no_grad():
        decoder.layers[0].parametrizations.weight.original1[:, :6] = 0
    assert not torch.equal(decoder(x, code), decoder(x, -code))


def test_the_published_decoder_has_its_published_size():
    decoder = DeepSDFDecoder()
    widths = [(layer.in_features, layer.out_features) for layer in decoder.layers]
    assert widths == [(259, 512), (512, 512), (512, 512), (512, 253), *[(512, 512)] * 4]
    assert decoder.dropout.p == 0.2


def test_the_distance_ends_in_a_tanh_and_the_sign_logit_does_not():
    decoder = DeepSDFDecoder(3, 2, 6, 24, 1).eval()
    with torch.no_grad():
        decoder.last.bias.copy_(torch.tensor([5.0, 5.0]))
    output = decoder(torch.rand(1, 4, 3), torch.randn(1, 6))
    assert (output[..., 0] > 2).all()
    assert (output[..., 1].abs() < 1).all()


def test_a_decoder_too_narrow_for_the_injection_is_an_error():
    with pytest.raises(InputError, match="use more than 259, or fewer latent_features"):
        DeepSDFDecoder(hidden_features=259)
    with pytest.raises(InputError, match=r"dropout: 1\.0 drops everything"):
        DeepSDFDecoder(dropout=1.0)


def test_adding_to_the_first_bias_is_concatenation():
    decoder = Concatenation(network(), latent_features=6)
    x, code = torch.rand(2, 5, 3), torch.randn(2, 6)
    wide = CoordinateNetwork("relu", 9, 2, hidden_features=24, hidden_layers=1)
    weights = dict(decoder.network.state_dict())
    weights["net.0.weight"] = torch.cat([weights["net.0.weight"], decoder.first.weight], dim=1)
    wide.load_state_dict(weights)
    expected = wide(torch.cat([x, code.unsqueeze(1).expand(-1, 5, -1)], dim=-1))
    torch.testing.assert_close(decoder(x, decoder.condition(code)), expected)


@pytest.mark.parametrize("kind", ["relu", "pe", "siren"])
def test_a_hypernetworks_weights_start_near_the_networks_own_and_depend_on_the_context(kind):
    model = build("set_hyper", kind=kind).eval()
    fields = model.adapt(spheres_at([0.4, 0.8]))
    for name, own in meta_parameters(model.decoder.network).items():
        assert fields[name].shape == (2, *own.shape)
        change = (fields[name] - own).square().mean().sqrt()
        assert change <= 0.2 * own.square().mean().sqrt()
        if own.abs().max() > 0:
            assert not torch.equal(fields[name][0], fields[name][1]), name


@pytest.mark.parametrize("method", ["set_concat", "set_hyper"])
def test_encoders_see_a_set(method):
    model = build(method).eval()
    x, y = spheres_at([0.4, 0.8])
    order = torch.randperm(x.shape[1])
    fields, shuffled = model.adapt((x, y)), model.adapt((x[:, order], y[:, order]))
    torch.testing.assert_close(flat(shuffled), flat(fields), rtol=1e-5, atol=1e-6)
    doubled = model.adapt((torch.cat([x, x], dim=1), torch.cat([y, y], dim=1)))
    torch.testing.assert_close(flat(doubled), flat(fields), rtol=1e-5, atol=1e-6)


def test_encoders_see_distances():
    model = build("set_concat").eval()
    x, y = spheres_at([0.4])
    assert not torch.equal(flat(model.adapt((x, y))), flat(model.adapt((x, y * 0))))


# The auto-decoder


def test_training_uses_the_shapes_own_codes_and_penalises_them():
    model = build("autodecoder", mode="l1").train()
    model.decoder.eval()
    query = spheres_at([0.4, 0.6])
    index = torch.tensor([2, 0])
    batch = {"context": query, "query": query, "index": index, "epoch": 49}
    loss, prediction = model.outer_loss(batch)
    code = model.codes[index]
    assert torch.equal(prediction, model.predict(query[0], code))
    penalty = 1e-4 * code.square().sum() / 2
    expected = model.loss.outer(prediction, query[1]) + 0.5 * penalty  # half way up
    assert loss.item() == pytest.approx(expected.item(), abs=1e-8)
    late, _ = model.outer_loss({**batch, "epoch": 3000})
    assert (late - loss).item() == pytest.approx(0.5 * penalty.item(), rel=0.05)


def test_codes_start_at_the_papers_scale():
    decoder = DeepSDFDecoder(3, 1, 100, 128, 1)
    model = AutoDecoder(decoder, build_loss("l1"), 100, num_shapes=50)
    assert model.codes.std().item() == pytest.approx(1 / 10, rel=0.05)
    assert model.start.std().item() == pytest.approx(0.01, rel=0.3)


def test_fitting_a_code_lowers_the_context_error_and_leaves_the_network_alone():
    model = build("autodecoder", mode="l1").train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    context = spheres_at([0.3, 0.6], points=200)
    errors = [
        model.loss.inner(model.eval().predict(context[0], model.adapt(context, k)), context[1])
        for k in (0, 20, 100)
    ]
    assert (errors[1] < errors[0]).all()
    assert (errors[2] < errors[1]).all()
    assert all(torch.equal(p, before[name]) for name, p in model.state_dict().items())


def test_dropout_is_off_while_a_code_is_fitted():
    model = build("autodecoder")
    context = spheres_at([0.4])
    fitted = model.eval().adapt(context)
    assert torch.equal(model.train().adapt(context), fitted)
    assert model.training
    assert model.decoder.training


def test_each_step_of_a_fit_sees_a_part_of_many_points(monkeypatch):
    model = build("autodecoder").eval()
    counts = []
    model.decoder.register_forward_hook(lambda _, inputs, __: counts.append(inputs[0].shape[1]))
    context = spheres_at([0.4], points=model.num_points + 1)
    first = model.adapt(context, 2)
    assert counts == [model.num_points] * 2
    torch.manual_seed(5)
    assert torch.equal(model.adapt(context, 2), first)


def test_a_fit_ends_with_a_tenth_of_the_step_size():
    model = build("autodecoder").eval()
    context = spheres_at([0.4])
    start, one, two = (model.adapt(context, k) for k in (0, 1, 2))
    first, second = (one - start).abs().max().item(), (two - one).abs().max().item()
    assert first == pytest.approx(5e-3, rel=1e-2)
    assert second == pytest.approx(5e-4, rel=0.2)


# From data to measured meshes


def curriculum(spheres, output, method, **overrides):
    keys = {"method": method, **METHODS[method], **overrides}
    return sphere_curriculum(spheres, output, **keys)


@pytest.fixture(scope="module", params=METHODS)
def trained(request, spheres, tmp_path_factory):
    output = tmp_path_factory.mktemp(request.param)
    keys = {"num_epochs": 400, "lr": 2e-3, "dropout": 0.0, "validate_every": 400}
    keys["lr_schedule"] = "cosine"  # ends calmly, so that rounding does not decide how well
    options = curriculum(spheres, output, request.param, **keys)
    assert train(options, device=CPU).left_out == 0
    return options, output / "checkpoints" / "latest.pth"


def test_a_trained_model_is_rebuilt_reconstructs_and_is_measured(trained):
    options, checkpoint = trained
    model = load_model(checkpoint)
    saved = model.curriculum
    assert saved["method"] == options["method"]
    assert reconstruct_split(model, options, CPU, checkpoint, trajectories=1) in MESHED
    result = evaluate(options["reconstruction_output_dir"])
    assert result["num_failed"] == 0
    assert result["misclassified_percentage"]["mean"] < 15
    assert result["chamfer"]["mean"] < 2 * 0.05**2  # radius wrong by 0.1, original frame


def test_a_fit_finds_the_radius_of_a_sphere_it_has_not_seen(trained):
    options, checkpoint = trained
    model = load_model(checkpoint)
    radii = [
        reconstruct_shape(model, options, shape, CPU)[0].volume ** (1 / 3) / (4.18879 ** (1 / 3))
        for shape in read_split(options["test_split"])
    ]
    assert radii == pytest.approx([0.45, 0.65], abs=0.06)


def test_the_checkpoint_names_the_training_shapes(trained):
    state = load_checkpoint(trained[1])
    assert state["train_shapes"] == [f"made/spheres/{instance}" for instance in "abcd"]


def test_codes_are_not_handed_to_other_shapes(spheres, tmp_path):
    options = curriculum(spheres, tmp_path, "autodecoder", num_epochs=1, code_steps=1)
    train(options, device=CPU)
    split = tmp_path / "train.json"
    split.write_text('{"made": {"spheres": ["b", "a", "c", "d"]}}')
    with pytest.raises(InputError, match="has latent codes for other training shapes"):
        train({**options, "train_split": str(split), "num_epochs": 2}, device=CPU, load=True)


@pytest.mark.parametrize("kind", ["siren", "pe"])
def test_an_auto_decoder_with_another_network_concatenates_the_code(spheres, tmp_path, kind):
    options = curriculum(spheres, tmp_path, "autodecoder", network=kind)
    model = build_model(options, num_shapes=4)
    assert isinstance(model.decoder, Concatenation)
    batch = {"query": spheres_at([0.4, 0.5]), "index": torch.tensor([1, 3]), "epoch": 0}
    loss, _ = model.train().outer_loss(batch)
    loss.backward()
    assert model.codes.grad[[1, 3]].abs().sum(dim=1).min() > 0
    assert model.codes.grad[[0, 2]].abs().max() == 0


def test_a_checkpoint_of_another_method_is_refused(spheres, tmp_path):
    train(curriculum(spheres, tmp_path, "set_concat", num_epochs=1), device=CPU)
    with pytest.raises(InputError, match="method = 'set_concat', not 'set_hyper'"):
        train(curriculum(spheres, tmp_path, "set_hyper"), device=CPU, load=True)
