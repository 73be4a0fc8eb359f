"""The inner loop is gradient descent; the outer gradient is exact; tasks stay apart."""

import copy
import gc
import itertools
import warnings
import weakref

import pytest
import torch

from metasdf.errors import InputError
from metasdf.losses import build_loss
from metasdf.maml import MetaSDF
from metasdf.networks import BatchLinear, CoordinateNetwork, MetaModule, meta_parameters
from metasdf.step_sizes import STEP_SIZE_TYPES


def build(kind="per_parameter", mode="multitask", network="siren", num_steps=3, **options):
    loss = build_loss(mode)
    net = CoordinateNetwork(network, 3, loss.out_features, hidden_features=8, hidden_layers=1)
    return MetaSDF(net, loss, kind, num_steps, initial_step_size=1e-2, **options)


def tasks(count=3, points=20, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(count, points, 3, generator=generator, dtype=dtype) * 2 - 1
    radius = torch.linspace(0.4, 0.8, count, dtype=dtype).view(-1, 1, 1)
    return x, x.norm(dim=-1, keepdim=True) - radius


def outer_loss(model, context, query):
    return model.loss.outer(model(context, query[0]), query[1])


@pytest.mark.parametrize("kind", STEP_SIZE_TYPES)
def test_inner_loop_equals_an_sgd_loop_on_a_copy(kind):
    model = build(kind)
    with torch.no_grad():
        for p in model.step_sizes.parameters():
            p.mul_(torch.rand_like(p) + 0.5)
    context = tasks(1)
    adapted = model.eval().adapt(context)
    alone = copy.deepcopy(model.network)
    names = [name for name, _ in alone.named_parameters()]
    for step in model.step_sizes.steps(3):
        loss = model.loss.inner(alone(context[0][0]), context[1][0])
        gradients = torch.autograd.grad(loss, list(alone.parameters()))
        with torch.no_grad():
            for name, p, g in zip(names, alone.parameters(), gradients, strict=True):
                p -= step[name] * g
    for name, p in alone.named_parameters():
        torch.testing.assert_close(adapted[name][0], p.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "mode"), [*itertools.product(STEP_SIZE_TYPES, ["multitask"]), ("global", "l2")]
)
def test_meta_gradients_equal_finite_differences(kind, mode):
    model = build(kind, mode).double()
    context, query = tasks(dtype=torch.double), tasks(points=15, dtype=torch.double)
    outer_loss(model, context, query).backward()
    learned = {n: p for n, p in model.named_parameters() if p.grad is not None}
    direction = {n: torch.randn_like(p) for n, p in learned.items()}
    expected = sum((p.grad * direction[n]).sum().item() for n, p in learned.items())
    epsilon, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for n, p in learned.items():
                p += sign * epsilon * direction[n]
        values.append(outer_loss(model, context, query).item())
        with torch.no_grad():
            for n, p in learned.items():
                p -= sign * epsilon * direction[n]
    assert (values[0] - values[1]) / (2 * epsilon) == pytest.approx(expected, rel=1e-5)


def test_every_learned_number_receives_a_gradient():
    for kind in STEP_SIZE_TYPES:
        model = build(kind)
        outer_loss(model, tasks(), tasks()).backward()
        assert all(p.grad is not None for p in model.parameters()), kind


def test_adapting_lowers_the_error_on_the_context():
    model = build("static", "l2").eval()
    context = tasks()
    before = model.loss.inner(model.predict(context[0], model.adapt(context, 0)), context[1])
    after = model.loss.inner(model.predict(context[0], model.adapt(context, 20)), context[1])
    assert (after < 0.5 * before).all()


@pytest.mark.parametrize("training", [True, False])
def test_tasks_never_influence_one_another(training):
    model = build().train(training)
    x, y = tasks(32)
    together = model.adapt((x, y))
    for t in (0, 13, 31):
        alone = model.adapt((x[t : t + 1], y[t : t + 1]))
        for name, p in together.items():
            torch.testing.assert_close(p[t], alone[name][0], rtol=1e-5, atol=1e-7)


