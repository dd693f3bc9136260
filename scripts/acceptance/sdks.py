"""Consumers of the official SDKs for the acceptance checks: built like those of `make test-sdk`, started, listened to."""

import os
import shutil
import subprocess
import threading
import time

from lib import ROOT, SDK_PYTHON

SOURCES, BUILT = ROOT / "broker/tests/sdk", ROOT / "target/sdk"


def build(languages):
    """Builds the consumers; those of Python need nothing but the environment that `with_grpc` made."""
    BUILT.mkdir(parents=True, exist_ok=True)
    if "go" in languages:
        for program in ("push", "simple"):
            subprocess.run(["go", "build", "-o", str(BUILT / "go" / program), f"./{program}"], cwd=SOURCES / "go", check=True)
    if "java" in languages:
        subprocess.run(["mvn", "-q", "-B", "-ntp", "-f", str(SOURCES / "java/pom.xml"), "package",
                        f"-Dsdk.output={BUILT / 'java'}"], stdin=subprocess.DEVNULL, check=True)
    if "node" in languages:
        (BUILT / "node").mkdir(exist_ok=True)
        for source in (SOURCES / "node").iterdir():
            shutil.copy(source, BUILT / "node")
        subprocess.run(["npm", "ci", "--silent", "--no-audit", "--no-fund"], cwd=BUILT / "node", check=True)


def program(language, name):
    """How a consumer of the language is started: `push` or `simple`."""
    home = BUILT / "home"
    home.mkdir(parents=True, exist_ok=True)
    return {
        "python": [str(SDK_PYTHON), str(SOURCES / f"python/{name}.py")],
        "go": [str(BUILT / "go" / name)],
        "java": ["java", f"-Duser.home={home}", f"-Drocketmq.log.root={home}/logs", "-cp",
                 f"{BUILT}/java/java-sdk-test-0.jar:{BUILT}/java/lib/*", f"flotilla.{name.capitalize()}"],
        "node": ["node", str(BUILT / f"node/{name}.js")],
    }[language]


class Consumer:
    """One consumer; what it got, with when: [(monotonic seconds, body, attempt)], and when it was ready."""

    def __init__(self, check, language, kind, name, *arguments):
        self.name, self.language, self.got, self.ready, self.ready_at = name, language, [], threading.Event(), None
        self.log = open(check.logs / f"{name}.txt", "wb")
        self.process = subprocess.Popen([*program(language, kind), *map(str, arguments)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, "HOME": str(BUILT / "home")})
        check.processes.append(self.process)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            words = line.decode(errors="replace").split()
            if words[:1] == ["ready"]:
                self.ready_at = time.monotonic()
                self.ready.set()
            elif words[:1] == ["got"] and len(words) == 3:
                self.got.append((time.monotonic(), words[1], int(words[2])))

    def close(self):
        """Lets it say good-bye."""
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
