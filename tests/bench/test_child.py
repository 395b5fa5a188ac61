"""Arms as processes: a peer that dies, hangs, lies or prints; environments that cannot be made."""

from __future__ import annotations

import sys
import time

import pytest

from augrec.bench import child as child_module
from augrec.bench.child import Child
from augrec.bench.environments import MARK, PEERS, Environments, Pins, interpreter
from augrec.bench.timing import ArmFailed

PEER = """
import os, sys, time

class Work:
    def __init__(self, settings):
        self.settings, self.units, self.readies = settings, 0, 0
        self.info = {"scale": 2.0, "threads": os.environ["OMP_NUM_THREADS"], "path": os.environ.get("PYTHONPATH")}
        print("a library that talks on standard output")

    def ready(self):
        time.sleep(self.settings.get("ready", 0))

    def unit(self):
        self.units += 1
        if self.settings.get("dies") == self.units:
            print("out of memory, says the peer", file=sys.stderr, flush=True)
            os._exit(3)
        if self.settings.get("raises") == self.units:
            raise KeyError("item_id")
        if self.settings.get("hangs") == self.units:
            time.sleep(60)
        time.sleep(0.01)

def open_work(task, settings):
    if task != "train":
        raise ValueError(f"no {task}")
    return Work(settings)
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A Child factory on a peer of our own, beside a copy of the host."""
    (tmp_path / "host.py").write_bytes(child_module.HOST.read_bytes())
    (tmp_path / "made_peer.py").write_text(PEER, encoding="utf-8")
    monkeypatch.setattr(child_module, "HOST", tmp_path / "host.py")

    def start(patience=30.0, **variables):
        return Child(sys.executable, "made_peer", threads=2, environment=variables, patience=patience)

    return start


def test_it_answers_in_turns_and_what_a_library_prints_is_no_answer(peer):
    with peer(PYTHONPATH="") as child:
        assert child.open("train", {"ready": 0.05}) == {"scale": 2.0, "threads": "2", "path": ""}
        turn = child.turn(units=3, warm=1)
        assert len(turn.seconds) == len(turn.processor) == 3
        assert all(0.01 <= one < 0.05 for one in turn.seconds), "what is made ready is not timed"
        assert turn.spent >= sum(turn.processor)
        assert child.close()[0] > 3


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"dies": 2}, "left with exit code 3: out of memory, says the peer"),
        ({"raises": 2}, "KeyError: 'item_id'"),
    ],
)
def test_a_peer_that_dies_says_why(peer, settings, reason):
    with peer() as child:
        child.open("train", settings)
        assert child.turn(units=1, warm=0).seconds
        with pytest.raises(ArmFailed) as failure:
            child.turn(units=1, warm=0)
        assert reason in str(failure.value)


def test_a_task_that_is_not_there_is_refused(peer):
    with peer() as child, pytest.raises(ArmFailed, match="ValueError: no dance"):
        child.open("dance", {})


def test_a_peer_that_hangs_is_ended(peer):
    with peer(patience=1.0) as child:
        child.open("train", {"hangs": 1})
        begun = time.monotonic()
        with pytest.raises(ArmFailed, match="no answer within 1 s"):
            child.turn(units=1, warm=0)
        assert time.monotonic() - begun < 20
        with pytest.raises(ArmFailed, match="stopped by SIGKILL"):
            child.turn(units=1, warm=0)


def test_a_module_that_is_not_there_and_a_python_that_is_not_there():
    child = Child(sys.executable, "no_such_peer", threads=1, environment={})
    with child, pytest.raises(ArmFailed, match="No module named 'no_such_peer'"):
        child.open("train", {})
    with pytest.raises(ArmFailed, match="does not start"):
        Child("/no/such/python", "commands", threads=1, environment={})


def test_a_command_that_fails_is_a_reason():
    child = Child(sys.executable, "commands", threads=1, environment={})
    with child, pytest.raises(ArmFailed, match="no_such_library"):
        child.open("command", {"arguments": ["-c", "import no_such_library"]})


def test_an_environment_that_cannot_be_made_says_why_once(tmp_path):
    said = []
    pins = {"peer": Pins(packages=("no-such-package-of-anybody==0.0.0",), python=(2, 6))}
    made = Environments(tmp_path / "peers", peers=pins, say=said.append)
    for _ in range(2):
        with pytest.raises(ArmFailed, match=r"it needs Python 2\.6"):
            made.python("peer")
    assert said == []
    with pytest.raises(ArmFailed, match="no such program"):
        Environments(tmp_path, {"peer": "/no/such/python"}, peers=pins).python("peer")


def test_pip_that_fails_is_a_reason_and_leaves_no_mark(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    pins = {"peer": Pins(packages=("no-such-package-of-anybody==0.0.0",))}
    said = []
    made = Environments(tmp_path / "peers", peers=pins, say=said.append)
    with pytest.raises(ArmFailed, match=r"pip could not install peer: .*no-such-package-of-anybody"):
        made.python("peer")
    assert len(said) == 1
    assert not (tmp_path / "peers" / "peer" / MARK).exists()


def test_an_environment_is_made_once_and_anew_when_its_pins_change(tmp_path):
    pins = {"peer": Pins(packages=("a==1",))}
    home = tmp_path / "peer"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python").symlink_to(sys.executable)
    (home / MARK).write_text(pins["peer"].key, encoding="utf-8")
    assert Environments(tmp_path, peers=pins).python("peer") == str(home / "bin" / "python")
    other = Environments(tmp_path, peers={"peer": Pins(packages=("a==2",), python=(2, 6))})
    with pytest.raises(ArmFailed, match=r"Python 2\.6"):
        other.python("peer")


def test_every_peer_is_pinned_and_ours_is_out_of_its_sight():
    for name, pins in PEERS.items():
        assert all("==" in one for one in pins.packages), name
        assert Environments.variables(Environments(child_module.HOST), name)["PYTHONPATH"] == ""
    assert interpreter(sys.version_info[:2]) == sys.executable
