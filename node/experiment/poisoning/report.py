"""Tables of an experiment with malicious clients: for a terminal, and for a page."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from node.experiment.poisoning.summary import drops, estimate, lines

MEASURES: Final = {
    "accuracy": "accuracy",
    "balanced": "balanced accuracy",
    "obeyed": "attack success",
    "on_classes": "accuracy on the chosen classes",
}


SHORT: Final = {
    "accuracy": "accuracy", "balanced": "balanced", "obeyed": "attack", "on_classes": "classes",
}  # fmt: skip


def _rows(result: dict[str, Any], measure: str) -> list[list[str]]:
    """One for each attack, fraction and group size: these three, then each rule's estimate; only where measured."""
    rules, found = result["experiment"]["rules"], []
    for line in lines(result):
        estimates = [line.of(rule, measure) if rule in line.rules else None for rule in rules]
        if any(estimates):
            shown = ["-" if one is None else one.percent() for one in estimates]
            found.append([line.label, f"{100 * line.malicious:g} %", str(line.group), *shown])
    return found


def _drops(result: dict[str, Any]) -> list[list[str]]:
    found = drops(result)
    groups = dict.fromkeys(group for _, group in found)
    rules = result["experiment"]["rules"]
    return [
        ["seen less unseen", "", str(group), *(found[rule, group].percent() if (rule, group) in found else "-"
         for rule in rules)]
        for group in groups
    ]  # fmt: skip


def table(result: dict[str, Any]) -> Table:
    """One row for each attack, group size and rule, with all that was measured."""
    measures = [name for name in MEASURES if any(cell[name] is not None for cell in result["cells"])]
    made = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    made.add_column("attack", overflow="fold")
    for heading in ("malicious", "group", "rule", *(SHORT[name] for name in measures)):
        made.add_column(heading, justify="left" if heading == "rule" else "right", no_wrap=True)
    for line in lines(result):
        first = [escape(line.label), f"{100 * line.malicious:g} %", str(line.group)]
        for rule in line.rules:
            estimates = [line.of(rule, name) for name in measures]
            made.add_row(*first, rule, *("-" if one is None else one.percent() for one in estimates))
            first = ["", "", ""]
    made.caption = "per cent, mean and standard deviation over seeds"
    made.caption_justify = "left"
    return made


def drop_table(result: dict[str, Any]) -> Table:
    """Accuracy under the attacks less that under the unseen ones; no rows where the file names none."""
    made = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    made.add_column("rule")
    made.add_column("group", justify="right")
    made.add_column("points lost to unseen attacks", justify="right")
    for (rule, group), drop in drops(result).items():
        made.add_row(rule, str(group), drop.percent())
    return made


def markdown(result: dict[str, Any]) -> str:
    """The same tables for a page in docs/results."""
    parts = []
    rules = result["experiment"]["rules"]
    for measure, title in MEASURES.items():
        parts.append(_page_table(title, _rows(result, measure), rules))
    parts.append(_page_table("points lost to unseen attacks", _drops(result), rules))
    parts.append(_attribution(result))
    parts.append(_made_with(result))
    return "\n".join(part for part in parts if part)


def _made_with(result: dict[str, Any]) -> str:
    """The programs that made the runs; more than one where code changed before an experiment was resumed."""
    runs = Counter(
        ", ".join(f"{name} {version}" for name, version in cell.get("made_with", {}).items())
        for cell in result["cells"]
    )
    return "".join(f"{count} runs with {made or 'an unknown program'}\n" for made, count in runs.items())


def _attribution(result: dict[str, Any]) -> str:
    """What the reputation made of the runs with the first rule."""
    rule = result["experiment"]["rules"][0]
    found = [line for line in lines(result) if line.malicious and rule in line.rules]
    if not found:
        return ""
    heads = [
        f"suspects (rule `{rule}`)", "malicious", "group", "clean groups, %", "bad of all groups", "separated at epoch",
        "found, %", "honest suspects, %", "rare ones among them, %",
    ]  # fmt: skip
    body = [heads, ["---"] * len(heads)]
    for line in found:
        cells = line.rules[rule]
        told = [cell["attribution"] for cell in cells]
        bad = sum(cell["bad_groups"] for cell in cells) / len(cells)
        shares = [estimate(each[name] for each in told) for name in ("found", "wrong", "wrong_rare")]
        body.append([
            line.label.replace("|", "\\|"), f"{100 * line.malicious:g} %", str(line.group),
            f"{100 * cells[0]['clean_probability']:.1f}", f"{bad:.1f} of {cells[0]['inputs']}",
            ", ".join(str(each["separated_at"] or "never") for each in told),
            *("-" if share is None else share.percent() for share in shares),
        ])  # fmt: skip
    return "".join("| " + " | ".join(row) + " |\n" for row in body)


def _page_table(title: str, rows: list[list[str]], rules: list[str]) -> str:
    if not rows:
        return ""
    heads = [f"{title}, %", "malicious", "group", *rules]
    body = [heads, ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join("| " + " | ".join(row) + " |\n" for row in body)
