"""Calls that clients make: errors leave as gRPC has them, whatever raised them."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from grpclib import GRPCError
from grpclib.const import Status

from services.image.buildkit.failures import to_grpc
from shared.errors import DavitError, Internal

log = logging.getLogger(__name__)

# Calls whose errors are shown to whoever builds.
FOR_PEOPLE = ("Solve", "Evaluate")
Service = TypeVar("Service")
Method = Callable[[Service, Any], Coroutine[Any, Any, None]]


def answering(method: Method[Service]) -> Method[Service]:
    """Have a method's errors told to the client, and those that nobody foresaw logged too."""

    @functools.wraps(method)
    async def call(self: Service, stream: Any) -> None:
        try:
            await method(self, stream)
        except GRPCError:
            raise
        except Internal as error:
            log.exception("%s failed", method.__name__)
            raise GRPCError(Status.INTERNAL, str(error)) from error
        except DavitError as error:
            raise to_grpc(error, plain=method.__name__ in FOR_PEOPLE) from error
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("%s failed", method.__name__)
            raise GRPCError(Status.INTERNAL, f"{type(error).__name__}: {error}") from error

    return call
