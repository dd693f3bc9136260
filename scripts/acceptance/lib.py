"""What the acceptance checks share: local nodes that can be killed and paused, the load generator, and the verdict.

Every check is a program of its own that starts its own nodes on free ports with data directories of its own, and ends
them whatever happens. Environment of all checks: FLOTILLA (the binary, default target/release/flotilla), TMPDIR (where
the data directories are made; the disk that is tested), KEEP=1 (keeps them), and the parameters a check names in its
head, as environment variables too. Standard library only.
"""

import atexit
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FLOTILLA = os.environ.get("FLOTILLA", str(ROOT / "target/release/flotilla"))
SDK_PYTHON = ROOT / "target/sdk/python-venv/bin/python"


def parameter(name, default):
    """A number from the environment."""
    return type(default)(os.environ.get(name, default))


class Check:
    """One check: what it measured, what was wrong, and the last line."""

    def __init__(self, number, title):
        self.number = number
        self.failures = []
        self.clusters = []
        self.processes = []
        self.began = time.monotonic()
        if not os.access(FLOTILLA, os.X_OK):
            sys.exit(f"check {number}: {FLOTILLA} is not there: run `make build` first")
        self.logs = ROOT / f"target/acceptance/check-{number}"
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        self.data = Path(tempfile.mkdtemp(prefix=f"flotilla-check-{number}."))
        atexit.register(self._clean)
        for number_of_signal in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number_of_signal, lambda *_: sys.exit(130))
        print(f"check {number}: {title}", flush=True)

    def say(self, text):
        print(f"  {time.monotonic() - self.began:7.1f} s  {text}", flush=True)

    def must(self, holds, otherwise):
        """Notes a failure unless it holds; the check goes on, so that one run shows everything."""
        if not holds:
            self.failures.append(otherwise)
            self.say(f"WRONG: {otherwise}")
        return holds

    def cluster(self, nodes=3, name="node", args=()):
        cluster = Cluster(self, nodes, name, args)
        self.clusters.append(cluster)
        return cluster

    def run(self, body):
        """Runs the check and ends the program with its verdict."""
        try:
            body(self)
        except SystemExit:
            raise
        except Exception as error:  # a broken check is a failed one, and its nodes are ended all the same
            import traceback
            traceback.print_exc()
            self.failures.append(f"{type(error).__name__}: {error}")
        for cluster in self.clusters:
            cluster.judge_logs()
        self._clean()
        verdict = "FAIL " + "; ".join(self.failures) if self.failures else "PASS"
        print(f"check {self.number}: {verdict}", flush=True)
        sys.exit(1 if self.failures else 0)

    def _clean(self):
        for cluster in self.clusters:
            cluster.end()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        if os.environ.get("KEEP") == "1":
            print(f"  data kept in {self.data}", flush=True)
        else:
            shutil.rmtree(self.data, ignore_errors=True)


class Node:
    """One node's place: its addresses, its directory, and its process while it has one."""

    def __init__(self, cluster, number, ports, directory):
        self.cluster, self.number, self.directory = cluster, number, directory
        self.client_port, self.http_port, self.peer_port = ports
        self.client, self.http, self.peer = (f"127.0.0.1:{port}" for port in ports)
        self.log = cluster.check.logs / f"{cluster.name}-{number}.log"
        self.process = None

    def start(self, *more):
        initial = ",".join(f"{node.number}={node.peer}" for node in self.cluster.nodes)
        command = [FLOTILLA, "serve", "--node-id", str(self.number), "--data-dir", str(self.directory),
                   "--client-addr", self.client, "--http-addr", self.http, "--peer-addr", self.peer,
                   "--initial-cluster", initial, *self.cluster.args, *more]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return self

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, which):
        if self.running():
            self.process.send_signal(which)

    def kill(self):
        """kill -9, and waits until the process is gone."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self, timeout=30):
        """A graceful end; returns the exit code, or None if it did not come in time."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def get(self, path, timeout=2.0):
        """(status, body) of an HTTP request; status 0 if nobody answers."""
        return http("GET", self.http, path, timeout=timeout)

    def ready(self):
        return self.running() and self.get("/healthz/ready")[0] == 200

    def view(self):
        """The cluster as this node sees it, or None."""
        status, body = self.get("/v1/cluster")
        return json.loads(body) if status == 200 else None

    def metric(self, name, labels=""):
        """Sum of a metric over its label sets that contain `labels`."""
        status, body = self.get("/metrics")
        if status != 200:
            return None
        found = re.findall(rf"^{name}(?:\{{([^}}]*)\}})? (\S+)$", body, re.M)
        return sum(float(value) for given, value in found if labels in given)

    def resident_bytes(self):
        try:
            with open(f"/proc/{self.pid}/statm") as statm:
                return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, AttributeError):
            return 0


