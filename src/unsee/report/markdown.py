"""A report in a few lines of Markdown, for user interfaces that show that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from unsee.report.comparison import Comparison

_SPECIAL = re.compile(r"([\\`*_{}\[\]()<>#+!|~&-])")
_TOP = 5
_CHARACTERS = 80


def summary_page(report: Mapping[str, Any]) -> str:
    """What an audit found.

    Args:
        report: the content of report.json.
    """
    data, model = report["data"], report["model"]
    lines = [
        f"# {escaped(report['title'])}",
        "",
        f"{data['records']} training images, model `{model['digest'][:12]}`, {model['moved_weights']} weights moved "
        f"({escaped(model['weights'])}).",
        "",
    ]
    for query in report["queries"]:
        lines += [f"## {escaped(query['prompt'])}", ""]
        ranking = query["ranking"]
        if ranking is None:
            lines += [f"Failed: {escaped(query['failure'] or '')}", ""]
            continue
        lines += ["| rank | caption | group | score | standard error |", "|---|---|---|---|---|"]
        lines += [
            f"| {top['rank']} | {escaped(top['caption'])} | {escaped(top['group'] or '')} | {top['score']:.3g} "
            f"| {top['standard_error']:.1g} |"
            for top in ranking["top"][:_TOP]
        ]
        lines += ["", f"The signal ends after rank {ranking['signal_end']} of {ranking['records']}.", ""]
    lines += [f"- {escaped(note)}" for note in report["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def comparison_page(found: Comparison) -> str:
    """What a comparison of two reports found."""
    verdict = "The report does not hold." if found.differences else "The report holds."
    lines = [
        f"# {verdict}",
        "",
        f"{found.compared} scores compared; the largest difference is {found.largest:.2g} of the mean baseline loss.",
        "",
        *(f"- {escaped(difference)}" for difference in found.differences),
        *(f"- (no matter by itself) {escaped(note)}" for note in found.notes),
    ]
    return "\n".join(lines).rstrip() + "\n"


def escaped(text: str) -> str:
    """Text that means nothing to Markdown or HTML, on one line, cut to a length that fits a table."""
    line = " ".join(text.split())
    short = line if len(line) <= _CHARACTERS else line[: _CHARACTERS - 1] + "…"
    return _SPECIAL.sub(r"\\\1", short)
