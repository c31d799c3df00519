"""Until when the operator's certificate is valid, as those see it who check it with its authority."""

import logging
import ssl
from pathlib import Path

from finetune_operator.receiver import CA_FILE, tls_context

logger = logging.getLogger(__name__)

# X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the ssl module has no name for: one that has expired is to be read, too.
_NO_CHECK_TIME = 0x200000
# A handshake of TLS 1.3 is over after two turns of each side.
_TURNS = 4


def expiry(directory: Path) -> float:
    """The end of the validity of tls.crt, in seconds since 1970.

    0 where there is none that could be served, or none that ca.crt vouches for: nobody gets through with it. The log
    says why.
    """
    try:
        return _not_after(directory)
    except (OSError, ssl.SSLError) as error:
        logger.warning("the certificate in %s is of no use: %s", directory, error)
        return 0


def _not_after(directory: Path) -> float:
    # The standard library reads a certificate only where a peer shows it: so one is shown, in memory.
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_flags |= _NO_CHECK_TIME
    trusting.load_verify_locations(directory / CA_FILE)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = tls_context(directory).wrap_bio(to_server, to_client, server_side=True)
    for _ in range(_TURNS):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    shown = client.getpeercert()
    assert shown is not None, "a handshake that did not fail has shown a certificate"
    return ssl.cert_time_to_seconds(str(shown["notAfter"]))