class Cluster:
    def __init__(self, check, count, name, args):
        self.check, self.name, self.args = check, name, list(args)
        # What a check expects to see at level ERROR, as regular expressions.
        self.expected_errors = []
        ports = free_ports(3 * count)
        self.nodes = []
        for number in range(1, count + 1):
            own = ports[3 * number - 3:3 * number]
            self.nodes.append(Node(self, number, own, check.data / f"{name}-{number}"))

    def __getitem__(self, number):
        return self.nodes[number - 1]

    @property
    def endpoints(self):
        return ";".join(node.client for node in self.nodes)

    @property
    def https(self):
        return ";".join(node.http for node in self.nodes)

    def start(self, timeout=60):
        for node in self.nodes:
            node.start()
        self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=60):
        """Until every node says that it is ready; returns the seconds it took."""
        def ready():
            for node in self.nodes:
                if not node.running():
                    last = node.log.read_text(errors="replace").strip().splitlines()[-1:]
                    raise RuntimeError(f"node {node.number} is not running: {last}")
            return all(node.ready() for node in self.nodes)
        return wait_for(timeout, "every node is ready", ready)

    def view(self):
        """The cluster as any node sees it."""
        for node in self.nodes:
            view = node.view() if node.running() else None
            if view:
                return view
        return None

    def create_topic(self, name, queues=None):
        body = {"name": name} if queues is None else {"name": name, "queues": queues}
        return http("POST", self.any_running().http, "/v1/topics", body, timeout=30)

    def create_group(self, name, **more):
        return http("POST", self.any_running().http, "/v1/consumer-groups", {"name": name, **more}, timeout=30)

    def any_running(self):
        return next(node for node in self.nodes if node.running())

    def leading_most(self):
        """The running node that leads most shards, and how many."""
        view = self.view()
        if view is None:
            return None, 0
        leads = {node["id"]: node["leads"] for node in view["nodes"] if self[node["id"]].running()}
        number = max(leads, key=lambda id: (leads[id], -id))
        return self[number], leads[number]

    def leader_of(self, shard):
        view = self.view()
        leader = next((each["leader"] for each in view["shards"] if each["id"] == shard), None) if view else None
        return self[leader] if leader else None

    def ailments(self, lag=1000):
        """What keeps the cluster from being healthy: everybody alive, every shard led, and fully replicated on all."""
        views = {node.number: node.view() for node in self.nodes}
        found = [f"node {number} does not answer" for number, view in views.items() if view is None]
        if found:
            return found
        everybody = {node.number for node in self.nodes}
        for number, view in views.items():
            alive = {node["id"] for node in view["nodes"] if node["alive"]}
            if alive != everybody:
                found.append(f"node {number} sees only {sorted(alive)} alive")
            found += [f"node {number} knows no leader of shard {shard['id']}"
                      for shard in view["shards"] if shard["leader"] is None]
            if not view["shards"]:
                found.append(f"node {number} has no shards")
            for shard in view["shards"]:
                if shard["leader"] != number:
                    continue
                voters = {replica["node"] for replica in shard["replicas"] if replica["voter"]}
                if voters != everybody or len(shard["replicas"]) != len(everybody):
                    found.append(f"shard {shard['id']} is replicated as {shard['replicas']}")
                for replica in shard["replicas"]:
                    if replica["lag"] is None or replica["lag"] > lag:
                        found.append(f"shard {shard['id']}: node {replica['node']} lags by {replica['lag']}")
        return found

    def wait_healthy(self, timeout=60, lag=1000):
        """Seconds until nothing ails the cluster; None and a failure if it goes on ailing."""
        began = time.monotonic()
        while True:
            ailments = self.ailments(lag)
            if not ailments:
                return time.monotonic() - began
            if time.monotonic() - began > timeout:
                self.check.must(False, f"not healthy after {timeout} s: {ailments[:3]}")
                return None
            time.sleep(0.1)

    def wait_spread(self, timeout=60):
        """Until leadership is evenly spread: the nodes of a new cluster take their shares one by one."""
        def spread():
            view = self.view()
            leads = [node["leads"] for node in view["nodes"]] if view else [0]
            return min(leads) > 0 and max(leads) - min(leads) <= 1
        return wait_for(timeout, "every node leads its share", spread, every=0.2)

    def logs(self):
        return "".join(node.log.read_text(errors="replace") for node in self.nodes if node.log.exists())

    def judge_logs(self):
        """A panic, or an ERROR that the check did not expect, fails it."""
        for node in self.nodes:
            text = node.log.read_text(errors="replace") if node.log.exists() else ""
            for line in text.splitlines():
                plain = re.sub(r"\x1b\[[0-9;]*m", "", line)
                bad = "panicked at" in plain or re.search(r"\bERROR\b", plain)
                if bad and not any(re.search(pattern, plain) for pattern in self.expected_errors):
                    self.check.must(False, f"node {node.number} logged: {plain[:300]}")
                    break

    def end(self):
        for node in self.nodes:
            if node.running():
                node.signal(signal.SIGCONT)
                node.process.kill()
                node.process.wait()


