"""Which server is meant, and that no token goes to another one."""

import subprocess
import sys
from pathlib import Path

import pytest

from skydriver_client import BadProfile, NoCredentials
from skydriver_client.servers import find_server
from skydriver_client.streams import Parser

PROFILE = """
current = "prod"
[contexts.prod]
url = "https://prod.test/"
token_file = "prod.token"
[contexts.dev]
url = "https://dev.test"
token = "dev-token"
[contexts.broken]
"""


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "skydriver"
    folder.mkdir()
    for name, text in (("config.toml", PROFILE), ("prod.token", "prod-token\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_argument_before_context_before_environment_before_the_profiles_choice(environ: dict[str, str]) -> None:
    env = environ | {"SKYDRIVER_URL": "https://env.test", "SKYDRIVER_TOKEN": "env-token"}

    def found(url: str | None = None, context: str | None = None, env: dict[str, str] = env) -> tuple[str, str | None]:
        server = find_server(url, context=context, environ=env)
        return server.url, server.token

    assert found() == ("https://env.test", "env-token")
    assert found("https://env.test") == ("https://env.test", "env-token")
    assert found(context="dev") == ("https://dev.test", "dev-token")
    assert found(env=environ) == ("https://prod.test", "prod-token")
    assert found(env=environ | {"SKYDRIVER_CONTEXT": "dev"}) == ("https://dev.test", "dev-token")
    assert found("https://x.test", env=environ | {"SKYDRIVER_TOKEN": "t"}) == ("https://x.test", "t")


def test_a_token_of_one_address_is_not_sent_to_another(environ: dict[str, str]) -> None:
    env = environ | {"SKYDRIVER_URL": "https://env.test", "SKYDRIVER_TOKEN": "env-token"}
    with pytest.raises(NoCredentials, match="no token for https"):
        find_server("https://other.test", environ=env)
    assert find_server("https://other.test", has_token=True, environ=env).token is None


def test_what_is_wrong_with_a_profile_is_said(environ: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "skydriver" / "config.toml"
    with pytest.raises(BadProfile, match="context lost is not there; there are: broken, dev, prod"):
        find_server(context="lost", environ=environ)
    with pytest.raises(BadProfile, match="has no url"):
        find_server(context="broken", environ=environ)
    config.chmod(0o644)
    with pytest.raises(BadProfile, match="chmod 600"):
        find_server(context="dev", environ=environ)
    config.write_text("current = ")
    with pytest.raises(BadProfile, match="Invalid value"):
        find_server(environ=environ)
    with pytest.raises(NoCredentials, match="no server is named"):
        find_server(environ={"XDG_CONFIG_HOME": str(tmp_path / "elsewhere")})


def test_messages_of_a_stream_are_found_wherever_it_is_cut() -> None:
    text = b":\n\nid: 1\nevent: a\ndata: {}\n\n:\n\nevent: b\r\ndata: 1\r\ndata: 2\r\n\r\n"
    parser = Parser()
    whole = list(parser.feed(text))
    assert [(message.event, message.data) for message in whole] == [("a", "{}"), ("b", "1\n2")]
    parser = Parser()
    assert [message for byte in text for message in parser.feed(bytes([byte]))] == whole


def test_the_library_needs_nothing_but_httpx2() -> None:
    code = (
        "import sys, skydriver_client\n"
        "ours = [name for name in sys.modules if name.startswith('skydriver_') and not name.startswith('skydriver_client')]\n"
        "print(ours + [name for name in ('aiohttp', 'pydantic', 'orjson', 'rich', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
