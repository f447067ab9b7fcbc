"""Optimisers over lists of parameters."""

from collections.abc import Iterable
from typing import Any

from bessemer import _native
from bessemer._native import Tensor

__all__ = ["Adam", "AdamW", "clip_grad_norm_"]


class Adam:
    """Adam (Kingma & Ba 2015), one fused pass a parameter. ``lr`` may be changed between steps."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not lr >= 0:
            raise ValueError(f"lr is {lr}, expected 0 or more")
        self.lr = lr
        self._parameters = list(parameters)
        if not self._parameters:
            raise ValueError("an optimiser needs parameters, got none")
        self._native = _native._Adam(self._parameters, *betas, eps, weight_decay)

    def step(self) -> None:
        """One step with the gradients that backward() left; parameters without one stay."""
        self._native.step(self.lr)

    def zero_grad(self) -> None:
        self._native.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        moments = {name: tensor.copy() for name, tensor in self._native.state().items()}
        return {"steps": self._native.steps, "lr": self.lr, "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        moments = self._native.state()
        if moments.keys() != state["moments"].keys():
            raise ValueError("load_state_dict: the state is of other parameters")
        for name, tensor in moments.items():
            tensor[...] = state["moments"][name]
        self._native.steps = state["steps"]
        self.lr = state["lr"]


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scales gradients to a global norm of at most ``max_norm``; returns the norm before."""
    return float(_native._clip_grad_norm(list(parameters), max_norm))
