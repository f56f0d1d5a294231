"""`sftdata check`: everything that `prepare` would find and more, over all records, with nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sftdata_cli.prepare import command as prepare

__all__ = ["command"]

_EPILOG = """\b
Examples:
  sftdata check chats.jsonl --tokenizer ./qwen2.5 --max-length 4096
  sftdata check chats.jsonl                            without a tokenizer: records and texts only
  sftdata check data/ --tokenizer T --near-duplicates --eval-set test.jsonl --report report.html
  sftdata check chats.jsonl --format sarif --output findings.sarif
  sftdata check chats.jsonl --select SFT7 --fail-on warning

\b
Exit codes: 0 clean, or only findings below --fail-on; 1 findings at or above it; 2 usage, configuration or internal
error. `sftdata rule CODE` explains a rule.
"""
_OF_PREPARE = (
    *("tokenizer", "template", "max_length", "template_arg", "reasoning", "append_eos", "unroll", "clock", "packing"),
    *("input_format", "columns", "roles", "dataset_info", "train_on", "overlong", "stop", "strip_trailing_stop"),
    *("bos_token", "eos_token", "control_tokens", "allow_control", "allow_dropped", "allow_normalised"),
    *("engine_tokenizer", "workers"),
)
_POLICY = ("select", "ignore", "extend_select", "profile", "fail_on", "rules", "baseline")


def _choice(*words: str) -> click.Choice[str]:
    return click.Choice(words, case_sensitive=True)


@click.command("check", epilog=_EPILOG)
@click.argument("inputs", nargs=-1, metavar="INPUT...")
@click.option("--select", multiple=True, metavar="RULE", help="Only these rules: codes, names, beginnings (SFT7).")
@click.option("--ignore", multiple=True, metavar="RULE", help="Not these rules.")
@click.option("--extend-select", multiple=True, metavar="RULE", help="These rules as well.")
@click.option("--profile", type=_choice("strict", "default", "lenient"), help="Defaults of thresholds.")
@click.option("--fail-on", type=_choice("error", "warning", "info"), help="What fails the check. Default: error.")
@click.option("--baseline", metavar="FILE", help="Forgive the findings of this file.")
@click.option("--write-baseline", metavar="FILE", help="Write all findings into a baseline, and exit with 0.")
@click.option("--sample", type=click.IntRange(min=1), metavar="N", help="Look at about N records only.")
@click.option("--near-duplicates", is_flag=True, help="Look for near-duplicates as well (SFT702).")
@click.option("--eval-set", multiple=True, metavar="INPUT", help="Look for records that repeat this data.")
@click.option("--fix", metavar="FILE", help="Write all records, repaired where that is safe, and FILE.changes.jsonl.")
@click.option(
    "--format",
    "output_format",
    type=_choice("human", "concise", "json", "jsonl", "github", "sarif", "junit"),
    default="human",
    help="What to print.",
)
@click.option("--output", metavar="FILE", help="Print into a file.")
@click.option("--report", metavar="FILE", help="Write a report for people as one HTML file.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 whatever is found.")
@click.option("--config", metavar="FILE", help="YAML with the same names; `rules:` has options by rule; flags win.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(inputs: tuple[str, ...], config: str | None, **flags: Any) -> int:
    """Check every record of the inputs: what prepare would reject, and what it would train without a word.

    Without --tokenizer the rules about templates, tokens and lengths are skipped; without --max-length those about
    lengths. INPUT is what prepare takes.
    """
    from sftdata.config import build_config, read_yaml
    from sftdata.report.verdict import build_policy

    options = read_yaml(config) if config else {}
    options |= {key: value for key, value in flags.items() if value not in (None, (), {}, False)}
    if inputs:
        options["inputs"] = inputs
    if flags.get("fix") and flags.get("sample"):
        raise click.UsageError("--fix writes all records: leave --sample out")
    policy = build_policy(**{key: options.pop(key) for key in _POLICY if key in options})
    wishes = {key: options.pop(key, None) for key in _wishes() if key in options}
    for key in ("out", "max_reject_rate", "eval", "drop", "seed", "fresh", "stats"):
        options.pop(key, None)  # a configuration of prepare may be checked as it is
    settings = build_config({"tokenizer": "", "max_length": 1 << 24, **options, "out": "-"}, where=config or "check")
    return _run(settings, policy, wishes)


def _wishes() -> tuple[str, ...]:
    theirs = {*_OF_PREPARE, *_POLICY, "inputs", "config"}
    return tuple(str(one.name) for one in command.params if one.name not in theirs)


def _run(settings: Any, policy: Any, wishes: dict[str, Any]) -> int:
    from sftdata.pipeline.check import check
    from sftdata.report.terminal import Progress
    from sftdata.report.verdict import write_baseline
    from sftdata_cli.interrupts import ending_cleanly

    with ending_cleanly("nothing is left behind"), Progress(quiet=bool(wishes.get("quiet"))) as progress:
        checked = check(
            settings,
            sample=wishes.get("sample"),
            near_duplicates=bool(wishes.get("near_duplicates")),
            eval_inputs=tuple(wishes.get("eval_set") or ()),
            repair=bool(wishes.get("fix")),
            codes=policy.codes,
            progress=progress,
        )
    with ending_cleanly("nothing is left behind"), checked:
        if wishes.get("fix"):
            records, changes, left = checked.write_repaired(Path(wishes["fix"]))
            as_were = f"; {left:,} cannot be read and stand as they were" if left else ""
            click.echo(f"wrote {records:,} records to {wishes['fix']}, {changes:,} of them changed{as_were}", err=True)
        if wishes.get("write_baseline"):
            count = write_baseline(wishes["write_baseline"], policy.chosen(checked.findings()))
            click.echo(f"wrote {count:,} findings to {wishes['write_baseline']}", err=True)
            return 0
        return _tell(checked, policy, wishes)


def _tell(checked: Any, policy: Any, wishes: dict[str, Any]) -> int:
    from sftdata.durable import durable
    from sftdata.report.outputs import FORMATS, Result, limits
    from sftdata.report.verdict import Tally

    tally = Tally(policy)
    for found in policy.chosen(checked.findings()):
        tally.add(found)
    records = checked.report["ledger"]["records"]["read"]
    statuses = tally.statuses(records, checked.skipped, sampled=bool(checked.report["sample"]))
    addresses = {one["name"]: one["address"] for one in checked.report["inputs"]}
    result = Result(lambda: policy.chosen(checked.findings()), statuses, policy, checked.report, addresses)
    checked.report["status"] = "failed" if result.failed else "passed"
    lines = FORMATS[wishes.get("output_format") or "human"](result)
    if wishes.get("output"):
        with durable(Path(wishes["output"])) as (name,), name.open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    else:
        for line in lines:
            click.echo(line)
    if wishes.get("output_format") in ("concise", "jsonl"):  # they hold findings and nothing else
        for line in limits(result):
            click.echo(line, err=True)
    if wishes.get("report"):
        from sftdata.pipeline.shown import write_report

        write_report(checked, result, Path(wishes["report"]))
    return 1 if result.failed and not wishes.get("exit_zero") else 0


command.params[1:1] = [one for one in prepare.params if one.name in _OF_PREPARE]
