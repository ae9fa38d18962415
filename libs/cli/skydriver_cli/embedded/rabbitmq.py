"""A private RabbitMQ node: the server installed on this machine, with its own name, ports, cookie and files.

The script below /usr/lib/rabbitmq is run directly, since Debian's script in /usr/sbin requires root or the user `rabbitmq`.
An Erlang node needs a port mapper (epmd). The one that it would start itself never exits, so we run our own as a child process.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from skydriver_cli.embedded import processes
from skydriver_cli.embedded.ports import LOOPBACK
from skydriver_cli.embedded.secret_files import load_or_create_secret, write_private
from skydriver_cli.errors import CliError

USER = "skydriver"
NODE = "skydriver@localhost"
START_LIMIT_S = 90.0
PORTS = ("amqp", "amqp_distribution", "epmd")
_SERVER_DIRS = (
    "/usr/lib/rabbitmq/bin",
    "/usr/local/lib/rabbitmq/bin",
    "/opt/rabbitmq/sbin",
    "/usr/local/sbin",
    "/opt/homebrew/sbin",
)
# A queue declared moments before a kill -9 may come back as a follower of nobody: its member list survives, its term does
# not, and RabbitMQ 3.10 then never calls an election, so the queue hangs every client for ever. The only member is the
# rightful leader, so the node asks such queues to elect during its first minutes. No spaces: the start script splits words.
_ELECT_LEADERS = (
    "-eval spawn(fun()->lists:foreach(fun(_)->timer:sleep(1000),catch(lists:foreach(fun(Member)->"
    "(case(element(2,Member))of(follower)->catch(ra:trigger_election({element(1,Member),node()}));(_)->(ok)end)"
    "end,ets:tab2list(ra_state)))end,lists:seq(1,120))end)."
)
MAX_DEAD_LETTERS = 10_000
# As in deploy/rabbitmq, for a machine of one's own. A file of definitions would keep the node from making our user, so the node
# sets the policy itself as soon as it can. From 4.0 on the letters must not count how often they are looked at; older ones refuse
# that part, and get the rest.
_BOUND_DEAD_LETTERS = (
    "-eval spawn(fun()->lists:any(fun(_)->timer:sleep(500),lists:any(fun(More)->"
    'ok==(catch(rabbit_policy:set(<<"/">>,<<"dead-letters">>,<<"^skydriver[.]dead-letters$">>,'
    f'[{{<<"max-length">>,{MAX_DEAD_LETTERS}}},{{<<"max-length-bytes">>,536870912}},{{<<"overflow">>,<<"drop-head">>}}|More],'
    '10,<<"queues">>,<<"skydriver">>)))end,[[{<<"delivery-limit">>,-1}],[]])end,lists:seq(1,240))end).'
)
_NEEDED_PLUGINS = ("rabbit-*", "rabbit_common-*", "rabbitmq_prelaunch-*")
_TOKEN_PLUGIN = "rabbitmq_auth_backend_oauth2"  # noqa: S105  (a name, no password)
_TOKEN_PLUGINS = (f"{_TOKEN_PLUGIN}-*", "jose-*", "base64url-*", "cowlib-*")


@dataclass(frozen=True)
class BrokerTokenAuth:
    """The tokens that the broker accepts as passwords: their audience, and id and public key (PEM) of their signer."""

    audience: str
    kid: str
    public_pem: bytes


@dataclass(frozen=True)
class RabbitMQ:
    """A running node. `url` names its default vhost with user and password: a secret.

    accepts_scan_tokens: whether a scan's token is a login, with the permissions in its scopes.
    """

    url: str
    port: int
    child: processes.Child
    port_mapper: processes.Child
    accepts_scan_tokens: bool

    async def stop(self, grace_s: float = 8.0) -> bool:
        """Stop node and port mapper. Return whether the node exited by itself when asked to."""
        politely = await self.child.stop(grace_s=grace_s)
        await self.port_mapper.stop(grace_s=1.0)
        return politely


def server_script() -> Path:
    """Return the `rabbitmq-server` script. Raises CliError when there is none."""
    named = os.environ.get("SKYDRIVER_RABBITMQ_SERVER")
    if named:
        if not os.access(named, os.X_OK):
            raise CliError(
                "SKYDRIVER_RABBITMQ_SERVER: not an executable file", "Set it to the path of rabbitmq-server, or unset it"
            )
        return Path(named)
    for place in _SERVER_DIRS:
        if os.access(script := Path(place) / "rabbitmq-server", os.X_OK):
            return script
    if found := shutil.which("rabbitmq-server"):
        return Path(found)
    raise CliError(
        "the RabbitMQ server binary is missing",
        "Install it (Debian: apt-get install rabbitmq-server), or set SKYDRIVER_AMQP_URL to an existing broker",
    )


def port_mapper_program() -> str:
    """Return the path of `epmd`, which comes with Erlang. Raises CliError when there is none."""
    if found := shutil.which("epmd"):
        return found
    for program in sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd")):
        return str(program)
    raise CliError("Erlang's epmd is missing", "Install Erlang (Debian: apt-get install erlang-base)")


async def start(
    home: Path, *, ports: dict[str, int], run_dir: Path, logs: Path, token_auth: BrokerTokenAuth | None = None
) -> RabbitMQ:
    """Start the node whose files are in `home`; return when it accepts connections.

    ports: one for each of PORTS. token_auth: accept scan tokens as logins, if the server has its plugin for that.
    Raises CliError when it can't start.
    """
    script, mapper = server_script(), port_mapper_program()
    home.mkdir(parents=True, exist_ok=True)
    password = load_or_create_secret(home / "password")
    if token_auth is not None and not _plugin_dirs(script, _TOKEN_PLUGINS):
        token_auth = None
    _write_configuration(home, ports["amqp"], password, token_auth)
    environment = _environment(home, script, ports, logs, with_tokens=token_auth is not None)
    port_mapper = await processes.start(
        "epmd",
        [mapper, "-port", str(ports["epmd"]), "-address", LOOPBACK],
        env=environment,
        cwd=home,
        log=logs / "rabbitmq-start.log",
        identity_file=run_dir / "epmd.pid.json",
    )
    try:
        child = await processes.start(
            "rabbitmq",
            [str(script)],
            env=environment,
            cwd=home,
            log=logs / "rabbitmq-start.log",
            identity_file=run_dir / "rabbitmq.pid.json",
        )
        url = f"amqp://{USER}:{quote(password, safe='')}@{LOOPBACK}:{ports['amqp']}/"
        node = RabbitMQ(url, ports["amqp"], child, port_mapper, accepts_scan_tokens=token_auth is not None)
        try:
            await _ready(node)
        except BaseException:
            await child.stop(grace_s=2.0)
            raise
    except BaseException:
        await port_mapper.stop(grace_s=1.0)
        raise
    return node


def _write_configuration(home: Path, port: int, password: str, token_auth: BrokerTokenAuth | None) -> None:
    lines = [
        f"listeners.tcp.1 = {LOOPBACK}:{port}",
        f"default_user = {USER}",  # made with the database; then there is no user `guest`
        f"default_pass = {password}",
        "vm_memory_high_watermark.absolute = 1GiB",
        "max_message_size = 16777216",  # as in deploy/rabbitmq/rabbitmq.conf
        "raft.wal_max_size_bytes = 33554432",
        "log.console = false",
        "log.file = rabbitmq.log",
        "log.file.level = info",
        "log.file.rotation.size = 5242880",
        "log.file.rotation.count = 1",
    ]
    if token_auth is not None:
        public = home / "scan-tokens.pem"
        write_private(public, token_auth.public_pem)
        lines += [
            "auth_backends.1 = internal",
            "auth_backends.2 = rabbit_auth_backend_oauth2",
            f"auth_oauth2.resource_server_id = {token_auth.audience}",
            f"auth_oauth2.default_key = {token_auth.kid}",
            f"auth_oauth2.signing_keys.{token_auth.kid} = {public}",
        ]
    write_private(home / "enabled_plugins", f"[{_TOKEN_PLUGIN if token_auth is not None else ''}].\n")
    write_private(home / "rabbitmq.conf", "\n".join(lines) + "\n")
    cookie = home / ".erlang.cookie"  # Erlang reads it from $HOME; on the command line others could see it
    if not cookie.exists():
        load_or_create_secret(cookie)
        cookie.chmod(0o400)


def _environment(home: Path, script: Path, ports: dict[str, int], logs: Path, *, with_tokens: bool) -> dict[str, str]:
    # The node watches its disk by `df PATH` through a shell, unquoted: a path with a space would break that. All its
    # processes share our working directory, so this name is good for each of them.
    here = "/proc/self/cwd" if Path("/proc/self/cwd").exists() else str(home)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    environment = {
        "PATH": os.defpath,
        **kept,
        "HOME": str(home),
        "ERL_EPMD_PORT": str(ports["epmd"]),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_CRASH_DUMP_BYTES": "0",
        "ERL_MAX_PORTS": "8192",
        "RABBITMQ_NODENAME": NODE,
        "RABBITMQ_DIST_PORT": str(ports["amqp_distribution"]),
        "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),  # absent; else the machine's own would be read
        "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": f"{here}/mnesia",
        "RABBITMQ_LOG_BASE": str(logs),
        "RABBITMQ_MAX_NUMBER_OF_PROCESSES": "131072",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none "  # two schedulers that sleep instead of spinning
            "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1} " + _ELECT_LEADERS + " " + _BOUND_DEAD_LETTERS
        ),
        "detached": "1",  # the script then becomes the node, instead of waiting for it in a shell
    }
    if _link_needed_plugins(home / "parts", script, _NEEDED_PLUGINS + (_TOKEN_PLUGINS if with_tokens else ())):
        environment["RABBITMQ_PLUGINS_DIR"] = f"{here}/parts"
    return environment


def _link_needed_plugins(folder: Path, script: Path, needed: tuple[str, ...]) -> bool:
    """Fill `folder` with links to the plugins that the node needs. Return False when the installation has an unknown layout.

    A node reads the description of every plugin at each start; without them it starts in 4.0 s instead of 5.3 s and takes
    20 MB less.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = _plugin_dirs(script, needed)
    for plugin in found:
        (folder / plugin.name).symlink_to(plugin)
    return bool(found)


