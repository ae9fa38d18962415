"""Environment variables that a request must not set, since they steer more than a scanner: one table, with a reason each. Pure.

Whoever sets one of these decides what a process loads, runs, trusts or connects to: ``PYTHONWARNINGS`` and ``BROWSER`` together run
any command. A list of what is forbidden is never complete, so it comes after ``UserVariables``, which says what is let through.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

_LOADS = "loads code into every process"
_INTERPRETER = "steers an interpreter"
_SHELL = "steers a shell"
_RUNS = "names a program to run"
_FOLDER = "names where programs look for files"
_TRUST = "steers whom a process trusts"
_NETWORK = "steers where a process connects"
_ACCOUNT = "is a credential, or says where one is"
_OURS = "is a setting of SkyDriver or of its surroundings"

STEERING: dict[str, str] = {
    **dict.fromkeys(("LD_*", "DYLD_*", "GLIBC_*", "MALLOC_*", "GCONV_PATH", "LOCPATH", "NLSPATH", "NSS_*", "FAKECHROOT*"), _LOADS),
    **dict.fromkeys(("ASAN_*", "LSAN_*", "MSAN_*", "TSAN_*", "UBSAN_*", "OPENSSL_*", "MPL*", "COVERAGE_*", "PYDEVD*", "DEBUGPY*"), _LOADS),
    **dict.fromkeys(("PYTHON*", "PYENV*", "PIP_*", "UV_*", "CONDA*", "VIRTUAL_ENV*", "IPYTHON*", "JUPYTER*", "NODE_*"), _INTERPRETER),
    **dict.fromkeys(("NPM_*", "npm_*", "JAVA_*", "JDK_*", "_JAVA_*", "CLASSPATH", "PERL*", "RUBY*", "GEM_*", "LUA_*"), _INTERPRETER),
    **dict.fromkeys(("PHP*", "R_PROFILE*", "R_ENVIRON*", "R_LIBS*", "GUILE_*", "TCL*", "JULIA_*"), _INTERPRETER),
    **dict.fromkeys(("BASH*", "ENV", "IFS", "CDPATH", "SHELL*", "ZDOTDIR", "PROMPT_COMMAND", "PS0", "PS1", "PS2", "PS3", "PS4"), _SHELL),
    **dict.fromkeys(("BROWSER", "EDITOR", "VISUAL", "*PAGER", "LESS*", "GIT_*", "SSH_*", "DISPLAY", "DOCKER_*"), _RUNS),
    **dict.fromkeys(("PATH", "PATHEXT", "HOME", "PWD", "OLDPWD", "TMPDIR", "TMP", "TEMP", "TEMPDIR", "XDG_*", "TERM*", "TZDIR"), _FOLDER),
    **dict.fromkeys(("USER", "LOGNAME", "KRB5*", "AWS_*", "BOTO*", "GOOGLE_*", "GCLOUD_*", "AZURE_*", "NETRC"), _ACCOUNT),
    **dict.fromkeys(("SSL*", "REQUESTS_*", "CURL_*", "GNUTLS_*", "CERTIFI*"), _TRUST),
    **dict.fromkeys(("*_PROXY", "HOSTALIASES", "LOCALDOMAIN", "RES_OPTIONS", "RESOLV_*"), _NETWORK),
    **dict.fromkeys(("SKYDRIVER_*", "SANDBOX_*", "KUBE*"), _OURS),
}  # fmt: skip
"""Pattern of names, to the reason why no request may set them. A star stands for any characters."""

_ANY_CASE = ("*_PROXY",)
"""Whose case does not matter to those that read them."""
_PATTERN = re.compile(r"[A-Za-z_*][A-Za-z0-9_*]{0,127}")


def _regex(pattern: str) -> str:
    letters = "".join(f"[{each}{each.lower()}]" if each.isalpha() else each for each in pattern)
    return (letters if pattern in _ANY_CASE else pattern).replace("*", "[A-Za-z0-9_]*")


_REASONS = [(re.compile(_regex(pattern)), reason) for pattern, reason in STEERING.items()]
STEERING_REGEX = "|".join(_regex(pattern) for pattern in STEERING)
"""Of the whole name, for JSON Schema as well."""


def why_steering(name: str) -> str | None:
    """Return why no request may set this variable, or None."""
    return next((reason for pattern, reason in _REASONS if pattern.fullmatch(name)), None)


@dataclass(frozen=True, slots=True)
class UserVariables:
    """Which variables a request may set: patterns of names. What steers more than a scanner is never among them."""

    patterns: tuple[str, ...] = ("*",)

    @classmethod
    def parse(cls, text: str) -> "UserVariables":
        """Read patterns separated by commas; none: no variable. Raises ValueError."""
        patterns = tuple(part.strip() for part in text.split(",") if part.strip())
        for pattern in patterns:
            if _PATTERN.fullmatch(pattern) is None:
                raise ValueError(f"must be names of variables with * for any characters, separated by commas, not {pattern!r}")
        return cls(patterns)

    def allows(self, name: str) -> bool:
        """Return whether a request may set this variable."""
        return self._is_let_through(name) and why_steering(name) is None

    def refused(self, names: Iterable[str]) -> dict[str, str]:
        """Return those that are not let through by the patterns, each with a reason that names the setting."""
        setting = f"is not let through by SKYDRIVER_USER_ENV_ALLOW ({', '.join(self.patterns) or 'no variable'})"
        return {name: setting for name in names if not self._is_let_through(name)}

    def _is_let_through(self, name: str) -> bool:
        return any(re.fullmatch(pattern.replace("*", "[A-Za-z0-9_]*"), name) for pattern in self.patterns)
