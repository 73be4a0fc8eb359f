"""The method: learn where to start and how far to step (MetaSDF sec. 3 and Algorithm 1).

A task is one shape: context points with known signed distance (or known to lie on the surface)
and query points. The inner loop turns the learned initialisation into the shape's own network
by a few gradient steps on the context. The outer loop, in `training.py`, improves the
initialisation and the step sizes by the error on the query.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from metasdf.errors import InputError
from metasdf.losses import CompositeLoss, DistanceLoss
from metasdf.method import Method
from metasdf.networks import Params, apply_per_task, meta_parameters

STEP_SIZE_TYPES = (
    "static",  # one number, not learned
    "global",  # one learned number
    "per_step",  # one number per step
    "simple_per_parameter",  # one number per weight tensor
    "meta_sgd",  # one number per weight (Meta-SGD, Li et al. 2017)
    "per_parameter",  # one number per weight and step
)


def step(
    params: Params,
    step_size: Params,
    loss: Callable[[Params], Tensor],
    first_order: bool,
) -> Params:
    """One step of gradient descent: p <- p - step_size dL/dp. See `adapt`."""
    at = params
    if first_order:
        at = OrderedDict((n, p.detach().requires_grad_()) for n, p in params.items())
    gradients = torch.autograd.grad(
        loss(at), list(at.values()), create_graph=not first_order, materialize_grads=True
    )
    return OrderedDict(
        (name, p - step_size[name] * gradient)
        for (name, p), gradient in zip(params.items(), gradients, strict=True)
    )


class RecomputedStep(torch.autograd.Function):
    """`step` without a graph; in the backward pass it is taken again, with one.

    So of many steps the graph of only one is held at any time, for one more evaluation of each.
    (`torch.utils.checkpoint` would save nothing here: a step's own gradient needs what it drops.)
    Inputs after `loss` and `others`: the params' tensors, the step sizes', and `others`, what else
    learns and `loss` depends on; it gets gradients too, other inputs of `loss` do not. Random
    numbers are drawn as they were the first time.
    """

    @staticmethod
    def forward(ctx, names, loss, others, *tensors):
        ctx.names, ctx.loss, ctx.others = names, loss, others
        ctx.save_for_backward(*tensors)
        ctx.devices = sorted({t.get_device() for t in tensors if t.is_cuda})
        ctx.random = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in ctx.devices]
        with torch.enable_grad():
            result = step(*_by_name(names, tensors), loss, first_order=True)
        return tuple(p.detach() for p in result.values())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients):
        inputs = [t.detach().requires_grad_() for t in ctx.saved_tensors[: 2 * len(ctx.names)]]
        with torch.enable_grad(), torch.random.fork_rng(ctx.devices):
            torch.set_rng_state(ctx.random[0])
            for device, state in zip(ctx.devices, ctx.random[1], strict=True):
                torch.cuda.set_rng_state(state, device)
            result = step(*_by_name(ctx.names, inputs), ctx.loss, first_order=False)
            found = torch.autograd.grad(
                list(result.values()), [*inputs, *ctx.others], gradients, allow_unused=True
            )
        return None, None, None, *found


def _by_name(names: Sequence[str], tensors: Sequence[Tensor]) -> tuple[Params, Params]:
    """Params and step sizes, from a list of the tensors of both."""
    halves = tensors[: len(names)], tensors[len(names) : 2 * len(names)]
    return tuple(OrderedDict(zip(names, half, strict=True)) for half in halves)


def adapt(
    params: Params,
    step_sizes: Iterable[Params],
    loss: Callable[[Params], Tensor],
    first_order: bool,
    recompute: Sequence[Tensor] | None = None,
) -> Params:
    """Gradient descent, one step per entry of `step_sizes`: p <- p - step_size dL/dp.

    params, step_sizes: name -> tensor; `loss` maps params to a scalar. The result is
    differentiable with respect to everything that went in; with `first_order` the gradients
    dL/dp count as constants (FOMAML: no second derivatives are formed at all). recompute: what
    else learns and `loss` depends on; given, no step's graph is kept, see `RecomputedStep`.
    """
    for step_size in step_sizes:
        if recompute is None or first_order:
            params = step(params, step_size, loss, first_order)
        else:
            names = list(params)
            tensors = (*params.values(), *(step_size[name] for name in names), *recompute)
            result = RecomputedStep.apply(names, loss, recompute, *tensors)
            params = OrderedDict(zip(names, result, strict=True))
    return params


class StepSizes(nn.Module):
    """The inner loop's step sizes, learned along with the initialisation.

    kind: one of STEP_SIZE_TYPES. weights: name -> tensor, what the steps will be taken on.
    num_steps: the number K of inner steps in training. initial: start value of every step size.
    More than K steps: the last step's sizes are repeated. `original_extra_steps` gives the
    original program's rule instead: more than K steps of "per_parameter" take 1e-2 everywhere.
    """

    def __init__(
        self,
        kind: str,
        weights: Mapping[str, Tensor],
        num_steps: int,
        initial: float,
        original_extra_steps: bool = False,
    ) -> None:
        super().__init__()
        if kind not in STEP_SIZE_TYPES:
            choices = ", ".join(STEP_SIZE_TYPES)
            raise InputError(f"lr_type: {kind!r} is unknown; choose one of {choices}")
        self.kind = kind
        self.names = list(weights)
        self.num_steps = num_steps
        self.original_extra_steps = original_extra_steps

        def full(shape: Iterable[int]) -> nn.Parameter:
            return nn.Parameter(torch.full(tuple(shape), float(initial)))

        if kind == "static":
            self.register_buffer("values", torch.full((1,), float(initial)))
        elif kind == "global":
            self.values = full((1,))
        elif kind == "per_step":
            self.values = nn.ParameterList(full((1,)) for _ in range(num_steps))
        elif kind == "simple_per_parameter":
            self.values = nn.ParameterList(full((1,)) for _ in weights)
        elif kind == "meta_sgd":
            self.values = nn.ParameterList(full(w.shape) for w in weights.values())
        else:
            self.values = nn.ModuleList(
                nn.ParameterList(full(w.shape) for _ in range(num_steps)) for w in weights.values()
            )

    def steps(self, count: int) -> list[dict[str, Tensor]]:
        """Step sizes by weight name, for each of `count` steps."""
        return [self._step(min(k, self.num_steps - 1), count) for k in range(count)]

    def _step(self, k: int, count: int) -> dict[str, Tensor]:
        if self.kind in ("static", "global"):
            return dict.fromkeys(self.names, self.values)
        if self.kind == "per_step":
            return dict.fromkeys(self.names, self.values[k])
        if self.kind in ("simple_per_parameter", "meta_sgd"):
            return dict(zip(self.names, self.values, strict=True))
        if self.original_extra_steps and count > self.num_steps:
            return dict.fromkeys(self.names, self.values[0][0].new_tensor([1e-2]))
        return {name: sizes[k] for name, sizes in zip(self.names, self.values, strict=True)}


class MetaSDF(Method):
    """A learned initialisation with learned step sizes.

    network: a `MetaModule`, a torchmeta MetaModule or any `nn.Module`; x [N, d] -> [N, c].
    loss: the composite or a distance loss, inner and outer.
    step_size_type: one of STEP_SIZE_TYPES, all starting at `initial_step_size`.
    num_steps: inner steps K in training and, unless told otherwise, at test time.
    first_order: meta-gradients without second derivatives (FOMAML). The inner loss's own
    weights (sigma) then receive no gradient, as they act through second derivatives only.
    recompute: in training keep no inner step's graph, but take each step once more in the
    backward pass: the same gradients for less memory and more time.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: CompositeLoss | DistanceLoss,
        step_size_type: str = "per_parameter",
        num_steps: int = 5,
        initial_step_size: float = 5e-3,
        first_order: bool = False,
        original_extra_steps: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.loss = loss
        self.num_steps = num_steps
        self.first_order = first_order
        self.recompute = recompute
        self.step_sizes = StepSizes(
            step_size_type,
            meta_parameters(network),
            num_steps,
            initial_step_size,
            original_extra_steps,
        )

    def adapt(self, context: tuple[Tensor, Tensor], num_steps: int | None = None) -> Params:
        """Fit each task's context: (x [T, N, d], y [T, N, 1]) -> weights with leading T.

        Differentiable in training mode. In evaluation mode, or under `torch.no_grad()`, the
        weights come without a graph and none is kept from step to step.
        """
        x, y = context
        differentiable = self.training and torch.is_grad_enabled()
        with torch.enable_grad():
            params = OrderedDict(
                (name, p.expand(len(x), *p.shape))
                for name, p in meta_parameters(self.network).items()
            )
            steps = self.step_sizes.steps(self.num_steps if num_steps is None else num_steps)
            if not differentiable:
                params = OrderedDict((name, p.detach()) for name, p in params.items())
                steps = [{name: s.detach() for name, s in step.items()} for step in steps]
            return adapt(
                params,
                steps,
                # Summed over tasks, so no task's gradient depends on how many there are.
                lambda p: self.loss.inner(self.predict(x, p), y).sum(),
                first_order=self.first_order or not differentiable,
                recompute=self._others() if self.recompute else None,
            )

    def _others(self) -> list[Tensor]:
        """What learns besides adapted weights and step sizes: the loss's weights, for one."""
        adapted = [*meta_parameters(self.network).values(), *self.step_sizes.parameters()]
        known = {id(p) for p in adapted}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in known]

    def predict(self, x: Tensor, params: Params) -> Tensor:
        """The adapted networks' outputs at x [T, N, d]: [T, N, c]."""
        return apply_per_task(self.network, x, params)