def test_the_callers_context_is_left_as_it_was():
    model, (x, y) = build(), tasks()
    before = x.clone(), y.clone()
    model.adapt((x, y))
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert not x.requires_grad


def test_inference_builds_no_graph():
    for model in (build().eval(), build()):
        with torch.set_grad_enabled(not model.training):
            adapted = model.adapt(tasks())
        assert all(not p.requires_grad and p.grad_fn is None for p in adapted.values())
    assert all(p.grad is None for p in model.parameters())


def test_inference_gives_the_same_weights_as_training():
    model, context = build(), tasks()
    training = model.adapt(context)
    inference = model.eval().adapt(context)
    for name in training:
        torch.testing.assert_close(training[name].detach(), inference[name])


def second_derivatives(model):
    """How often autograd differentiates a gradient while the meta-gradient is formed."""
    loss = outer_loss(model, tasks(), tasks())
    seen, stack = set(), [loss.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [parent for parent, _ in node.next_functions]
    return sum(
        "BackwardBackward" in type(node).__name__ or "Sign" in type(node).__name__ for node in seen
    ), len(seen)


def test_first_order_forms_no_second_derivatives():
    _, full = second_derivatives(build())
    _, first = second_derivatives(build(first_order=True))
    _, none = second_derivatives(build(num_steps=1, first_order=True))
    assert first < full / 2
    # One more inner step costs one subtraction and one product per weight tensor, no more.
    weights = len(meta_parameters(build().network))
    assert (first - none) / 2 <= 4 * weights


def test_first_order_gradient_is_the_gradient_at_the_adapted_weights():
    model = build("global", "l2", first_order=True)
    context, query = tasks(), tasks(points=15)
    outer_loss(model, context, query).backward()
    adapted = {n: p.detach().requires_grad_() for n, p in model.adapt(context).items()}
    loss = model.loss.outer(model.predict(query[0], adapted), query[1])
    gradients = torch.autograd.grad(loss, list(adapted.values()))
    for (name, p), g in zip(meta_parameters(model.network).items(), gradients, strict=True):
        torch.testing.assert_close(p.grad, g.sum(dim=0), msg=name)


def test_first_and_second_order_adapt_alike_but_learn_differently():
    second, first = build(), build(first_order=True)
    first.load_state_dict(second.state_dict())
    context, query = tasks(), tasks()
    for name, p in first.adapt(context).items():
        torch.testing.assert_close(p, second.adapt(context)[name])
    outer_loss(second, context, query).backward()
    outer_loss(first, context, query).backward()
    a, b = (m.network.net[0].weight.grad for m in (first, second))
    assert not torch.allclose(a, b, rtol=1e-2)


@pytest.mark.parametrize("kind", ["per_step", "per_parameter"])
def test_extra_steps_repeat_the_last_learned_step_size(kind):
    sizes = build(kind).step_sizes
    with torch.no_grad():
        for i, p in enumerate(sizes.parameters()):
            p.fill_(i + 1.0)
    steps = sizes.steps(5)
    for name in sizes.names:
        assert torch.equal(steps[4][name], steps[2][name])
        assert torch.equal(steps[3][name], steps[2][name])
        assert not torch.equal(steps[2][name], steps[1][name])


@pytest.mark.parametrize("kind", STEP_SIZE_TYPES)
def test_extra_steps_can_become_smaller_and_smaller(kind):
    repeated, smaller = build(kind).step_sizes, build(kind, extra_step_factor=0.5).step_sizes
    factors = [1, 1, 1, 0.5, 0.25]
    for a, b, factor in zip(repeated.steps(5), smaller.steps(5), factors, strict=True):
        for name in repeated.names:
            assert torch.equal(b[name], factor * a[name])


def test_the_originals_rule_for_extra_steps_is_an_option():
    sizes = build("per_parameter", original_extra_steps=True).step_sizes
    assert all(s.item() == pytest.approx(1e-2) for step in sizes.steps(4) for s in step.values())
    assert sizes.steps(3)[0]["net.0.weight"].shape == (8, 3)


def test_a_weight_the_loss_does_not_reach_stays_as_it_is():
    class WithSpare(torch.nn.Linear):
        def __init__(self):
            super().__init__(3, 1)
            self.spare = torch.nn.Parameter(torch.ones(2))

    model = MetaSDF(WithSpare(), build_loss("l1"), "global", 2, 1e-2)
    adapted = model.adapt(tasks())
    assert torch.equal(adapted["spare"], torch.ones(3, 2))
    assert not torch.equal(adapted["weight"][0], adapted["weight"][1])


# Less memory


@pytest.mark.parametrize(
    ("kind", "mode"), list(itertools.product(STEP_SIZE_TYPES, ["multitask", "l1"]))
)
def test_steps_that_are_recomputed_give_the_same_gradients(kind, mode):
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = build(kind, mode, checkpointing=recompute).double()
        context, query = tasks(dtype=torch.double), tasks(points=15, dtype=torch.double)
        outer_loss(model, context, query).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    plain, recomputed = gradients
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-9, atol=1e-12)


