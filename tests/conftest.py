"""What all tests share: one BLAS thread, real data, backends, and skips that are counted.

A skip's reason starts with what is missing ("data: ...", "cupy: ...", "parity: ...") and must
be a line of skips.txt, or a run with CI=true fails. MINIPEFT_REQUIRE=data,cupy turns the skips
of those kinds into failures.
"""

import importlib.util
import os
import sys

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
if "numpy" in sys.modules and os.environ.get(THREADS[0]) != "1":  # its BLAS has its threads by now
    raise RuntimeError(
        f"a pytest plugin imported NumPy before the tests could ask for one BLAS thread; set "
        f"{THREADS[0]}=1 for this run"
    )
for name in THREADS:
    os.environ[name] = "1"

from fnmatch import fnmatchcase  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402

from minipeft import backend as arrays  # noqa: E402
from tests import fakecupy  # noqa: E402

TESTS = Path(__file__).parent
CHECKOUT = TESTS.parent


@pytest.fixture
def real_data():
    """real_data("e2e_nlg") is the folder or file of that name among the real data sets."""

    def find(name):
        root = os.environ.get("MINIPEFT_REAL_DATA") or CHECKOUT.parent / "shared" / "data"
        path = Path(root) / name
        if not path.exists():
            pytest.skip(f"data: {name} is not there (MINIPEFT_REAL_DATA names its folder)")
        return path

    return find


@pytest.fixture
def digits_at_hand():
    """Skips where the bundled digits are not there."""
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("scikit-learn: it is not installed, and has the digits")


@pytest.fixture(params=["numpy", "stand-in", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request):
    """The array library to test on."""
    if request.param == "numpy":
        yield np
    elif request.param == "stand-in":
        with fakecupy.device() as xp:
            yield xp
    else:
        try:
            yield arrays.xp_of(arrays.to_device(np.zeros(1), "cuda"))
        except RuntimeError:
            pytest.skip("cupy: there is no GPU with CuPy")


# --- skips -----------------------------------------------------------------------------------


def _reason(report):
    """Why a test was skipped, or None."""
    if not report.skipped or hasattr(report, "wasxfail") or not isinstance(report.longrepr, tuple):
        return None
    return str(report.longrepr[2]).removeprefix("Skipped: ")


def _require(report):
    """Make a skip fail where MINIPEFT_REQUIRE asks for what is missing."""
    reason = _reason(report)
    required = [kind.strip() for kind in os.environ.get("MINIPEFT_REQUIRE", "").split(",")]
    if reason and reason.partition(":")[0] in required:
        report.outcome = "failed"
        report.longrepr = f"MINIPEFT_REQUIRE forbids the skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    _require(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    _require(report)
    return report


def _unlisted(terminal):
    """Reasons of this run's skips that skips.txt does not hold."""
    listed = (TESTS / "skips.txt").read_text().splitlines()
    reasons = {_reason(report) for report in terminal.stats.get("skipped", [])} - {None}
    return sorted(r for r in reasons if not any(fnmatchcase(r, line) for line in listed if line))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and terminal and _unlisted(terminal):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter):
    for reason in _unlisted(terminalreporter):
        terminalreporter.write_line(f"skip that tests/skips.txt does not list: {reason}", red=True)
