"""A licence-free AffectNet+: faces drawn from FACS action units, written in the release's layout, with known truth."""

from .release import synthesize

__all__ = ["synthesize"]
