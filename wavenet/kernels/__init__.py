"""The operations of the inner loops: `ops` names them, `use_backend` forces who computes them."""

from wavenet.kernels.backend import Backend, use_backend

__all__ = ["Backend", "use_backend"]
