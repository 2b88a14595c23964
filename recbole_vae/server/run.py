"""The processes of the server: one, or several workers and one that watches over them."""

from __future__ import annotations

import functools
import logging
import logging.config
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

from uvicorn import Config, Server
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from recbole_vae.errors import CheckpointError, ConfigError, RecBoleVAEError
from recbole_vae.server.protocol import Protocol
from recbole_vae.server.settings import Settings

LOG = logging.getLogger("recbole_vae.server")

_STARTUP_FAILED = 3
"""The status with which a worker tells the watching process that it cannot load the model."""
_PAUSE = 10.0
"""Seconds before another worker is started in the place of one that could not load the model."""

_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(asctime)s %(levelname)s [%(process)d] %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
    "loggers": {
        "recbole_vae.server": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        # At WARNING it has a line for every request that is not HTTP.
        "uvicorn": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
    },
}


def run(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C; answer the requests that have come by then.

    Raises:
        ConfigError: the address cannot be used.
        RecBoleVAEError: the checkpoint cannot be served.
    """
    logging.config.dictConfig(_LOGGING)
    listening = _listen(settings.host, settings.port)
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if settings.token is None and not _is_local(host):
        LOG.warning("%s can be reached from other machines, and no token is needed; see --token_file", address)
    if settings.workers == 1:
        app = _application(settings)
        LOG.info("listening on %s, its API is at %s/docs", address, address)
        _serve(Server(_config(settings, lambda: app)), listening)
        return
    with tempfile.TemporaryDirectory(prefix="recbole_vae_metrics_") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # the workers inherit it
        supervisor = _Supervisor(_config(settings, functools.partial(_worker, settings)), [listening])
        LOG.info("starting %d workers on %s, its API is at %s/docs", settings.workers, address, address)
        supervisor.run()
        LOG.info("ended")
    if supervisor.interrupted:
        raise KeyboardInterrupt
    if supervisor.failed:
        raise CheckpointError(f"{settings.checkpoint}: no worker could start; the reason stands above.")


def _is_local(host: str) -> bool:
    return host.startswith("127.") or host == "::1"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            f"--host={host} --port={port} (command line): cannot listen there: {error.strerror}."
        ) from None
    listening.set_inheritable(True)
    return listening


def _config(settings: Settings, application: Callable[[], Any]) -> Config:
    return Config(
        application,
        factory=True,
        http=Protocol,
        ws="none",
        lifespan="on",
        log_config=_LOGGING,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        workers=settings.workers,
        timeout_keep_alive=75,  # longer than a proxy keeps an idle connection, so that the proxy closes it
        timeout_graceful_shutdown=int(settings.limits.seconds) + 5,
        timeout_worker_healthcheck=60,  # a worker that imports torch does not answer
    )


def _serve(server: Server, listening: socket.socket) -> None:
    # uvicorn raises SIGTERM again once it has ended, which is no failure.
    old = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        server.run(sockets=[listening])
    finally:
        signal.signal(signal.SIGTERM, old)
        LOG.info("ended")


def _application(settings: Settings) -> Any:
    """Load the model and return the application, which imports torch."""
    import torch

    from recbole_vae.model.registry import import_models
    from recbole_vae.server.app import create_app
    from recbole_vae.server.model import load

    torch.set_num_threads(1)  # the event loop and the other workers have the other cores
    if settings.imports:
        import_models(settings.imports, "command line")
    served = load(settings)
    recommender = served.recommender
    LOG.info(
        "version %s of %s: %s for %s, %d items", served.version, settings.checkpoint, type(recommender.model).__name__,
        recommender.dataset, len(recommender.items) - 1,
    )  # fmt: skip
    return create_app(settings, served)


def _worker(settings: Settings) -> Any:
    """Return the application of a worker, which ends with the process that watches over it."""
    parent = multiprocessing.parent_process()
    if parent is not None:

        def follow() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=follow, daemon=True).start()
    try:
        return _application(settings)
    except Exception as error:  # whatever it is, the other workers go on
        known = isinstance(error, RecBoleVAEError)
        LOG.error("%s", " ".join(str(error).split()) or type(error).__name__, exc_info=not known)
        sys.exit(_STARTUP_FAILED)


class _Supervisor(Multiprocess):
    """Starts workers, and others in the place of those that die. SIGHUP is passed on to them.

    Attributes:
        failed: whether it ended because no worker could load the model.
        interrupted: whether it ended because of Ctrl-C.
    """

    def __init__(self, config: Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.failed = self.interrupted = False
        self._due: dict[int | None, float] = {}

    def keep_subprocess_alive(self) -> None:
        """Replace the workers that died. One that could not load the model is replaced later, while others answer."""
        for place, process in enumerate(self.processes):
            # The worker has its own. Through this one a worker that dies while it is asked would still seem to be there.
            process.child_conn.close()
            if process.is_alive(timeout=self.config.timeout_worker_healthcheck):
                continue
            process.kill()  # it hangs, if it has not ended
            process.join()
            if process.exitcode == _STARTUP_FAILED:
                if not any(other.is_ready() for other in self.processes if other is not process):
                    self.failed = True
                    self.should_exit.set()
                    return
                if time.monotonic() < self._due.setdefault(process.pid, time.monotonic() + _PAUSE):
                    continue
                del self._due[process.pid]
            LOG.warning("worker %s ended; another takes its place", process.pid)
            self.processes[place] = Process(self.config, self.sockets)
            self.processes[place].start()

    def handle_int(self) -> None:
        self.interrupted = True
        super().handle_int()

    def handle_hup(self) -> None:
        for process in self.processes:
            if process.pid is not None and process.is_ready():
                os.kill(process.pid, signal.SIGHUP)
