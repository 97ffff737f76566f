import os
import signal
from types import SimpleNamespace

import pytest

from hn.training.callbacks.signals import StopOnSignal
from hn.training.callbacks.stopping import StoppedBySignal

TRAINER = SimpleNamespace(world_size=1)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR2])
def test_a_signal_stops_at_the_next_batch_with_its_own_status(signum):
    callback, at_first = StopOnSignal(), signal.getsignal(signum)
    if at_first == signal.SIG_IGN:  # the tests run under nohup
        signal.signal(signum, signal.SIG_DFL)
    before = signal.getsignal(signum)
    callback.on_train_start(TRAINER, None)
    os.kill(os.getpid(), signum)
    with pytest.raises(StoppedBySignal) as caught:
        callback.on_train_batch_start(TRAINER, None, None, 1)
    callback.on_exception(TRAINER, None, caught.value)
    assert caught.value.code == 128 + signum
    assert caught.value.reason == signum.name
    assert signal.getsignal(signum) == before
    signal.signal(signum, at_first)


def test_a_signal_that_the_process_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    callback = StopOnSignal()
    try:
        callback.on_train_start(TRAINER, None)
        os.kill(os.getpid(), signal.SIGHUP)
        callback.on_train_batch_start(TRAINER, None, None, 1)
        callback.on_fit_end(TRAINER, None)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
