"""`report.json`: the ledger, every rule's count, and the facts of a run, also where nothing is sealed.

What lives here: putting the report together. What must not: deciding anything, formatting for people.
"""

from __future__ import annotations

import datetime
import platform
from typing import Any, Protocol

from sftdata.rules import RULES
from sftdata.version import VERSION

__all__ = ["run_report"]


class _Ledger(Protocol):
    turns_dropped: int

    def as_manifest(self) -> dict[str, dict[str, int]]: ...


def run_report(
    plan: Any, facts: dict[str, Any], ledger: _Ledger, *, status: str, reason: str, out: str
) -> dict[str, Any]:
    """The report of a run. Times, host and full addresses stand here and nowhere else in a dataset."""
    capacity = plan.config.max_length
    packing = {
        split: {
            "bins": bins,
            "capacity": capacity,
            "tokens": facts["tokens"][split],
            "fill": round(facts["tokens"][split] / (bins * capacity), 6) if bins else 0.0,
        }
        for split, bins in facts["bins"].items()
        if bins
    }
    fixes = facts.get("fixes", {})
    return {
        "format_version": 1,
        "version": VERSION,
        "status": status,
        "reason": reason,
        "fingerprint": plan.fingerprint,
        "made": datetime.datetime.now(tz=datetime.timezone.utc).isoformat(timespec="seconds"),
        "host": platform.node(),
        "out": out,
        "tokenizer": plan.config.tokenizer,
        "engine": plan.versions["engine"],
        "inputs": [
            {
                "address": one.item.address,
                "name": one.name,
                "size": one.size,
                "records": one.records,
                "sha256": one.sha256,
            }
            for one in plan.inputs
        ],
        "ledger": ledger.as_manifest(),
        "turns_dropped": ledger.turns_dropped,
        "rules": {
            code: {
                "name": RULES[code].name,
                "severity": RULES[code].severity,
                "count": count,
                "remedy": RULES[code].remedy,
                **({"fixes": fixes[code]} if code in fixes else {}),
            }
            for code, count in sorted(facts["rules"].items())
        },
        "packing": packing,
        "formats": dict(sorted(facts["formats"].items())),
        "unroll": {
            "examples_a_record": dict(sorted(facts["unrolled"].items(), key=lambda pair: int(pair[0]))),
            "tokens_repeated": facts["stats"].get("tokens_repeated", 0),
            "rewrites": facts["breaks"],
        },
        "lengths": dict(sorted(facts["lengths"].items(), key=lambda pair: int(pair[0]))),
        "stats": dict(sorted(facts["stats"].items())),
        "measures": facts["measures"],
        "notes": facts["notes"],
        **({"mixture": _mixture(plan, facts["mixed"])} if plan.mixture else {}),
    }


def _mixture(plan: Any, mixed: dict[str, int]) -> dict[str, Any]:
    """Every source: what the plan wants of it, and what was written."""
    by = "tokens" if plan.config.stats else "records"
    counts = {
        place: {name: mixed.get(f"{place}/{name}", 0) for name in ("records", "examples", "tokens", "trained")}
        for place in range(len(plan.mixture))
    }
    total = sum(one["tokens"] for one in counts.values())
    sources = {
        one.name: {
            "weight": one.weight,
            "records": one.records,
            "duplicates": one.dropped,
            "taken": one.taken,
            "passes": round(one.taken / max(one.records - one.dropped, 1), 6),
            "planned_share": one.share,
            "written": counts[place],
            "share_of_tokens": round(counts[place]["tokens"] / total, 6) if total else 0.0,
        }
        for place, one in enumerate(plan.mixture)
    }
    return {"weights_count": by, "sources": sources}