def _plugin_dirs(script: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Return the directories of these plugins; an empty list when one of them is missing."""
    for root in (script.parent.parent, *sorted(script.parent.parent.glob("lib/rabbitmq_server-*"))):
        found = [part for pattern in patterns for part in [*(root / "plugins").glob(pattern)][:1] if part.is_dir()]
        if len(found) == len(patterns):
            return found
    return []


async def _ready(node: RabbitMQ) -> None:
    """Wait until a client can log in."""
    import aio_pika

    deadline = asyncio.get_running_loop().time() + START_LIMIT_S
    while True:
        try:
            # connects to the port first, since the client library logs each refused connection as an error
            _, probe = await asyncio.open_connection(LOOPBACK, node.port)
            probe.close()
            connection = await aio_pika.connect(node.url, timeout=5)
        except (OSError, aio_pika.exceptions.AMQPError, TimeoutError) as error:
            if node.child.has_ended:
                raise CliError(f"RabbitMQ did not start: {node.child.last_lines(2)}", f"See {node.child.log}") from None
            if asyncio.get_running_loop().time() > deadline:
                raise CliError(f"RabbitMQ did not respond ({type(error).__name__})", f"See {node.child.log}") from None
            await asyncio.sleep(0.1)
        else:
            await connection.close()
            return
