"""The runs, a script each, and what they share, by subject."""

from importlib.util import find_spec

if not find_spec("accelerate"):
    raise ImportError(
        'Training needs more than reading does: pip install "affectnet-plus[train]", in a clone ".[train]"'
    )
