"""The report: seven tables in; one self-contained HTML page, Markdown and JSON out."""

from sharelm.report.build import Report, build

__all__ = ["Report", "build"]
