"""The tracker behind TLS: announces over https, and what is said of a certificate that nobody trusts."""

import ssl
import threading

import pytest
import trustme
from werkzeug.serving import make_server

from minibit.errors import TrackerError
from minibit.peers.announcer import CERTIFICATES_VARIABLE, Announcer
from minibit.wire import RegisterRequest


@pytest.fixture
def authority():
    return trustme.CA()


@pytest.fixture
def encrypted(tracker, authority):
    """Yield the https:// address of the tracker."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = make_server("127.0.0.1", 0, tracker.app, threaded=True, ssl_context=context)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """Have the environment name the authority."""
    bundle = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(bundle))
    monkeypatch.setenv(CERTIFICATES_VARIABLE, str(bundle))


@pytest.mark.usefixtures("trusted")
def test_a_peer_registers_and_asks_over_https(encrypted):
    """Both calls, with a certificate of a private authority."""
    announcer = Announcer(encrypted)
    announcer.register(RegisterRequest("first", 50_001, info_hash="a" * 40))
    announcer.register(RegisterRequest("second", 50_002, info_hash="a" * 40))
    known = announcer.peers("second", info_hash="a" * 40).peers
    announcer.close()
    assert [(entry.peer_id, entry.port) for entry in known] == [("first", 50_001)]


@pytest.mark.usefixtures("trusted")
def test_a_file_is_fetched_by_peers_whose_tracker_is_behind_tls(make_file, encrypted, start_peer, tmp_path):
    """From an address of the peer's own too, so that the tracker sees the one it listens on."""
    source, torrent = make_file()
    start_peer(torrent, source.parent, "seed", tracker_url=encrypted)
    leecher = start_peer(torrent, tmp_path / "copy", "leecher", tracker_url=encrypted, host="127.0.0.2")
    assert leecher.wait_complete(20)
    assert (tmp_path / "copy" / source.name).read_bytes() == source.read_bytes()


def test_a_certificate_that_nobody_trusts_is_one_clear_line(encrypted):
    """It says which setting helps."""
    announcer = Announcer(encrypted)
    with pytest.raises(TrackerError, match=f"no trusted TLS connection .*{CERTIFICATES_VARIABLE}") as caught:
        announcer.peers("first", info_hash=None)
    announcer.close()
    assert "\n" not in str(caught.value)
