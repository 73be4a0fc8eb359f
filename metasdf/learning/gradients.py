"""How the meta-gradients of a batch are computed: in which precision, and compiled or not."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from metasdf.data.tasks import Task
from metasdf.errors import InputError
from metasdf.method import Method


def meta_loss(model: Method, batch: Task, whole: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Adapt to the contexts; the outer loss and the loss's score at the queries (scalars).

    whole: see `Method.outer_loss`.
    """
    loss, prediction = model.outer_loss(batch, whole)
    return loss, _score(model, batch, prediction)


@torch.no_grad()
def _score(model: Method, batch: Task, prediction: Tensor) -> Tensor:
    return model.loss.score.of(prediction.float(), batch["query"][1])


@contextlib.contextmanager
def computed_in(precision: str, device: torch.device) -> Iterator[None]:
    """Compute matrix products in one of the PRECISIONS; what is stored stays float32.

    "tf32": 10 bits of mantissa, on GPUs that have it. "bfloat16": autocast, 7 bits, inner gradients
    included.
    """
    before = torch.get_float32_matmul_precision()
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class MetaGradients:
    """Outer loss and score of one model's batches; meta-gradients accumulate in `grad`.

    Args:
        model: whose gradients. A compiled program belongs to it, so another model needs another
            MetaGradients.
        precision: one of the PRECISIONS.
        compiled: trace the whole meta-step once, inner steps and second derivatives included, and
            compile it to few large operations, for batches of the shapes of the first one; others
            are computed as usual. That takes a minute at first, and a C++ compiler on a CPU. The
            gradients are the same but for rounding.

    Raises:
        InputError: when called, if compiling fails.
    """

    def __init__(self, model: Method, precision: str = "float32", compiled: bool = False) -> None:
        self.model = model
        self.precision = precision
        self.compiled = compiled
        self._shapes: list[torch.Size] | None = None
        self._program: Callable[..., Any] | None = None

    def __call__(self, batch: Task, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Detached loss and score (scalars) of a micro-batch; whole: see `Method.outer_loss`."""
        with computed_in(self.precision, whole.device):
            if self.compiled and self._has_compiled_shapes(batch, whole):
                return self._compiled(batch, whole)
            loss, score = meta_loss(self.model, batch, whole)
            loss.backward()
            return loss.detach(), score

    def _has_compiled_shapes(self, batch: Task, whole: Tensor) -> bool:
        shapes = [t.shape for t in (*batch["context"], *batch["query"], whole)]
        self._shapes = self._shapes or shapes
        return shapes == self._shapes

    def _compiled(self, batch: Task, whole: Tensor) -> tuple[Tensor, Tensor]:
        weights = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        tensors = [*batch["context"], *batch["query"], whole, *weights.values()]
        tensors = [t.detach() for t in tensors]
        if self._program is None:
            self._program = compiled_meta_step(self.model, list(weights), tensors)
        with torch.no_grad():
            loss, prediction, *gradients = self._program(*tensors)
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
        return loss, _score(self.model, batch, prediction)


class _OuterLoss(nn.Module):
    """`Method.outer_loss` as a forward pass, so that weights can be handed in."""

    def __init__(self, model: Method) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Task, whole: Tensor) -> tuple[Tensor, Tensor]:
        return self.model.outer_loss(batch, whole)


def compiled_meta_step(
    model: Method, names: list[str], tensors: list[Tensor]
) -> Callable[..., tuple[Tensor, ...]]:
    """Compile a program from a batch and the weights to loss, prediction and gradients.

    Args:
        model: whose meta-step.
        names: of the weights, in the order of the program's inputs.
        tensors: example inputs: context x and y, query x and y, targets of the full batch, weights.

    Raises:
        InputError: there is no working compiler.
    """
    wrapped = _OuterLoss(model)

    def meta_step(*inputs: Tensor) -> tuple[Tensor, ...]:
        context, query, whole = inputs[:2], inputs[2:4], inputs[4]
        weights = [t.detach().requires_grad_() for t in inputs[5:]]
        by_name = {f"model.{name}": w for name, w in zip(names, weights, strict=True)}
        batch = {"context": context, "query": query}
        with torch.enable_grad():
            loss, prediction = functional_call(wrapped, by_name, (batch, whole))
            gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        return (loss.detach(), prediction.detach(), *(g.detach() for g in gradients))

    try:
        program = torch.compile(make_fx(meta_step)(*tensors), dynamic=False)
        with torch.no_grad():
            program(*tensors)
    except Exception as error:  # whatever keeps a compiler from working
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"compile: the compiler does not work here ({reason}); train without"
        ) from error
    return program
