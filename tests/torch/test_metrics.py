"""Every number is in metrics.jsonl; other services get the same, by the names they are called."""

from __future__ import annotations

import json
import math
import sys
import types

import pytest

from sftdata.errors import ConfigError
from sftdata_torch.advice import ran_to_the_limit, rising, too_many_epochs
from sftdata_torch.metrics import Metrics


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_resumed_run_goes_on_behind_its_checkpoint_and_a_cut_line_is_dropped(tmp_path):
    first = Metrics(tmp_path, after_step=0, log_to=(), settings={})
    for step in (1, 2, 3):
        first.log(step, {"train/loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 4, "train/lo')
    Metrics(tmp_path, after_step=2, log_to=(), settings={}).log(3, {"train/loss": 9.0})
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [(1, 1.0), (2, 2.0), (3, 9.0)]


def test_what_is_not_finite_is_null_so_that_the_file_stays_json(tmp_path):
    Metrics(tmp_path, after_step=0, log_to=(), settings={}).log(1, {"eval/loss": math.nan, "eval/perplexity": math.inf})
    assert lines(tmp_path) == [{"step": 1, "eval/loss": None, "eval/perplexity": None}]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_get_the_values_under_their_names_and_steps(tmp_path, monkeypatch, name):
    said = []
    module = types.SimpleNamespace(
        init=lambda **given: said.append(("init", given["config"])),
        log=lambda values, step: said.append((step, values)),
    )
    monkeypatch.setitem(sys.modules, name, module)
    Metrics(tmp_path, after_step=0, log_to=(name,), settings={"epochs": 3}).log(7, {"train/loss": 1.5})
    assert said == [("init", {"epochs": 3}), (7, {"train/loss": 1.5})]
    assert lines(tmp_path) == [{"step": 7, "train/loss": 1.5}]


def test_unknown_and_missing_services_are_refused_by_name(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no logger 'wanbd'"):
        Metrics(tmp_path, after_step=0, log_to=("wanbd",), settings={})
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ConfigError, match=r"the logger trackio needs a package: .*pip install trackio"):
        Metrics(tmp_path, after_step=0, log_to=("trackio",), settings={})


def test_advice_is_given_where_there_is_a_reason_and_only_there():
    assert too_many_epochs(3.0) is None
    assert "4 epochs" in str(too_many_epochs(4))
    assert rising([1.2]) is rising([1.2, 1.1]) is None
    assert "1.3, after 1.1 at evaluation 2" in str(rising([1.2, 1.1, 1.3]))
    assert ran_to_the_limit(0.1, 256) is None
    assert "50% of the replies ran to the limit of 256 tokens" in str(ran_to_the_limit(0.5, 256))
