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
from metasdf.maml import Method


def meta_loss(model: Method, batch: Task, whole: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Adapt to the contexts; outer loss and the loss's score on the queries (scalars).

    whole: see `Method.outer_loss`.
    """
    loss, prediction = model.outer_loss(batch, whole)
    return loss, _score(model, batch, prediction)


@torch.no_grad()
def _score(model: Method, batch: Task, prediction: Tensor) -> Tensor:
    return model.loss.score.of(prediction.float(), batch["query"][1])


@contextlib.contextmanager
def computed_in(precision: str, device: torch.device) -> Iterator[None]:
    """Matrix products in one of the PRECISIONS. What is stored stays float32.

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
    """Loss and score of a batch; gradients are added to the weights' `grad`.

    compiled: the whole of it, inner steps and second derivatives, is traced once and compiled to
    few large operations, for batches of the first one's shapes; others take the usual way. That
    takes a minute at first, and a C++ compiler on a CPU. Gradients are the same, but for rounding.
    """

    def __init__(self, precision: str = "float32", compiled: bool = False) -> None:
        self.precision = precision
        self.compiled = compiled
        self._shapes: list[torch.Size] | None = None
        self._program: Callable[..., Any] | None = None

    def __call__(self, model: Method, batch: Task, whole: Tensor) -> tuple[Tensor, Tensor]:
        with computed_in(self.precision, whole.device):
            if self.compiled and self._fits(batch, whole):
                return self._compiled(model, batch, whole)
            loss, score = meta_loss(model, batch, whole)
            loss.backward()
            return loss.detach(), score

    def _fits(self, batch: Task, whole: Tensor) -> bool:
        shapes = [t.shape for t in (*batch["context"], *batch["query"], whole)]
        self._shapes = self._shapes or shapes
        return shapes == self._shapes

    def _compiled(self, model: Method, batch: Task, whole: Tensor) -> tuple[Tensor, Tensor]:
        weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        tensors = [*batch["context"], *batch["query"], whole, *weights.values()]
        tensors = [t.detach() for t in tensors]
        if self._program is None:
            self._program = compiled_meta_step(model, list(weights), tensors)
        with torch.no_grad():
            loss, prediction, *gradients = self._program(*tensors)
        for weight, gradient in zip(weights.values(), gradients, strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad + gradient
        return loss, _score(model, batch, prediction)


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
    """A program from a batch and the weights of these names to loss, prediction and gradients.

    tensors: its inputs, as an example: context x and y, query x and y, the whole's y, weights.
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