class Bench:
    """One run of `flotilla bench` in the background."""

    def __init__(self, check, name, mode, cluster, *args, calibrate=False, nice=0):
        self.check, self.name = check, name
        self.json = check.logs / f"{name}.json"
        self.output = check.logs / f"{name}.txt"
        command = ["nice", "-n", str(nice), FLOTILLA, "bench", mode, "--endpoint", cluster.endpoints, "--http", cluster.https,
                   "--json", str(self.json), *map(str, args)]
        if not calibrate:
            command.append("--no-calibrate")
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        check.processes.append(self.process)

    def running(self):
        return self.process.poll() is None

    def wait(self, timeout):
        """The report; None (and a failure) if there is none."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            self.check.must(False, f"bench {self.name} did not end within {timeout} s")
            return None
        if not self.json.exists():
            text = self.output.read_text(errors="replace").strip().splitlines()
            self.check.must(False, f"bench {self.name} ended with {self.process.returncode}: {text[-1:]}")
            return None
        return json.loads(self.json.read_text())

    def wait_flowing(self, cluster, timeout=60):
        """Until the nodes store what this load sends."""
        def stored():
            return sum(node.metric("rocketmq_messages_in_total") or 0 for node in cluster.nodes if node.running())
        before = stored()
        wait_for(timeout, f"bench {self.name} sends", lambda: not self.running() or stored() > before + 100, every=0.2)


def gap_after(report, at, seconds=8.0):
    """Around something that happened at `at` (seconds since 1970): the longest time without a single acknowledged
    send, and the slowest send that was acknowledged, both in milliseconds."""
    from_ms = at * 1000 - report["run"]["started_ms"]
    until_ms = from_ms + seconds * 1000
    gaps = [gap["length_ms"] for gap in report["sending"]["gaps"]
            if gap["at_ms"] < until_ms and gap["at_ms"] + gap["length_ms"] > from_ms]
    slowest = [second["max_latency_ms"] for second in report["timeline"]
               if from_ms <= (second["second"] + 1) * 1000 and second["second"] * 1000 <= until_ms]
    return max(gaps, default=0.0), max(slowest, default=0.0)


def verify(check, report, what="bench"):
    """The rules that hold in every run: nothing acknowledged lost, nothing invented, no duplicate of a first try."""
    if report is None:
        return
    verdict = report["verification"]
    check.say(f"{what}: {report['messages_per_second']:.0f} messages/s, {verdict['acknowledged']} acknowledged, "
              f"{verdict['lost']} lost, {verdict['duplicated']} duplicated ({verdict['duplicated_first_try']} of first "
              f"tries), {verdict['unexpected']} unexpected, {verdict['redelivered']} redelivered, "
              f"{verdict['unknown']} unknown, {verdict['refused']} refused; failures {report['failures']}")
    check.must(verdict["acknowledged"] > 0, f"{what}: nothing was acknowledged")
    for wrong in ("lost", "unexpected", "duplicated_first_try"):
        check.must(verdict[wrong] == 0, f"{what}: {verdict[wrong]} {wrong}: {verdict['examples'][:3]}")


def http(method, address, path, body=None, timeout=2.0):
    """(status, text); status 0 if nobody answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://{address}{path}", data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except (OSError, urllib.error.URLError, ValueError) as error:
        return 0, str(error)
    except Exception as error:  # http.client's own: a connection that was cut in the middle
        return 0, str(error)


def free_ports(count):
    """Ports nobody listens on, below the kernel's range for outgoing connections."""
    found = []
    while len(found) < count:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def wait_for(timeout, what, condition, every=0.05):
    """Seconds until the condition holds; TimeoutError after `timeout`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout:
            raise TimeoutError(f"not within {timeout} s: {what}")
        time.sleep(every)
    return time.monotonic() - began


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def load_average():
    return os.getloadavg()[0]


def with_grpc():
    """Goes on in the Python environment of `make test-sdk`, which has the official SDK and its gRPC stubs."""
    try:
        import grpc  # noqa: F401
    except ImportError:
        if Path(sys.executable) == SDK_PYTHON or not SDK_PYTHON.exists():
            subprocess.run([sys.executable, "-m", "venv", str(SDK_PYTHON.parents[1])], check=True)
            requirements = ROOT / "broker/tests/sdk/python/requirements.txt"
            subprocess.run([str(SDK_PYTHON), "-m", "pip", "install", "-q", "-r", str(requirements)], check=True)
        os.execv(str(SDK_PYTHON), [str(SDK_PYTHON), *sys.argv])
