"""The stages of a unit, set up once a process from the plan alone.

What lives here: building contract, encoder and format options from a plan, and refusing versions, a tokenizer or a
template that are not the planned ones. What must not: running anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib

import msgspec
import numpy as np
import numpy.typing as npt

from sftdata.config import PrepareConfig, eval_share
from sftdata.errors import ConfigError, describe
from sftdata.formats import FormatOptions
from sftdata.pipeline.plan import Plan, versions
from sftdata.pipeline.serving import Serving, settle_serving
from sftdata.records import Conversation, Int64Array
from sftdata.templates.contract import Contract
from sftdata.tokenizers import Encoder, Engine, TokenizerFiles, Vocabulary, choose_engine

__all__ = ["Workshop", "check_versions", "open_workshop"]


class Workshop:
    """Everything that a unit needs, ready for use. One a process."""

    def __init__(self, plan: Plan, serving: Serving, engine: Engine) -> None:
        config = plan.config
        self.serving = serving
        self.contract = Contract(serving.templates, serving.options)
        literals = [text for template in serving.templates.values() for text in template.literals]
        joined = "\0".join(literals)
        self.encoder = Encoder(
            serving.vocabulary,
            engine,
            literals=[one.content for one in serving.vocabulary.added if one.content in joined],
            stop_tokens=serving.stop_tokens,
            eos_token=serving.special_tokens.get("eos_token"),
            allow_normalised=config.allow_normalised,
        )
        self.names = {one.item.address: one.name for one in plan.inputs}
        self._options = options_by_input(plan, config)
        share = 0.0 if config.eval is None else eval_share(config.eval, records=plan.taken)
        self._threshold = int(share * (1 << 64))
        self._engine = engine
        self._compared = 0 if plan.engine == "reference" else int(config.engine_sample * (1 << 32))

    def format_options(self, address: str) -> FormatOptions:
        """How to read the records of this input."""
        return self._options[address]

    def sampled(self, record_ids: Int64Array) -> npt.NDArray[np.bool_]:
        """Which records' texts are encoded by both engines: the same records however the work is divided."""
        mixed = record_ids.astype(np.uint64) * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)
        chosen: npt.NDArray[np.bool_] = mixed < np.uint64(self._compared)
        return chosen

    def compare(self, texts: list[str]) -> None:
        """Encode `texts` by both engines; raises EngineMismatch at the first difference."""
        self._engine.compare(texts)

    @property
    def holds_out(self) -> bool:
        """Whether any record goes to `eval`."""
        return self._threshold > 0

    def is_held_out(self, conversation: Conversation) -> bool:
        """Whether a record goes to `eval`: by hash of what it says, so that exact duplicates fall on one side."""
        return content_hash(conversation) < self._threshold


def content_hash(conversation: Conversation) -> int:
    """64 bits of the normalised conversation's content, the same for every format that it may come in."""
    said = (conversation.text, conversation.messages, conversation.tools)
    digest = hashlib.blake2b(msgspec.json.encode(said, order="deterministic"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def options_by_input(plan: Plan, config: PrepareConfig) -> dict[str, FormatOptions]:
    """Format options for every input address: the configuration's, or those of a dataset_info entry."""
    common = FormatOptions(config.input_format, config.columns, config.roles)
    if config.dataset_info is None:
        return {one.item.address: common for one in plan.inputs}
    from sftdata.formats import dataset_info, entry_of

    entries = dataset_info(config.dataset_info)
    found = {one.item.address: entry_of(one.item.address, entries) for one in plan.inputs}
    if plan.inputs and not any(found.values()):
        what = f"no entry names {plan.inputs[0].item.address}"
        fix = "Correct `file_name` in it, or leave --dataset-info out."
        raise ConfigError(describe(what, where=config.dataset_info, fix=fix))
    return {address: entry or common for address, entry in found.items()}


def open_workshop(plan: Plan, loaded: tuple[TokenizerFiles, Vocabulary] | None = None) -> Workshop:
    """Set up the stages in this process; `loaded` is the planner's own tokenizer, where it is at hand.

    Raises ConfigError where tokenizer, template or engine changed since the plan.
    """
    serving = settle_serving(plan.config, plan.clock, loaded)
    engine = choose_engine(serving.vocabulary, plan.engine, tested=loaded is not None)
    for what, planned, found in (
        ("tokenizer", plan.tokenizer["sha256"], serving.files.sha256),
        ("template", plan.template["sha256"], serving.template_entry(plan.config, plan.clock)["sha256"]),
        ("tokenizer engine", plan.versions.get("engine"), f"{engine.name} {engine.version}"),
    ):
        if planned != found:
            raise ConfigError(
                describe(
                    f"the {what} changed since the run was planned",
                    where=plan.config.tokenizer,
                    expected=str(planned),
                    fix="Start over with --fresh.",
                )
            )
    workshop = Workshop(plan, serving, engine)
    _return_memory()
    return workshop


def _return_memory() -> None:
    """Give back to the system what loading a tokenizer took for a moment: 150 MiB, which glibc would keep."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)


def check_versions(plan: Plan) -> None:
    """Raises ConfigError where a package here is of another version than where the plan was made."""
    for name, here in versions().items():
        planned = plan.versions.get(name)
        if planned != here:
            raise ConfigError(
                describe(
                    f"{name} {here} is installed here, and the plan was made with {planned}",
                    expected="the same versions on every machine",
                    fix=f"Install {name}=={planned}, or plan again with --fresh.",
                )
            )
