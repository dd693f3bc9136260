"""Push consumers of the official SDKs for the acceptance checks: built like those of `make test-sdk`, started, listened to."""

import os
import subprocess
import threading
import time

from lib import ROOT, SDK_PYTHON

SOURCES, BUILT = ROOT / "broker/tests/sdk", ROOT / "target/sdk"


def build(languages):
    """Builds the push consumers; those of Python need nothing but the environment that `with_grpc` made."""
    BUILT.mkdir(parents=True, exist_ok=True)
    if "go" in languages:
        subprocess.run(["go", "build", "-o", str(BUILT / "go/push"), "./push"], cwd=SOURCES / "go", check=True)
    if "java" in languages:
        subprocess.run(["mvn", "-q", "-B", "-ntp", "-f", str(SOURCES / "java/pom.xml"), "package",
                        f"-Dsdk.output={BUILT / 'java'}"], stdin=subprocess.DEVNULL, check=True)


class Push:
    """One push consumer; what it got, with when: [(monotonic seconds, body, attempt)]."""

    def __init__(self, check, language, name, endpoint, topic, group, seconds):
        home = BUILT / "home"
        home.mkdir(parents=True, exist_ok=True)
        program = {
            "python": [str(SDK_PYTHON), str(SOURCES / "python/push.py")],
            "go": [str(BUILT / "go/push")],
            "java": ["java", f"-Duser.home={home}", f"-Drocketmq.log.root={home}/logs", "-cp",
                     f"{BUILT}/java/java-sdk-test-0.jar:{BUILT}/java/lib/*", "flotilla.Push"],
        }[language]
        self.name, self.language, self.got, self.ready = name, language, [], threading.Event()
        self.log = open(check.logs / f"{name}.txt", "wb")
        self.process = subprocess.Popen([*program, endpoint, topic, group, str(seconds)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.log, env={**os.environ, "HOME": str(home)})
        check.processes.append(self.process)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            words = line.decode(errors="replace").split()
            if words[:1] == ["ready"]:
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
