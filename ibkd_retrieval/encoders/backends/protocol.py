"""The interface of a backend, and the names of backends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from ibkd_retrieval.errors import MissingPackage, UserError

if TYPE_CHECKING:
    from ibkd_retrieval.encoders.tokens import PaddedTokens

BACKENDS = ("auto", "torch", "onnx", "openvino")
DTYPES = ("auto", "float32", "bfloat16", "float16", "int8")
# The number formats of each backend, without those that it only emulates.
_COMPUTES_IN = {
    "torch": ("float32", "bfloat16", "float16"),
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bfloat16", "int8"),
}


class Backend(Protocol):
    """Runs one transformer.

    Attributes:
        name: "torch", "onnx" or "openvino".
        dtype: the number format of the arithmetic.
    """

    name: str
    dtype: str

    def __call__(self, tokens: PaddedTokens) -> dict[str, Any]:
        """Run the transformer.

        Args:
            tokens: the ids of n texts and their mask.

        Returns:
            The features that the further modules of the model read: the token states, float32 [n, longest, width],
            under the key of the model's transformer, and the attention mask.
        """


def check_choice(backend: str, dtype: str, device: str) -> None:
    """Refuse unknown names and unsupported combinations.

    Raises:
        UserError: a name is unknown, or the backend does not support the number format or the device.
    """
    if backend not in BACKENDS:
        raise UserError(f"Unknown backend `{backend}`: use one of {', '.join(BACKENDS)}.")
    if dtype not in DTYPES:
        raise UserError(f"Unknown dtype `{dtype}`: use one of {', '.join(DTYPES)}.")
    if backend in ("onnx", "openvino") and device != "cpu":
        raise UserError(f"`backend='{backend}'` runs on the processor only: give `device='cpu'`, or `backend='torch'`.")
    if backend != "auto" and dtype != "auto" and dtype not in _COMPUTES_IN[backend]:
        able = [f"`backend='{name}'`" for name, known in _COMPUTES_IN.items() if dtype in known]
        raise UserError(
            f"`backend='{backend}'` does not compute in {dtype}: use {', '.join(_COMPUTES_IN[backend])}, or "
            f"{' or '.join(able)}."
        )
    if dtype == "int8" and device != "cpu":
        raise UserError("`dtype='int8'` runs on the processor only: give `device='cpu'`, or `dtype='float16'`.")


def check_static(name: str, backend: str, dtype: str) -> None:
    """Refuse a backend or a number format for a static model.

    Raises:
        UserError: it is another one than torch and float32.
    """
    if backend not in ("auto", "torch") or dtype not in ("auto", "float32"):
        raise UserError(
            f"`{name}` is a static model, which looks vectors up in float32 and has no transformer to run otherwise: "
            "leave `backend` and `dtype` out."
        )


def require(package: str, purpose: str, extra: str) -> None:
    """Check that a package is installed.

    Raises:
        MissingPackage: it is not installed.
    """
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise MissingPackage(package, purpose, extra)


def installed() -> tuple[str, ...]:
    """Return the backends whose packages are installed. Torch always is."""
    import importlib.util

    packages = {"torch": ("torch",), "onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}
    return tuple(name for name, needed in packages.items() if all(map(importlib.util.find_spec, needed)))