class HalfAdapted(MetaModule):
    """A network of which the inner loop adapts only the last layer, and that draws at random."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 8)
        self.last = BatchLinear(8, 1)

    def meta_named_parameters(self, prefix="", recurse=True):
        return self.last.named_parameters(prefix=prefix + ("." if prefix else "") + "last")

    def forward(self, x, params=None):
        hidden = torch.nn.functional.dropout(torch.sin(self.first(x)), 0.3)
        return self.last(hidden, params=self.get_subdict(params, "last"))


@pytest.mark.parametrize("frozen", [False, True])
def test_recomputed_steps_reach_what_learns_but_is_not_adapted(frozen):
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = HalfAdapted()
        network.first.bias.requires_grad_(not frozen)
        model = MetaSDF(network, build_loss("l1"), "global", 3, 0.1, checkpointing=recompute)
        outer_loss(model, tasks(), tasks()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    plain, recomputed = gradients
    assert plain["network.first.weight"].any()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-6)


class Saved:
    """A tensor that a graph holds."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_steps_that_are_recomputed_keep_next_to_nothing():
    def kept(num_steps, checkpointing):
        model, saved = build(num_steps=num_steps, checkpointing=checkpointing), weakref.WeakSet()

        def pack(tensor):
            saved.add(one := Saved(tensor))
            return one

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda one: one.tensor):
            adapted = model.adapt(tasks(points=500))
        gc.collect()
        assert len(adapted) > 0
        return sum(one.tensor.numel() for one in saved)

    assert kept(4, False) > 3 * kept(1, False)
    assert kept(4, True) < kept(1, False) / 20


# Networks of the user's own


class PlainBody(MetaModule):
    """A MetaModule that holds a plain layer, which the inner loop must leave alone."""

    def __init__(self):
        super().__init__()
        self.body, self.head = torch.nn.Linear(3, 8), BatchLinear(8, 1)

    def forward(self, x, params=None):
        return self.head(torch.sin(self.body(x)), params=self.get_subdict(params, "head"))


