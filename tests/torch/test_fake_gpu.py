"""A training step on a GPU that is not there: on which device everything is, what is waited for, what is kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).resolve().parent
pytestmark = [
    pytest.mark.skipif(torch.version.cuda is not None, reason="this torch knows a GPU of its own"),
    pytest.mark.skipif(shutil.which("g++") is None or sys.platform != "linux", reason="no g++ here"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What tests.torch.fake_gpu prints."""
    library, root = tmp_path_factory.mktemp("fake") / "fake_gpu.so", Path(torch.__file__).parent
    libraries = root / "lib"
    command = ["g++", "-std=c++20", "-O0", "-fPIC", "-shared", f"-I{root / 'include'}", str(HERE / "fake_gpu.cpp")]
    command += ["-o", str(library), f"-L{libraries}", "-lc10", "-ltorch_cpu"]
    subprocess.run(command, check=True, capture_output=True)
    env = {**os.environ, "LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(libraries)}
    run = [sys.executable, "-W", "ignore", "-m", "tests.torch.fake_gpu", str(library)]
    done = subprocess.run(run, env=env, cwd=HERE.parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
@pytest.mark.parametrize(("mode", "passes", "waits"), [("fast", 1, 1), ("lean", 2, 1), ("min", 2, 2)])
def test_a_step_runs_on_the_kernel_and_waits_no_more_than_it_says(seen, family, mode, passes, waits):
    found = seen["steps"][f"{family}, {mode}"]
    micro_batches, layers = (1 if mode == "min" else 2), 2
    assert found["kernels"] == micro_batches * layers * passes
    assert found["backward"] == micro_batches * layers
    assert found["wide products"] == 2 * micro_batches
    assert found["waits"] == ["step.py"] * waits
    assert found["states on"] == ["cuda:0"]


@pytest.mark.parametrize("dtype", ["torch.float32", "torch.bfloat16"])
def test_a_layer_keeps_what_the_plan_says_of_a_gpu(seen, dtype):
    """float32 weights under autocast, and weights in bfloat16."""
    counted, planned = seen["kept"][dtype]
    assert counted == pytest.approx(planned, rel=0.01)
