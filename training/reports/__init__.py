"""Reports: self-contained pages from Jinja2 templates, with figures and thumbnails inside."""

from .report import write_comparison, write_report

__all__ = ["write_comparison", "write_report"]
