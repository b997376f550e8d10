"""The way to a Dask scheduler that somebody else started: its address, TLS, and clear refusals.

Dask's own client tries an address for half a minute, and one that cannot make sense of it takes
longer to go away. So what can be known is looked at first: the form of the address, what TLS
needs (https://distributed.dask.org/en/stable/tls.html), and whether anybody listens there.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anamnesis.errors import UsageError
from anamnesis.pipeline.executors import SchedulerError

CONNECT_SECONDS = 10.0
_SETTINGS = "distributed.comm.tls"
_FILES = ("ca-file", "client.cert", "client.key")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of the scheduler at `address`.

    Raises UsageError for an address that is none, or for TLS without certificates, SchedulerError
    when the scheduler is not there or does not speak the same protocol.
    """
    from distributed import Client

    host, port, secure = _parts(address)
    if secure:
        _check_certificates(address)
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
    except OSError as error:
        raise SchedulerError(f"the scheduler {address} cannot be reached: {error}") from error
    try:
        client = Client(address, set_as_default=False, timeout=CONNECT_SECONDS)
    except (Exception, asyncio.CancelledError) as error:  # nothing but Dask's own code is in it
        raise SchedulerError(_refusal(address, error, secure)) from error
    with client:
        yield client


def _parts(address: str) -> tuple[str, int, bool]:
    """Host, port, and whether the connection is under TLS."""
    from distributed.comm.addressing import parse_address, parse_host_port

    try:
        scheme, rest = parse_address(address)
        host, port = parse_host_port(rest)
    except ValueError as error:
        raise UsageError(f"run.scheduler: {address}: {error}") from error
    return host, port, scheme in ("tls", "wss")


def _check_certificates(address: str) -> None:
    """UsageError unless Dask's configuration has what a client needs for TLS."""
    from distributed.security import Security

    found = Security()
    names = dict(
        zip(_FILES, (found.tls_ca_file, found.tls_client_cert, found.tls_client_key), strict=True)
    )
    how = (
        f"set {_SETTINGS}.ca-file, .client.cert and .client.key in Dask's configuration, or "
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE, __CLIENT__CERT and __CLIENT__KEY"
    )
    for name, value in names.items():
        if not value and name != "client.key":  # which may be in the file of the certificate
            raise UsageError(f"run.scheduler: {address}: TLS needs {_SETTINGS}.{name}: {how}")
        if value and "\n" not in value and not os.path.isfile(value):
            raise UsageError(f"run.scheduler: {address}: {_SETTINGS}.{name}: no file {value}")
    try:
        found.get_connection_args("client")
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"run.scheduler: {address}: {_SETTINGS}: {error}; {how}") from error


def _refusal(address: str, error: BaseException, secure: bool) -> str:
    text = str(error.__cause__ or error)
    if secure:
        hint = "it may have no TLS (tcp://…), or a certificate of another authority"
    else:
        hint = "under TLS its address begins with tls://"
    return f"the scheduler {address} refuses the connection: {text}; {hint}"
