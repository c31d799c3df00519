"""The certificate of the report endpoint and of the webhook: served from files, and again whenever these change."""

import asyncio
import logging
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

logger = logging.getLogger(__name__)

CERTIFICATE_FILE, KEY_FILE, CA_FILE = "tls.crt", "tls.key", "ca.crt"
# A Secret's volume changes without a word, and the kubelet itself takes a minute to notice.
FOLLOW_SECONDS = 5.0
# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module has no name for.
_NO_CHECK_TIME = 0x200000
# A handshake of TLS 1.3 is over after two turns of each side.
_TURNS = 4


class CertificateError(Exception):
    """A client would not take the certificate; the message is its complaint."""


@dataclass(frozen=True)
class _Files:
    """What lies in the directory."""

    certificate: bytes
    key: bytes
    authorities: str

    @classmethod
    def read(cls, directory: Path) -> "_Files":
        certificate, key, authorities = (
            (directory / file).read_bytes() for file in (CERTIFICATE_FILE, KEY_FILE, CA_FILE)
        )
        # Words between the certificates may be of any language, and matter to nobody.
        return cls(certificate, key, authorities.decode("ascii", errors="ignore"))


class Certificate:
    """What the operator shows to those who connect, and the authorities that vouch for it.

    A new one in the files takes the place of the one that is served only if clients would take it.
    """

    def __init__(self, directory: Path, host: str) -> None:
        """`directory` has tls.crt, tls.key and ca.crt; `host` is the name under which clients look for the operator.

        Raises OSError where there is nothing that could be served. What clients would not take is served all the same,
        for the operator has more to do than to listen; the log says so.
        """
        self._directory = directory
        self._host = host
        self._complaint: str | None = None
        self._served = _Files.read(directory)
        self._current = self._loaded()
        # Servers keep one context for ever; connections that are made later get what is current then.
        self.context = self._loaded()
        self.context.sni_callback = self._choose
        try:
            self._shown(self._current, self._served)
        except CertificateError as error:
            logger.error("the certificate in %s is of no use: %s", directory, error)

    @property
    def authorities(self) -> str:
        """What clients are to trust, as PEM: ca.crt, which may hold an old authority and a new one."""
        return self._served.authorities

    @property
    def expiry(self) -> float:
        """The end of its validity, in seconds since 1970; 0 where clients would not take it at any time."""
        try:
            return self._shown(self._current, self._served, at_any_time=True)
        except CertificateError:
            return 0

    async def follow(self) -> None:
        """Serve what the files have, whenever that changes, until cancelled."""
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            self.renew()

    def renew(self) -> bool:
        """Serve what the files have now; says whether that is anything new.

        What is of no use is told of once, and tried again: it may be half written, or not valid yet.
        """
        try:
            files = _Files.read(self._directory)
            if files == self._served:
                self._complaint = None
                return False
            fresh = self._loaded()
            until = self._shown(fresh, files)
        except (OSError, CertificateError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                logger.error("the new certificate in %s is not served: %s", self._directory, error)
            return False
        self._served, self._current, self._complaint = files, fresh, None
        end = datetime.fromtimestamp(until, UTC).isoformat()
        logger.info("a new certificate is served; it is valid until %s", end)
        return True

    def _loaded(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._directory / CERTIFICATE_FILE, self._directory / KEY_FILE)
        return context

    def _choose(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._current

    def _shown(self, context: ssl.SSLContext, files: _Files, *, at_any_time: bool = False) -> float:
        """Have a client connect that trusts the authorities; returns until when what it is shown is valid.

        Raises CertificateError. It is none `at_any_time` that the time of a certificate has not come, or is over.
        """
        # In memory. The standard library reads a certificate only where a peer shows it.
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if at_any_time:
            trusting.verify_flags |= _NO_CHECK_TIME
        try:
            trusting.load_verify_locations(cadata=files.authorities)
            to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = trusting.wrap_bio(to_client, to_server, server_hostname=self._host)
            server = context.wrap_bio(to_server, to_client, server_side=True)
            for _ in range(_TURNS):
                for side in (client, server):
                    try:
                        side.do_handshake()
                    except ssl.SSLWantReadError:
                        continue
        except ssl.SSLCertVerificationError as error:
            raise CertificateError(error.verify_message) from error
        except (ssl.SSLError, ValueError) as error:
            raise CertificateError(f"{CA_FILE}: {error}") from error
        shown = client.getpeercert()
        assert shown is not None, "a handshake that did not fail has shown a certificate"
        return ssl.cert_time_to_seconds(str(shown["notAfter"]))
