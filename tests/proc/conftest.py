# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the process tests. Whatever a test starts or mounts is gone when it ends."""
import os
import signal
import tempfile

import pytest

from tests.lib import util
from tests.lib.cluster import Cluster
from tests.lib.loopfs import LoopFs
from tests.lib.netns import Network
from tests.lib.nginx import Nginx
from tests.lib.s3fault import S3Fault
from tests.lib.swift import Swift
from tests.lib.tarn import Tarn, binary
from tests.lib.tls import Certificates


def pytest_configure():
    """TERM ends a run as Ctrl-C does: what the tests have started and mounted goes first."""
    def interrupt(*_):
        signal.signal(signal.SIGTERM, lambda *_: None)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@pytest.fixture(scope="session")
def session_dir():
    """A directory of this run; TARN_TEST_DIR names another place than the default for temporaries."""
    path = tempfile.mkdtemp(prefix="tarn-test-", dir=os.environ.get("TARN_TEST_DIR"))
    os.chmod(path, 0o755)
    yield path
    remove(path)


def remove(path):
    """rm is far quicker than shutil where a store leaves ten thousand directories."""
    util.unmount_below(path)
    util.run("rm", "-rf", "--one-file-system", path, seconds=150, check=False)


@pytest.fixture
def workdir(session_dir):
    """A directory of one test."""
    path = tempfile.mkdtemp(prefix="t-", dir=session_dir)
    os.chmod(path, 0o755)
    yield path
    remove(path)


@pytest.fixture(scope="session")
def swift_session(session_dir):
    store = Swift(os.path.join(session_dir, "swift"))
    yield store.start()
    store.stop()


@pytest.fixture
def swift(swift_session):
    """The session's Swift, up and with an empty request log; tests take buckets of their own."""
    swift_session.go_on()
    if any(p.poll() is not None for p in swift_session.processes.values()) or \
            not swift_session.processes:
        swift_session.restart()
    swift_session.forget_requests()
    return swift_session


@pytest.fixture
def bucket(swift, request):
    """The name of a new bucket on `swift`."""
    name = "t" + util.xxh3(request.node.nodeid.encode())
    swift.client.create_bucket(name)
    swift.forget_requests()
    return name


@pytest.fixture
def swift_factory(workdir):
    """Makes further instances: swift_factory(); host: of `network`; below: another directory."""
    made = []

    def make(host=None, below=None):
        made.append(Swift(os.path.join(below or workdir, f"swift{len(made)}"), host))
        return made[-1].start()

    yield make
    for store in made:
        store.stop()


@pytest.fixture(scope="session")
def certificates(session_dir):
    return Certificates(os.path.join(session_dir, "tls"))


@pytest.fixture
def s3fault_factory(certificates):
    """Makes scripted stores: s3fault_factory(), s3fault_factory(tls="expired"); host: of `network`."""
    made = []

    def make(tls=None, host=None):
        made.append(S3Fault(certificates.server_context(tls) if tls else None, host))
        return made[-1].start()

    yield make
    for store in made:
        store.stop()


@pytest.fixture
def s3fault():
    store = S3Fault().start()
    yield store
    store.stop()


@pytest.fixture
def tarn(workdir):
    """Starts servers: tarn(uri, *flags). start=False gives one that was not started."""
    made = []

    def make(uri, *args, start=True, **kwargs):
        assert os.access(binary(), os.X_OK), f"{binary()}: build it first, or set TARN_BIN"
        directory = os.path.join(workdir, f"tarn{len(made)}")
        os.makedirs(directory)
        made.append(Tarn(directory, uri, *args, **kwargs))
        return made[-1].start() if start else made[-1]

    yield make
    for server in reversed(made):
        server.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if call.when == "call":
        item.failed = outcome.get_result().failed


@pytest.fixture
def network(root):
    """Hosts: network.host(name)."""
    with Network() as made:
        yield made


@pytest.fixture
def cluster(root, workdir, request):
    """Starts clusters: cluster(workers=3, network=network). start=False gives one not started."""
    made = []

    def make(start=True, **kwargs):
        assert os.access(binary(), os.X_OK), f"{binary()}: build it first, or set TARN_BIN"
        made.append(Cluster(os.path.join(workdir, f"cluster{len(made)}"), **kwargs))
        return made[-1].start() if start else made[-1]

    yield make
    for one in reversed(made):
        if getattr(request.node, "failed", True):
            print(one.logs())
        one.close()


@pytest.fixture
def root():
    """For tests that mount by themselves."""
    if os.getuid() != 0:
        pytest.skip("only root may mount file systems")


@pytest.fixture
def loopfs(root, workdir):
    """Makes file systems: loopfs("ext4", "64M"), loopfs("tmpfs", "16M"), loopfs("xfs", "300M")."""
    made = []

    def make(kind, size, **kwargs):
        made.append(LoopFs(os.path.join(workdir, f"fs{len(made)}"), kind, size, **kwargs))
        return made[-1]

    yield make
    for fs in made:
        fs.close()


@pytest.fixture
def nginx(workdir):
    """Serves directories: nginx(root), nginx(root, s3=True)."""
    made = []

    def make(root, **kwargs):
        made.append(Nginx(os.path.join(workdir, f"nginx{len(made)}"), root, **kwargs))
        return made[-1].start()

    yield make
    for server in made:
        server.stop()
