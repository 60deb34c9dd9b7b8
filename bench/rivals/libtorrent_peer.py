"""One libtorrent client as a process: ``python -m bench.rivals.libtorrent_peer`` with its configuration as JSON.

Prints ``ready``, waits for a line, prints the monotonic time at which it has the whole file, seeds until the next line,
and prints the CPU seconds it took since the first (starting Python is no part of sharing a file).
Nothing leaves 127/8: DHT, local discovery, UPnP, NAT-PMP and uTP are off.
"""

import json
import sys
import time
import warnings

POLL_S = 0.01
CLOSED = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "allow_multiple_connections_per_ip": True,
    "alert_mask": 0,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "rate_limit_ip_overhead": False,
    "unchoke_slots_limit": 8,
}
# What makes it faster here: no limit of slots, deep request queues, large send buffers; and for limited swarms of
# seconds rechoking each second instead of every fifteen.
MODES = {
    "plain": {},
    "fast": {"send_buffer_watermark": 8 << 20, "max_out_request_queue": 1500, "unchoke_slots_limit": -1},
    "tuned": {"unchoke_interval": 1, "optimistic_unchoke_interval": 2, "seed_choking_algorithm": 1,
              "unchoke_slots_limit": 2},
}  # fmt: skip


def main() -> None:
    """Run the client that the argument describes."""
    import libtorrent as lt

    warnings.simplefilter("ignore", DeprecationWarning)
    wanted = json.loads(sys.argv[1])
    settings = CLOSED | {
        "listen_interfaces": f"127.0.0.1:{wanted['port']}",
        "upload_rate_limit": wanted["upload_rate"],
    }
    base = lt.high_performance_seed() if wanted["mode"] == "fast" else {}
    session = lt.session(base | settings | MODES[wanted["mode"]])
    # It exempts local peers from its limits unless a filter puts everybody into the global class.
    everyone = lt.ip_filter()
    everyone.add_rule("0.0.0.0", "255.255.255.255", 1 << lt.session.global_peer_class_id)
    session.set_peer_class_filter(everyone)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(wanted["torrent"])
    params.save_path = wanted["directory"]
    params.flags &= ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    if wanted["seed"]:
        params.flags |= lt.torrent_flags.seed_mode
    print("ready", flush=True)
    sys.stdin.readline()
    cpu_before_s = time.process_time()
    handle = session.add_torrent(params)
    for port in wanted["connect_to"]:
        handle.connect_peer(("127.0.0.1", port))
    while not handle.status().is_seeding:
        time.sleep(POLL_S)
    print(time.monotonic(), flush=True)
    sys.stdin.readline()
    print(time.process_time() - cpu_before_s, flush=True)


if __name__ == "__main__":
    main()
