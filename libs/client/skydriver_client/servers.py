"""Which server is meant, and with which token: argument, environment, profile file."""

import json
import os
import tomllib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from skydriver_client.errors import BadProfile, NoCredentials

TokenSource = str | Callable[[], str]
AsyncTokenSource = str | Callable[[], str] | Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Server:
    """The address of the REST API, and a bearer token (a secret). origin: where they were found, for people."""

    url: str
    token: str | None = field(repr=False)
    origin: str


def config_file(environ: Mapping[str, str] = os.environ) -> Path:
    """The profile file: ``config.toml`` in the user's folder of settings, or what SKYDRIVER_CONFIG names."""
    if named := environ.get("SKYDRIVER_CONFIG"):
        return Path(named)
    base = environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "skydriver" / "config.toml"


def find_server(
    url: str | None = None, *, has_token: bool = False, context: str | None = None, data_dir: Path | str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Server:  # fmt: skip
    """Return the first server that is named: by url, context, environment, the profile's own choice, or a data directory.

    A token goes to the address that it was found with, SKYDRIVER_TOKEN also to ``url`` unless SKYDRIVER_URL names another one.
    has_token: the caller has one, none is looked for. Raises NoCredentials, BadProfile.
    """
    env_url, env_token = environ.get("SKYDRIVER_URL"), environ.get("SKYDRIVER_TOKEN")
    if url:
        token = env_token if env_url in (None, "", url) else None
        return _checked(Server(url.rstrip("/"), token, "url"), has_token)
    if context is None and env_url:
        return _checked(Server(env_url.rstrip("/"), env_token, "SKYDRIVER_URL"), has_token)
    profile = read_profile(environ)
    chosen = context or environ.get("SKYDRIVER_CONTEXT") or profile.get("current")
    if chosen:
        return _checked(_of_context(str(chosen), profile, config_file(environ)), has_token)
    if data_dir is not None:
        return of_data_dir(Path(data_dir))
    raise NoCredentials(
        f"no server is named: give url=, set SKYDRIVER_URL and SKYDRIVER_TOKEN, or name a context in {config_file(environ)}"
    )


def read_profile(environ: Mapping[str, str] = os.environ) -> Mapping[str, Any]:
    """The profile file's content, empty when there is none. Raises BadProfile."""
    path = config_file(environ)
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise BadProfile(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def of_data_dir(data_dir: Path) -> Server:
    """The embedded system that `skydriver up` runs in this directory. Raises NoCredentials."""
    path = data_dir / "connection.json"
    try:
        stored = json.loads(path.read_text())
        return Server(str(stored["url"]), str(stored["user_token"]), str(path))
    except (OSError, ValueError, KeyError, TypeError):
        raise NoCredentials(f"no running system found ({path} is missing or not readable)") from None


def _of_context(name: str, profile: Mapping[str, Any], path: Path) -> Server:
    contexts = profile.get("contexts")
    found = contexts.get(name) if isinstance(contexts, dict) else None
    if not isinstance(found, dict):
        known = ", ".join(sorted(contexts)) if isinstance(contexts, dict) and contexts else "none"
        raise BadProfile(f"{path}: context {name} is not there; there are: {known}")
    url, token, token_file = (found.get(word) for word in ("url", "token", "token_file"))
    if not isinstance(url, str) or not url:
        raise BadProfile(f"{path}: context {name} has no url")
    if token is None and isinstance(token_file, str):
        token = _secret(path.parent / Path(token_file).expanduser())
    elif token is not None:
        _must_be_private(path)
    return Server(url.rstrip("/"), None if token is None else str(token), f"context {name}")


def _secret(path: Path) -> str:
    try:
        _must_be_private(path)
        return path.read_text().strip()
    except OSError as error:
        raise BadProfile(f"{path}: {error.strerror}") from error


def _must_be_private(path: Path) -> None:
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise BadProfile(f"{path}: others may read it, and it holds a token; run `chmod 600 {path}`")


def _checked(server: Server, has_token: bool) -> Server:
    if not has_token and not server.token:
        raise NoCredentials(f"there is no token for {server.url}: give token=, or set SKYDRIVER_TOKEN beside SKYDRIVER_URL")
    return server
