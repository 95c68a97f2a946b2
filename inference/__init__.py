"""Models at work on files: video, and the command `affectnet-plus predict`. Imported by nobody's model."""

from .video import predict_video

__all__ = ["predict_video"]
