import os
import signal
import subprocess
import sys
import time

import pytest
from costtrace_lab.demo.processes import kill_session, session_members, wait_until

FAMILY = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('ready', flush=True); time.sleep(60)"


def start_family():
    process = subprocess.Popen(
        [sys.executable, "-c", FAMILY], start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    # The kernel shows a command line only some time after the program has been started.
    assert wait_until(lambda: "sleep 60" in {member.command for member in session_members(process.pid)}, 10)
    return process


def test_all_processes_of_a_session_are_found_and_no_other():
    family = start_family()
    try:
        members = session_members(family.pid)
        assert family.pid in {member.pid for member in members}
        assert len(members) == 2
        assert os.getpid() not in {member.pid for member in members}
    finally:
        kill_session(family.pid)
        family.wait()


def test_killing_a_session_leaves_nothing_even_after_its_leader_has_gone():
    family = start_family()
    family.kill()
    family.wait()
    killed = kill_session(family.pid)
    assert [process.command for process in killed] == ["sleep 60"]
    assert session_members(family.pid) == []


def test_a_zombie_does_not_count():
    child = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    assert wait_until(lambda: session_members(child.pid) == [], 10)
    assert child.wait() == 0


ORDERLY = """
import time
from costtrace_lab.demo.processes import end_on_sigterm_as_on_ctrl_c
end_on_sigterm_as_on_ctrl_c()
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    print("stopped what it had started", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_program_that_gets_a_signal_to_end_stops_what_it_started(number):
    program = [sys.executable, "-c", ORDERLY]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.communicate(timeout=30)[0] == "stopped what it had started\n"


def test_waiting_gives_up_at_its_bound():
    began = time.monotonic()
    assert not wait_until(lambda: False, 0.2)
    assert 0.2 <= time.monotonic() - began < 2
