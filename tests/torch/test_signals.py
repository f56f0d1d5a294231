"""A run notes the signals that end it, and leaves alone what nohup has ignored."""

from __future__ import annotations

import os
import signal

import pytest

from sftdata_torch.signals import noted_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_and_its_handler_comes_back(number):
    before = signal.getsignal(number)
    with noted_signals() as noted:
        os.kill(os.getpid(), number)
        assert noted == [number]
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_is_one_as_ever():
    with noted_signals() as noted:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert noted == [signal.SIGINT]


def test_a_closed_terminal_that_nohup_has_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with noted_signals() as noted:
        os.kill(os.getpid(), signal.SIGHUP)
    assert noted == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