def test_a_plain_layer_in_a_meta_module_gets_the_same_gradient_with_checkpointing():
    context, query = tasks(dtype=torch.double), tasks(points=15, dtype=torch.double)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = MetaSDF(
            PlainBody(), build_loss("l2"), "global", 3, 0.1, checkpointing=checkpointing
        ).double()
        assert set(model.adapt(context)) == {"head.weight", "head.bias"}
        outer_loss(model, context, query).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-9, atol=1e-12)
    weight, step = model.network.body.weight, 1e-6
    for index in ((0, 0), (5, 2)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[index] += sign * step
            values.append(outer_loss(model, context, query).item())
            with torch.no_grad():
                weight[index] -= sign * step
        slope = (values[0] - values[1]) / (2 * step)
        assert gradients[1]["network.body.weight"][index].item() == pytest.approx(slope, rel=1e-5)


class SharedLayers(torch.nn.Module):
    """One submodule under two names, and two layers that share a weight."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 8)
        self.middle = self.again = torch.nn.Linear(8, 8)
        self.tied = torch.nn.Linear(8, 8)
        self.tied.weight = self.middle.weight
        self.last = torch.nn.Linear(8, 1)

    def forward(self, x):
        h = torch.sin(self.first(x))
        for layer in (self.middle, self.again, self.tied):
            h = torch.sin(layer(h))
        return self.last(h)


def test_shared_and_tied_weights_survive_and_are_adapted_together():
    model = MetaSDF(SharedLayers(), build_loss("l2"), "global", 3, 0.1)
    before = copy.deepcopy(model.network.state_dict())
    context = tasks()
    adapted = model.adapt(context)
    assert set(adapted) == {name for name, _ in model.network.named_parameters()}
    for name, value in model.network.state_dict().items():
        assert type(value) is torch.Tensor
        assert torch.equal(value, before[name])
    x = torch.randn(3, 5, 3)
    prediction = model.predict(x, adapted)
    for task in range(3):
        alone = SharedLayers()
        with torch.no_grad():
            for name, p in alone.named_parameters():
                p.copy_(adapted[name][task])
        torch.testing.assert_close(alone(x[task]), prediction[task])
    outer_loss(model, context, tasks()).backward()  # and a second time


@pytest.mark.parametrize("order", ["first", "second"])
def test_dropout_in_a_plain_network_works_in_training_and_is_off_in_evaluation(order):
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 64), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 1)
    )
    model = MetaSDF(network, build_loss("l1"), "global", 2, 0.01, first_order=order == "first")
    x = torch.rand(1, 20, 3).expand(2, -1, -1)
    same = x, x.norm(dim=-1, keepdim=True) - 0.5
    model.train()
    a, b = model(same, x)  # two equal tasks, each with masks of its own
    assert not torch.allclose(a, b)
    outer_loss(model, same, same).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    model.eval()
    a, b = model(same, x)
    assert torch.equal(a, b)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("mode", ["second order", "first order", "checkpointing", "evaluation"])
def test_frozen_weights_are_neither_adapted_nor_meta_learned(plain, mode):
    torch.manual_seed(1)
    if plain:
        network = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        frozen = [network[0].weight, network[0].bias, network[2].bias]
    else:
        network = CoordinateNetwork("relu", 3, 1, hidden_features=8, hidden_layers=1)
        frozen = [*network.net[0].parameters(), network.net[4].bias]
    for p in frozen:
        p.requires_grad_(False)
    model = MetaSDF(
        network,
        build_loss("l2"),
        "per_parameter",
        2,
        0.05,
        first_order=mode == "first order",
        checkpointing=mode == "checkpointing",
    )
    model.train(mode != "evaluation")
    before = [p.clone() for p in frozen]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapted = model.adapt(tasks())
    learned = [name for name, p in network.named_parameters() if p.requires_grad]
    assert list(adapted) == learned == model.step_sizes.names
    assert not torch.equal(adapted[learned[-1]][0], adapted[learned[-1]][1])
    if mode != "evaluation":
        outer_loss(model, tasks(), tasks()).backward()
        assert all(p.grad is None for p in frozen)
        torch.optim.Adam(model.parameters()).step()
    assert all(torch.equal(p, q) for p, q in zip(frozen, before, strict=True))


def test_a_network_that_is_frozen_as_a_whole_is_an_error():
    model = build()
    model.requires_grad_(False)
    with pytest.raises(InputError, match="frozen"):
        model.eval().adapt(tasks())
