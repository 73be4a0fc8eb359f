"""What training, reconstruction and evaluation ask of a method, MetaSDF or any other."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from metasdf.losses import CompositeLoss, DistanceLoss


class Method(nn.Module):
    """What training, reconstruction and evaluation ask of MetaSDF and of every other method.

    A subclass sets `loss` and `num_steps` (the steps that `adapt` takes by default) and defines
    `adapt` and `predict`. The fitted fields that `adapt` returns are opaque to everyone else.
    """

    loss: CompositeLoss | DistanceLoss
    num_steps: int

    def adapt(self, context: tuple[Tensor, Tensor], num_steps: int | None = None) -> Any:
        """Fit each task's context, x [T, N, d] and y [T, N, 1]; returns T fields.

        num_steps = 0 gives the field before any context was seen. In evaluation mode the fields
        carry no graph.
        """
        raise NotImplementedError

    def trajectory(
        self, context: tuple[Tensor, Tensor], num_steps: int | None = None
    ) -> Iterator[Any]:
        """The fields after 0, 1, ..., num_steps steps of `adapt`, one after the other.

        A method that does not fit step by step gives the result of `adapt` alone.
        """
        yield self.adapt(context, num_steps)

    def predict(self, x: Tensor, fields: Any) -> Tensor:
        """Network outputs of the fields at x [T, N, d]: [T, N, c]."""
        raise NotImplementedError

    def signed_distance(self, x: Tensor, fields: Any) -> Tensor:
        """Signed distances of the fields at x [T, N, d]: [T, N, 1], negative inside."""
        return self.loss.signed_distance(self.predict(x, fields))

    def forward(
        self, context: tuple[Tensor, Tensor], query_x: Tensor, num_steps: int | None = None
    ) -> Tensor:
        """Fit the contexts, then evaluate at query_x [T, M, d]: [T, M, c]."""
        return self.predict(query_x, self.adapt(context, num_steps))

    def outer_loss(
        self, batch: Mapping[str, Any], whole: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The outer objective: the error at the queries after adaptation.

        batch: "context" and "query", each (x [T, N, d], y [T, N, c]). whole: if `batch` is one
        micro-batch of several, the query targets y of the full batch; the losses of all
        micro-batches then sum to that of the full batch. Returns the loss, a scalar, and the
        predictions at the queries [T, M, c].
        """
        query_x, query_y = batch["query"]
        prediction = self(batch["context"], query_x)
        return self.loss.outer(prediction, query_y, whole), prediction

    def parameter_groups(self, lr: float, code_lr: float) -> list[dict[str, Any]]:
        """Parameter groups for the outer optimiser; code_lr is the rate of latent codes, if any."""
        return [{"params": list(self.parameters()), "lr": lr}]
