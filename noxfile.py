"""Run the tests on every supported Python, and with the lowest allowed dependencies.

Called by `make pythons` and `make lowest`. Arguments after `--` are passed to pytest.
"""

import nox

nox.needs_version = ">=2025.5.1"

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
LOWEST = PYTHONS[0]
LOCAL = {"3.11"}  # the same as in the Makefile
OFFLINE = {"HF_HUB_OFFLINE": "1"}
DIST = ("--dist", "loadfile", "--no-loadscope-reorder")  # the same as in the Makefile
PYTEST = ("python", "-m", "pytest", "--numprocesses", "auto", *DIST)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests with the packages that `make test` installs."""
    local = session.python in LOCAL
    extras = "all,multilingual,local" if local else "all,multilingual"
    groups = ["--group", "dev", *(["--group", "local"] if local else [])]
    session.install("--constraint", "constraints.txt", "--editable", f".[{extras}]", *groups)
    session.run(*PYTEST, *session.posargs, env=OFFLINE)


@nox.session(python=LOWEST, venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest allowed version of every direct dependency.

    Old packages may use features that newer ones deprecate, so these warnings are not errors.
    """
    lowest_direct = ("--resolution", "lowest-direct")
    session.install(*lowest_direct, "--editable", ".[all,multilingual]", "--group", "dev")
    quiet = ("-W", "ignore::DeprecationWarning")
    session.run(*PYTEST, *quiet, *session.posargs, env=OFFLINE)
