"""A containerd of the test's own, and containers of the project's image as the pods of ``deploy/`` start them."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.waiting import until

_CONFIG = """version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{folder}/socket"
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """A running containerd that has the image. folder: for its files and the containers' logs."""

    folder: Path
    image: str
    process: asyncio.subprocess.Process

    @staticmethod
    async def start(folder: Path, *, image: str, archive: Path) -> "Engine":
        """Start it, and import the image."""
        folder.mkdir(parents=True)
        config = folder / "config.toml"
        config.write_text(_CONFIG.format(folder=folder))
        with (folder / "containerd.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec("containerd", "--config", str(config), stdout=log, stderr=log)
        engine = Engine(folder, image, process)

        async def answers() -> bool:
            assert process.returncode is None, (folder / "containerd.log").read_text()[-2000:]
            return (await engine._ctr("version"))[0] == 0

        await until(answers, what="containerd answers")
        code, out = await engine._ctr("images", "import", str(archive))
        assert code == 0, out
        return engine

    async def stop(self) -> None:
        """End it; its containers have ended before."""
        self.process.terminate()
        await self.process.wait()

    async def container(
        self, name: str, arguments: Sequence[str], *, environment: Mapping[str, str], files: Mapping[str, Path]
    ) -> "Container":
        """Start a container: root file system read-only, the image's user, a small ``/tmp``. files: folders by their place inside."""
        mounts = ["type=tmpfs,src=tmpfs,dst=/tmp,options=rw:nosuid:nodev:size=256m:mode=1777"]
        mounts += [f"type=bind,src={path},dst={place},options=rbind:ro" for place, path in files.items()]
        words = [word for mount in mounts for word in ("--mount", mount)]
        words += [word for key, value in environment.items() for word in ("--env", f"{key}={value}")]
        log = self.folder / f"{name}.log"
        with log.open("wb") as sink:
            process = await asyncio.create_subprocess_exec(
                *self._command("run", "--rm", "--read-only", "--net-host", "--cgroup", "", *words, self.image, name, "python", "-m"),
                *arguments, stdout=sink, stderr=sink,
            )  # fmt: skip
        return Container(self, name, process, log)

    def _command(self, *words: str) -> list[str]:
        return ["ctr", "--address", str(self.folder / "socket"), *words]

    async def _ctr(self, *words: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *self._command(*words), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await process.communicate()
        return process.returncode or 0, out.decode()


@dataclass(frozen=True, slots=True)
class Container:
    """One container, started in the foreground of a ``ctr``, which ends with the container's exit code."""

    engine: Engine
    name: str
    process: asyncio.subprocess.Process
    log: Path

    async def exit_code(self) -> int:
        """Wait for its end."""
        return await self.process.wait()

    async def stop(self) -> int:
        """Ask it to end, as a kubelet does; its exit code."""
        if self.process.returncode is None:
            await self.engine._ctr("tasks", "kill", "--signal", "SIGTERM", self.name)
        return await self.process.wait()

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")


def work_folder() -> Path:
    """Where scripts/test-cluster wants everything."""
    return Path(os.environ["SKYDRIVER_TEST_CLUSTER_WORK"])
