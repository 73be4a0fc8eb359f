"""Algorithm 1 of MetaSDF: learn where to start and how far to step (sec. 3).

A task is one shape. Its context holds points with known signed distance, or points on the
surface, and its query holds the points by which the fitted field is judged. The inner loop turns
the learned initialisation into the shape's own weights by a few gradient steps on the context
(`inner_step`, `adapt`). The outer objective is the error of the adapted networks at the queries
(`Method.outer_loss`); its gradient passes through all inner steps and improves the initialisation
and the step sizes.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metasdf.errors import InputError
from metasdf.local import latents_of
from metasdf.losses import CompositeLoss, DistanceLoss
from metasdf.method import Method
from metasdf.networks import Params, apply_per_task, meta_parameters
from metasdf.step_sizes import StepSizes

Loss = Callable[[Params], Tensor]  # of an inner loop: a scalar


def inner_step(params: Params, step_size: Params, loss: Loss, first_order: bool) -> Params:
    """One step of gradient descent, params - step_size * dL/dparams; arguments as for `adapt`."""
    point = params
    if first_order:
        point = OrderedDict((name, p.detach().requires_grad_()) for name, p in params.items())
    gradients = torch.autograd.grad(
        loss(point), list(point.values()), create_graph=not first_order, materialize_grads=True
    )
    return OrderedDict(
        (name, p - step_size[name] * gradient)
        for (name, p), gradient in zip(params.items(), gradients, strict=True)
    )


def checkpointed_step(params: Params, step_size: Params, loss: Loss) -> Params:
    """`inner_step` with gradient checkpointing: no graph is kept, the step is taken again instead.

    The backward pass then holds the graph of a single step. Of `torch.utils.checkpoint` this is the
    reentrant form: the other one keeps half of what it should drop, as a step differentiates
    within itself. So the outer loss must be differentiated by `backward()`.
    """
    names = list(params)

    def step(*tensors: Tensor) -> tuple[Tensor, ...]:
        halves = tensors[: len(names)], tensors[len(names) :]
        start, size = (dict(zip(names, half, strict=True)) for half in halves)
        recording = torch.is_grad_enabled()  # only in the backward pass
        with torch.enable_grad():
            result = inner_step(start, size, loss, first_order=not recording).values()
        return tuple(p if recording else p.detach() for p in result)

    inputs = (*params.values(), *(step_size[name] for name in names))
    return OrderedDict(zip(names, checkpoint(step, *inputs, use_reentrant=True), strict=True))


def adapt(
    params: Params,
    step_sizes: Iterable[Params],
    loss: Loss,
    first_order: bool = False,
    checkpointing: bool = False,
) -> Params:
    """The inner loop: gradient descent, one step per entry of `step_sizes`.

    Args:
        params: name -> tensor, where to start.
        step_sizes: for each step, name -> tensor that broadcasts with the parameter.
        loss: maps params to a scalar.
        first_order: gradients count as constants (FOMAML): no second derivatives are formed.
        checkpointing: see `checkpointed_step`; without effect where `first_order` is set.

    Returns:
        The adapted params, differentiable with respect to everything that went in.
    """
    for step_size in step_sizes:
        if checkpointing and not first_order:
            params = checkpointed_step(params, step_size, loss)
        else:
            params = inner_step(params, step_size, loss, first_order)
    return params


class MetaSDF(Method):
    """A learned initialisation with learned step sizes.

    Args:
        network: our `MetaModule`, torchmeta's, or any `nn.Module`; x [N, d] -> [N, c]. Weights with
            `requires_grad=False` are neither adapted nor meta-learned. Of a `LocalNetwork` the
            latents are adapted, by learned step sizes of their own for each grid, channel and step.
        loss: the inner and the outer loss.
        step_size_type: one of STEP_SIZE_TYPES, all starting at `initial_step_size`.
        num_steps: inner steps K in training and, by default, at test time.
        first_order: meta-gradients without second derivatives (FOMAML). The inner loss's own
            weights (sigma) then receive no gradient, as they act through second derivatives only.
        original_extra_steps, extra_step_factor: see `StepSizes`.
        checkpointing: gradient checkpointing of the inner steps in training: the same gradients
            in less memory and more time.
        latent_step_size: where the step sizes of latents start.
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
        checkpointing: bool = False,
        extra_step_factor: float = 1.0,
        latent_step_size: float = 0.3,
    ) -> None:
        super().__init__()
        self.network, self.loss, self.num_steps = network, loss, num_steps
        self.first_order, self.checkpointing = first_order, checkpointing
        latents = latents_of(network)
        weights = {n: p for n, p in meta_parameters(network).items() if n not in latents}
        self.step_sizes = StepSizes(
            *(step_size_type, weights, num_steps, initial_step_size),
            original_extra_steps=original_extra_steps,
            extra_factor=extra_step_factor,
        )
        if latents:
            channels = {name: p[0] for name, p in latents.items()}
            self.latent_step_sizes = StepSizes(
                *("per_parameter", channels, num_steps, latent_step_size),
                extra_factor=extra_step_factor,
            )

    def adapt(self, context: tuple[Tensor, Tensor], num_steps: int | None = None) -> Params:
        """Fit each task's context, x [T, N, d] and y [T, N, 1]; returns weights with leading T.

        Differentiable in training mode. In evaluation mode, or under `torch.no_grad()`, the
        weights carry no graph and none is kept from step to step.
        """
        return deque(self.trajectory(context, num_steps), maxlen=1).pop()

    def trajectory(
        self, context: tuple[Tensor, Tensor], num_steps: int | None = None
    ) -> Iterator[Params]:
        """The weights after 0, 1, ..., num_steps steps of `adapt`, one after the other."""
        x, y = context
        weights, steps = meta_parameters(self.network), self.num_steps
        if not weights:
            raise InputError("network: all of its weights are frozen, so there is none to adapt")
        differentiable = self.training and torch.is_grad_enabled()
        params = OrderedDict((n, p.expand(len(x), *p.shape)) for n, p in weights.items())
        step_sizes = self._steps(x, steps if num_steps is None else num_steps)
        if not differentiable:
            params = OrderedDict((name, p.detach()) for name, p in params.items())
            step_sizes = [{name: s.detach() for name, s in k.items()} for k in step_sizes]
        # Summed over tasks, so that no task's gradient depends on how many there are.
        loss = lambda params: self.loss.inner(self.predict(x, params), y).sum()  # noqa: E731
        first_order = self.first_order or not differentiable
        yield params
        for step_size in step_sizes:
            with torch.enable_grad():
                params = adapt(params, [step_size], loss, first_order, self.checkpointing)
            yield params

    def _steps(self, x: Tensor, count: int) -> list[Params]:
        """Step sizes by name for each of `count` steps on contexts at x [T, N, d]."""
        sizes = self.step_sizes.steps(count)
        if not latents_of(self.network):
            return sizes
        scales = self.network.step_scales(x)
        return [
            step | {name: scales[name] * size for name, size in of_latents.items()}
            for step, of_latents in zip(sizes, self.latent_step_sizes.steps(count), strict=True)
        ]

    def predict(self, x: Tensor, params: Params) -> Tensor:
        """Outputs of the adapted networks at x [T, N, d]: [T, N, c]."""
        return apply_per_task(self.network, x, params)
