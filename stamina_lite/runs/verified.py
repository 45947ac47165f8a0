"""The result of loading an export with stock code."""

from dataclasses import dataclass

TOLERANCE = 1e-3  # largest allowed difference between stock code and our model, as a share of the effect of learning
ROUNDING = 1e-5  # allowed fp32 rounding error, as a share of the largest value


@dataclass(frozen=True)
class Verified:
    """The result of loading an export with stock code.

    Attributes:
        loaded: what was loaded, in words.
        difference: largest absolute difference between the outputs of stock code and of our model.
        effect: largest absolute difference between the outputs of our model and of the base.
    """

    loaded: str
    difference: float
    effect: float

    def __str__(self) -> str:
        return f"verified: {self.loaded}, max difference {self.difference:.1e} (base: {self.effect:.1e})"


def check_difference(verified: Verified, tolerance: float, largest: float = 0.0) -> Verified:
    """Return `verified`; raise RuntimeError if the difference between stock code and our model is too large.

    Args:
        tolerance: largest allowed difference, as a share of the effect.
        largest: the largest value that was compared; rounding errors of it are allowed, however small the effect.
    """
    if not verified.difference <= max(tolerance * verified.effect, ROUNDING * largest):
        raise RuntimeError(f"stock code reads another model than was exported: {verified}")
    return verified
