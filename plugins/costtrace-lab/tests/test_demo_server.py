"""The end of a server that does not end by itself. The other tests of this module run a real vLLM: tests/system."""

import json
import sys

from costtrace_lab.demo.processes import session_members
from costtrace_lab.demo.server import VllmServer

DEAF = """
import http.server, signal, subprocess, sys

class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

def waits_for_ever():
    http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Healthy).serve_forever()

signal.signal(signal.SIGTERM, signal.SIG_IGN)
subprocess.Popen(["sleep", "60"])
waits_for_ever()
"""


class DeafServer(VllmServer):
    """A front end that SIGTERM does not end, with one child."""

    def command(self):
        return [sys.executable, "-c", DEAF, str(self.port)]


def test_a_front_end_that_does_not_end_shows_its_stacks_and_is_killed_with_all_others(tmp_path):
    (tmp_path / "env.json").write_text(json.dumps({"python": sys.executable, "vllm_version": "0", "kind": "cpu"}))
    server = DeafServer(tmp_path, tmp_path, tmp_path / "home")
    server.start()
    front = server.pid
    killed = server.stop(bound_s=0.2)
    assert killed[0].pid == front
    assert [member.command for member in killed[1:]] == ["sleep 60"]
    assert session_members(front) == []
    log = server.log_path.read_text()
    assert "Fatal Python error: Aborted" in log
    assert "in waits_for_ever" in log
