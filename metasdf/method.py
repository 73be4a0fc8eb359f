"""What training, reconstruction and evaluation ask of a method, so that all share one loop."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from metasdf.losses import CompositeLoss, DistanceLoss


class Method(nn.Module):
    """Fits fields to the contexts of shapes, and answers queries with them.

    A method sets `loss` and `num_steps`, the steps `adapt` takes unless told otherwise, and
    defines `adapt` and `predict`. What `adapt` returns, the fitted fields of T tasks, only the
    method itself looks into.
    """

    loss: CompositeLoss | DistanceLoss
    num_steps: int

    def adapt(self, context: tuple[Tensor, Tensor], num_steps: int | None = None) -> Any:
        """Fit each task's context: (x [T, N, d], y [T, N, 1]) -> T fields.

        num_steps = 0 gives the field that is there before the context has been seen. In
        evaluation mode the fields come without a graph.
        """
        raise NotImplementedError

    def predict(self, x: Tensor, fields: Any) -> Tensor:
        """The networks' outputs at x [T, N, d]: [T, N, c]."""
        raise NotImplementedError

    def signed_distance(self, x: Tensor, fields: Any) -> Tensor:
        """The fields at x [T, N, d]: [T, N, 1], negative inside."""
        return self.loss.signed_distance(self.predict(x, fields))

    def forward(
        self, context: tuple[Tensor, Tensor], query_x: Tensor, num_steps: int | None = None
    ) -> Tensor:
        """Fit the context, then evaluate at query_x [T, M, d]: [T, M, c]."""
        return self.predict(query_x, self.adapt(context, num_steps))

    def outer_loss(
        self, batch: Mapping[str, Any], whole: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What training minimises on a batch (scalar), and the predictions at its queries.

        whole: where `batch` is a part of one, the targets of the whole; then the loss is what the
        part contributes, and sums to the whole batch's.
        """
        query_x, query_y = batch["query"]
        prediction = self(batch["context"], query_x)
        return self.loss.outer(prediction, query_y, whole), prediction

    def parameter_groups(self, lr: float, code_lr: float) -> list[dict[str, Any]]:
        """Groups for the optimiser: network weights learn with lr, latent codes with code_lr."""
        return [{"params": list(self.parameters()), "lr": lr}]
