"""The dataset card: `README.md` with the front matter that the hub and `datasets` read. Deterministic, no times.

What lives here: its wording. What must not: facts that the manifest does not hold.
"""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["dataset_card"]

_FEATURES = [
    {"name": "input_ids", "sequence": "int32"},
    {"name": "labels", "sequence": "int32"},
    {"name": "seq_lengths", "sequence": "int32"},
    {"name": "record_ids", "sequence": "int64"},
    {"name": "doc_flags", "sequence": "int32"},
    {"name": "num_tokens", "dtype": "int32"},
    {"name": "num_loss_tokens", "dtype": "int32"},
]


def dataset_card(manifest: Any) -> str:
    """The card of a sealed dataset."""
    splits = {split: files for split, files in manifest.files.items() if files}
    front = {
        "tags": ["sftdata", "supervised-fine-tuning", "packed"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}-*.parquet"} for split in splits],
            }
        ],
        "dataset_info": {
            "features": _FEATURES,
            "splits": [
                {"name": split, "num_examples": sum(one.rows for one in files)} for split, files in splits.items()
            ],
        },
    }
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{_body(manifest, splits)}"


def _body(manifest: Any, splits: dict[str, Any]) -> str:
    records, tokens = manifest.ledger["records"], manifest.ledger["tokens"]
    tokenizer, template = manifest.tokenizer, manifest.template
    rows = "\n".join(
        f"| {split} | {len(files)} | {sum(one.rows for one in files):,} | {sum(one.tokens for one in files):,} | "
        f"{sum(one.loss_tokens for one in files):,} |"
        for split, files in splits.items()
    )
    inputs = "\n".join(f"| {one['address']} | {one['records']:,} | `{one['sha256'][:16]}` |" for one in manifest.inputs)
    kwargs = ", ".join(f"{key}={value!r}" for key, value in sorted(template["kwargs"].items())) or "none"
    return f"""# Packed training data

Made by sftdata. A row is one bin: whole examples packed without padding up to {manifest.config["max_length"]:,} tokens.
`labels` are unshifted targets, -100 where untrained; `seq_lengths` are the lengths of the documents of a row.

| split | files | rows | tokens | trained tokens |
|---|---|---|---|---|
{rows}

| input | records | sha256 |
|---|---|---|
{inputs}

- records: {records["read"]:,} read = {records["written"]:,} written + {records["rejected"]:,} rejected + \
{records["duplicate"]:,} duplicate{f" + {records['unsampled']:,} unsampled" if records.get("unsampled") else ""}
- tokens: {tokens["rendered"]:,} rendered = {tokens["written"]:,} written + {tokens["dropped"]:,} dropped; \
{tokens["trained"]:,} trained
- tokenizer: sha256 `{tokenizer["sha256"][:16]}`, {tokenizer["vocab_size"]:,} ids, stop tokens \
{", ".join(f"`{token}`" for token in tokenizer["stop_tokens"])}
- template: {template["origin"]} `{template["name"]}`, arguments {kwargs}, clock {template["clock"]}
- fingerprint: `{manifest.fingerprint}`

`sftdata verify` re-derives every invariant from these files alone. Train with documents isolated from each other
(`position_ids` restarting, or `cu_seq_lens`): a plain padded batch would let them see one another.
"""
