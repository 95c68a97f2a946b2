"""A licence-free AffectNet+ or older AffectNet: faces drawn from FACS action units, with known truth."""

from .release import synthesize

__all__ = ["synthesize"]
