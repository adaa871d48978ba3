"""SIGTERM leaves `with` blocks in order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from unsee.termination import Terminated, ended_by_sigterm

TWICE = """
import os, signal, time
from unsee.termination import ended_by_sigterm
with ended_by_sigterm():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
"""


def test_it_is_an_exit_with_143_and_afterwards_all_is_as_before() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as raised, ended_by_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert raised.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before
    with ended_by_sigterm():
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_one_ends_the_process_at_once() -> None:
    assert subprocess.run([sys.executable, "-c", TWICE], check=False, timeout=20).returncode == -signal.SIGTERM


def test_other_threads_change_nothing() -> None:
    seen = []

    def work() -> None:
        with ended_by_sigterm():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
