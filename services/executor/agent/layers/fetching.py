"""One layer on its way from the image service's registry to this node's disk.

It is unpacked while it arrives, by the same child that the image service uses, and verified twice: what arrived by
the blob's digest, what was unpacked by the layer's own. A connection that breaks is continued where it broke, and a
fetch whose agent was killed where that had come to.

Source: OCI distribution-spec, "Pulling blobs"; RFC 9110, "Range Requests".
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
import time
from collections.abc import Generator
from contextlib import closing
from urllib.parse import SplitResult, urlsplit

from services.executor.agent.layers.partial import PartialBlob
from shared.contracts.images import LayerSource, LayerSources
from shared.errors import InvalidArgument, NotFound, Unavailable
from shared.layers.store import LayerStore, StagedLayer

READ_BYTES = 1 << 20
# A minute without a byte is a dead connection.
SILENCE_S = 60.0
ATTEMPTS = 6
FIRST_PAUSE_S = 0.2
MOST_PAUSE_S = 5.0


class Fetch:
    """Fetches one layer. `run` blocks; `cancel` may be called from another thread.

    Attributes:
        arrived: Bytes of the blob so far.
    """

    def __init__(self, store: LayerStore, source: LayerSource, sources: LayerSources) -> None:
        self.source = source
        self.arrived = 0
        self._store = store
        self._sources = sources
        self._cancelled = False
        self._digest = hashlib.sha256()
        self._continued = False

    def cancel(self) -> None:
        self._cancelled = True

    def run(self) -> None:
        """Fetch, verify, unpack and commit the layer. When that fails, at most the beginning of the blob is left.

        Raises:
            NotFound: The registry does not have it.
            Unavailable: The registry cannot be reached, or the disk is full.
            InvalidArgument: What arrived is something else.
        """
        begun = PartialBlob(self._store.root.parent, self.source.blob)
        try:
            try:
                self._attempt(begun)
            except InvalidArgument:
                if not self._continued:
                    raise
                # What an earlier agent left may have been damaged by a power cut.
                begun.discard()
                self._attempt(None)
        except Unavailable:
            begun.keep()
            raise
        finally:
            begun.discard()

    def _attempt(self, begun: PartialBlob | None) -> None:
        self.arrived, self._digest, self._continued = 0, hashlib.sha256(), False
        staged = self._store.stage()
        try:
            for data in begun.pieces() if begun is not None else ():
                self._continued = True
                self._take(data, staged)
            self._receive(staged, begun)
            if f"sha256:{self._digest.hexdigest()}" != self.source.blob:
                raise InvalidArgument(f"layer verification failed for digest {self.source.blob}")
            unpacked = staged.finish()
            if unpacked.diff_id != self.source.diff_id:
                raise InvalidArgument(f"layer {self.source.blob} unpacks to {unpacked.diff_id}")
            self._store.commit(staged, self.source.chain_id, fetched=True)
        except BaseException:
            staged.discard()
            raise

    def _receive(self, staged: StagedLayer, begun: PartialBlob | None) -> None:
        pause_s = FIRST_PAUSE_S
        failures = 0
        while self.arrived < self.source.blob_bytes:
            if self._cancelled:
                raise Unavailable("the node's agent is stopping")
            before = self.arrived
            try:
                with closing(self._pieces()) as pieces:
                    for data in pieces:
                        self._take(data, staged)
                        if begun is not None:
                            begun.write(data)
                        if self._cancelled:
                            break
            except (OSError, http.client.HTTPException) as error:
                failures = 1 if self.arrived > before else failures + 1
                if failures == ATTEMPTS:
                    raise Unavailable(f"layer {self.source.blob} cannot be fetched: {error}") from error
                time.sleep(pause_s)
                pause_s = min(MOST_PAUSE_S, pause_s * 2)

    def _take(self, data: bytes, staged: StagedLayer) -> None:
        self._digest.update(data)
        self.arrived += len(data)
        if self.arrived > self.source.blob_bytes:
            raise InvalidArgument(f"layer {self.source.blob} is larger than {self.source.blob_bytes} bytes")
        if not staged.write(data):
            staged.finish()
            raise InvalidArgument(f"layer {self.source.blob} has data after its end")

    def _pieces(self) -> Generator[bytes, None, None]:
        """The rest of the blob.

        Raises:
            OSError, HTTPException: The connection broke, or the registry has trouble; worth another attempt.
        """
        address = urlsplit(self._sources.url)
        with closing(self._connection(address)) as connection:
            headers = {"Authorization": f"Bearer {self._sources.token}", "Range": f"bytes={self.arrived}-"}
            connection.request("GET", address.path + self.source.blob, headers=headers)
            with closing(connection.getresponse()) as response:
                self._check(response)
                while data := response.read(READ_BYTES):
                    yield data
                left = self.source.blob_bytes - self.arrived
                if left > 0:  # a connection that was closed early ends like one that was not
                    raise http.client.IncompleteRead(b"", left)

    def _connection(self, address: SplitResult) -> http.client.HTTPConnection:
        host, port = address.hostname or "", address.port
        if address.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=SILENCE_S)
        # The registry's certificate came over the bus, which is trusted; names and authorities say nothing more.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=SILENCE_S, context=context)
        connection.connect()
        shown = connection.sock.getpeercert(binary_form=True) or b""
        if hashlib.sha256(shown).hexdigest() != self._sources.fingerprint:
            connection.close()
            raise Unavailable(f"the registry at {address.netloc} shows another certificate than the image service's")
        return connection

    def _check(self, response: http.client.HTTPResponse) -> None:
        if response.status in (200, 206):
            if response.status == 200 and self.arrived:
                raise Unavailable("the registry does not continue downloads")
            return
        if response.status == 404:
            raise NotFound(f"the image service does not have {self.source.blob} any more")
        if response.status in (401, 403):
            raise Unavailable(f"the registry refused this node with status {response.status}")
        raise http.client.HTTPException(f"the registry answered with status {response.status}")
