"""The mathematics of orthogonal subspace fine-tuning, for one weight matrix.

A matrix W of N x M with R = min(N, M) singular directions is W = U_high S_high V_high + U_low S_low V_low. The k
strongest directions (high) are frozen, the u = R - k others (low) are trained, and what is trained stays orthogonal to
what is frozen: U_high^T U_low = 0 and V_low V_high^T = 0. (Nayak et al., "Sculpting Subspaces: Constrained Full
Fine-Tuning in LLMs for Continual Learning", 2025.)

The model computes with W as a whole. By the chain rule, with G = dL/dW:
    dL/dU_low = G V_low^T S_low        dL/dS_low = diag(U_low^T G V_low^T)        dL/dV_low = S_low U_low^T G
so a step of the optimizer needs G alone, once it is summed over all tokens; no layer has to know of the factors.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Factors:
    """A singular value decomposition W = U diag(S) V, in fp32."""

    u: Tensor
    """[N, R], with orthonormal columns"""
    s: Tensor
    """[R], falling"""
    v: Tensor
    """[R, M], with orthonormal rows"""


class Subspace:
    """The factors of one matrix: those that are frozen, and those that are trained."""

    def __init__(self, factors: Factors, trained: int) -> None:
        """Train the `trained` weakest directions, at least one, and freeze the others."""
        frozen = len(factors.s) - trained
        assert 0 < trained <= len(factors.s)
        # Copies: a view would keep the whole decomposition in memory.
        self.u_high = factors.u[:, :frozen].clone()
        """[N, k]"""
        self.s_high = factors.s[:frozen].clone()
        """[k]"""
        self.v_high = factors.v[:frozen].clone()
        """[k, M]"""
        self.u_low = nn.Parameter(factors.u[:, frozen:].clone())
        """[N, u]"""
        self.s_low = nn.Parameter(factors.s[frozen:].clone())
        """[u]"""
        self.v_low = nn.Parameter(factors.v[frozen:].clone())
        """[u, M]"""

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by the names U, S and V."""
        return {"U": self.u_low, "S": self.s_low, "V": self.v_low}

    @torch.no_grad()
    def matrix(self) -> Tensor:
        """The matrix [N, M] that the factors make."""
        whole = (self.u_low * self.s_low) @ self.v_low
        return whole.addmm_(self.u_high * self.s_high, self.v_high)

    @torch.no_grad()
    def pull_back(self, gradient: Tensor) -> None:
        """Give the trained factors their gradients, without what points into the frozen directions.

        `gradient` is that of the matrix, [N, M].
        """
        towards_u = gradient @ self.v_low.T
        self.s_low.grad = (self.u_low * towards_u).sum(0)
        towards_u *= self.s_low
        towards_v = self.u_low.T @ gradient
        towards_v *= self.s_low[:, None]
        self.u_low.grad = self._project_u(towards_u)
        self.v_low.grad = self._project_v(towards_v)

    @torch.no_grad()
    def project(self) -> None:
        """Take out of the trained factors what points into the frozen directions.

        Gradients without it are not enough: AdamW scales each weight by itself, which turns the update as a whole.
        """
        self._project_u(self.u_low)
        self._project_v(self.v_low)

    @torch.no_grad()
    def leak(self) -> Tensor:
        """The largest |U_high^T U_low| and |V_low V_high^T|, a scalar; 0 where nothing is frozen."""
        if not len(self.s_high):
            return self.s_low.new_zeros(())
        return torch.maximum(
            (self.u_high.T @ self.u_low).abs().amax(), (self.v_low @ self.v_high.T).abs().amax()
        )

    def _project_u(self, columns: Tensor) -> Tensor:
        return columns.addmm_(self.u_high, self.u_high.T @ columns, alpha=-1)

    def _project_v(self, rows: Tensor) -> Tensor:
        return rows.addmm_(rows @ self.v_high.T, self.v_high, alpha=-1)
