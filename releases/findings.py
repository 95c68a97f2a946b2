"""What `affectnet-plus check` has found, and how it is told."""

import json
import os
import textwrap
from collections import Counter
from dataclasses import dataclass, field
from typing import IO, NamedTuple

from . import errors
from .expressions import CATEGORIES, EXPRESSIONS, SUBSETS

ODD_VALUE, RANK_RULE, DUPLICATE = "value out of range", "rank-rule violation", "duplicate"
# In the order of the page.
KINDS = (*errors.KINDS, RANK_RULE, DUPLICATE)
# What another download does not change, and what an interrupted download or unpacking leaves behind.
_IN_THE_DATA = {ODD_VALUE: "values out of range", RANK_RULE: "rank-rule violations", DUPLICATE: "duplicates"}
CURED_BY_DOWNLOAD = tuple(kind for kind in KINDS if kind not in _IN_THE_DATA)

NO_LABEL = "no label"
ROW_NAMES = (*CATEGORIES, NO_LABEL)

_WIDTH = 100
_MOST_SHOWN = 5


class Problem(NamedTuple):
    """Something wrong with one row."""

    kind: str  # one of `KINDS`
    split: str
    path: str  # a file, or "training.csv, row 12"
    problem: str  # words that follow the path


@dataclass
class Findings:
    """What `check` has found. `counts` and `first` hold the problems by kind, the latter at most 5 of each.

    `num_rows` counts the broken rows too, which `rows` and `subsets` leave out, as loading does. `broken` are those
    problems at which loading stops.
    """

    release: str
    title: str
    layout: str
    rows: dict[str, dict[str, int]] = field(default_factory=dict)  # {split: {expression: n}}
    subsets: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: Counter = field(default_factory=Counter)
    first: dict[str, list[Problem]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    num_rows: int = 0
    num_bad_rows: int = 0
    broken: int = 0

    @property
    def whole(self) -> bool:
        return not self.counts

    def add(self, problem: Problem, all_problems: IO | None) -> None:
        self.counts[problem.kind] += 1
        shown = self.first.setdefault(problem.kind, [])
        if len(shown) < _MOST_SHOWN:
            shown.append(problem)
        if all_problems:
            all_problems.write(json.dumps(problem._asdict()) + "\n")

    def verdict(self) -> str:
        """Is it whole, would downloading it again help, does it load?"""
        if self.whole:
            return f"Whole: {counted(self.num_rows, 'row')} in {counted(len(self.rows), 'split')}, nothing wrong."
        where = f"{self.num_bad_rows:,} of {counted(self.num_rows, 'row')}"
        sentences = [f"Not whole: {counted(self.counts.total(), 'problem')} in {where}."]
        if cured := sum(self.counts[kind] for kind in CURED_BY_DOWNLOAD):
            sentences.append(f"Missing, unreadable or truncated files ({cured:,}): download their parts again.")
        if kept := sum(self.counts[kind] for kind in _IN_THE_DATA):
            names = ", ".join(name for kind, name in _IN_THE_DATA.items() if self.counts[kind])
            sentences.append(
                f"{names.capitalize()} ({kept:,}): in the data, so downloading again does not change them."
            )
        if self.broken:
            stops = f"Loading stops at {counted(self.broken, 'broken row')}"
            sentences.append(f'{stops}; on_error="skip" leaves {"it" if self.broken == 1 else "them"} out.')
        else:
            sentences.append("Every row can be loaded.")
        return " ".join(sentences)

    def page(self) -> str:
        """All of it, as `affectnet-plus check` prints it."""
        lines = [f"{self.title} in {self.release}", ""]
        used = {name for counts in self.rows.values() for name, count in counts.items() if count}
        lines += _table("rows", [n for n in ROW_NAMES if n in EXPRESSIONS or n in used], self.rows, total=True)
        if any(any(counts.values()) for counts in self.subsets.values()):
            lines += ["", *_table("subsets", SUBSETS, self.subsets)]
        if self.counts:
            lines += ["", "Problems"]
        for kind in (kind for kind in KINDS if self.counts[kind]):
            lines.append(f"  {kind}: {self.counts[kind]:,}")
            for problem in self.first[kind]:
                lines += _wrapped(f"{problem.path} {problem.problem}".replace(self.release + os.sep, ""), "    ")
            if more := self.counts[kind] - len(self.first[kind]):
                lines.append(f"    and {more:,} more (--json FILE lists them all)")
        if self.remarks:
            lines += ["", "Remarks"]
        for remark in self.remarks:
            lines += _wrapped(remark, "  ")
        return "\n".join([*lines, "", *_wrapped(self.verdict(), "", "")])


def _table(title: str, names, columns: dict[str, dict[str, int]], total: bool = False) -> list[str]:
    """Names down, splits across: twelve expressions across would be wider than a page."""
    body = [(name, [counts[name] for counts in columns.values()]) for name in names]
    if total:
        body.append(("total", [sum(counts.values()) for counts in columns.values()]))
    widths = [max(9, len(split)) for split in columns]
    lines = [f"{title:<12}" + "".join(f"  {split:>{width}}" for split, width in zip(columns, widths, strict=True))]
    for name, counts in body:
        cells = (f"  {f'{count:,}' if count else '-':>{width}}" for count, width in zip(counts, widths, strict=True))
        lines.append(f"{name:<12}" + "".join(cells))
    return lines


def _wrapped(text: str, indent: str, more: str = "  ") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent + more, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def counted(count: int, noun: str) -> str:
    """A number and its noun: "1 row", "1,100 rows"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"
